"""What a model's own answers say about what it knows (§4.3.6, steps 3 to 6), as figures and as a decision.

A question is *refused* when the model's answers are consistently informative and wrong, and *known* when most of them
are right; what lies between teaches nothing clear and is left out. Where the truth is known, thresholds are measured:
one half of a question's answers decides, the other half tells what the decision costs.
Letters: Q questions, K answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 5
THRESHOLDS = (0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Probed:
    """The answers to one question and what they were judged to be."""

    answers: tuple[str, ...]
    right: tuple[bool, ...]
    informative: tuple[bool, ...]
    """Whether each commits itself to an answer; a right one always does."""

    group: str = ""
    """How often the fact was told, where that is known."""

    @property
    def wrong_share(self) -> float:
        """Share of the answers that are informative and wrong."""
        return wrong_share(self.right, self.informative)

    @property
    def right_share(self) -> float:
        """Share of right answers."""
        return sum(self.right) / len(self.right) if self.right else 0.0

    @property
    def commonest(self) -> tuple[int, float]:
        """The place of the first of the commonest answers, and the share of the answers that say the same."""
        said = [plain(answer) for answer in self.answers]
        word, times = Counter(said).most_common(1)[0]
        return said.index(word), times / len(said)


def wrong_share(right: Sequence[bool], informative: Sequence[bool]) -> float:
    """Share that is informative and wrong."""
    return sum(told and not good for good, told in zip(right, informative)) / len(right) if right else 0.0


def plain(answer: str) -> str:
    """An answer's words without case and marks, to tell whether two say the same."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", answer).casefold()))


def verdict(one: Probed, refuse_from: float, known_from: float) -> str:
    """`refuse`, `known` or `between`."""
    if one.answers and one.wrong_share >= refuse_from:
        return "refuse"
    return "known" if one.answers and one.right_share >= known_from else "between"


def figures(probed: Sequence[Probed], refuse_from: float, known_from: float) -> dict[str, Any]:
    """Everything measured: per group, calibration of the model's consistency, and what thresholds cost."""
    groups = sorted({one.group for one in probed}, key=lambda name: (len(name), name))
    of = {name: [one for one in probed if one.group == name] for name in groups}
    return {
        "groups": {name or "all": _group(some, refuse_from, known_from) for name, some in of.items()},
        "calibration": calibration(probed),
        "thresholds": {
            f"{threshold:g}": {name or "all": price(some, threshold) for name, some in of.items()}
            for threshold in THRESHOLDS
        },
    }


def _group(probed: Sequence[Probed], refuse_from: float, known_from: float) -> dict[str, float]:
    verdicts = Counter(verdict(one, refuse_from, known_from) for one in probed)
    count = len(probed)
    return {
        "questions": count,
        "right": round(sum(one.right_share for one in probed) / count, 4),
        "consistency": round(sum(one.commonest[1] for one in probed) / count, 4),
        "informative": round(sum(sum(one.informative) / len(one.informative) for one in probed) / count, 4),
        "refused": round(verdicts["refuse"] / count, 4),
        "known": round(verdicts["known"] / count, 4),
    }


def calibration(probed: Sequence[Probed]) -> dict[str, Any]:
    """How often the commonest answer is right, by the share of answers that agree with it; and the expected error.

    The error is that of Guo and others (2017): the mean distance of share and accuracy, weighted by questions.
    """
    share = np.array([one.commonest[1] for one in probed])
    right = np.array([one.right[one.commonest[0]] for one in probed], dtype=np.float64)
    place = np.minimum((share * BINS - 1e-9).astype(int), BINS - 1)
    bins, error = {}, 0.0
    for number in range(BINS):
        inside = place == number
        if inside.any():
            told = {"questions": int(inside.sum()), "agreement": float(share[inside].mean())}
            bins[f"{(number + 1) / BINS:g}"] = {**told, "right": float(right[inside].mean())}
            error += inside.sum() / len(probed) * abs(share[inside].mean() - right[inside].mean())
    return {"bins": bins, "expected_error": float(error)}


def price(probed: Sequence[Probed], threshold: float) -> dict[str, float]:
    """What refusing from this share of wrong answers on would do, decided by one half of them, told by the other.

    `refused`: share of the questions; `right_lost` and `wrong_avoided`: share of all right and of all wrong answers
    of the other half that a refusal would take away.
    """
    refused = right = wrong = right_lost = wrong_avoided = 0.0
    for one in probed:
        says_no = wrong_share(one.right[::2], one.informative[::2]) >= threshold
        good = sum(one.right[1::2])
        bad = sum(told and not ok for ok, told in zip(one.right[1::2], one.informative[1::2]))
        right, wrong, refused = right + good, wrong + bad, refused + says_no
        right_lost, wrong_avoided = right_lost + good * says_no, wrong_avoided + bad * says_no
    return {
        "refused": round(refused / max(len(probed), 1), 4),
        "right_lost": round(right_lost / max(right, 1), 4),
        "wrong_avoided": round(wrong_avoided / max(wrong, 1), 4),
    }
