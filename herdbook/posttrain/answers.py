"""What reward models and preferences read: examples from preferences, held-out ones apart, and what was left out."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from herdbook.console import log
from herdbook.posttrain.preference_batches import AnswerBatches, Example, encode_all, with_mismatched
from herdbook.posttrain.preference_settings import AnswersSettings
from herdbook.posttrain.preferences import EDITED, Preference, read_preferences
from herdbook.settings import UserError
from herdbook.tokens.texts import is_heldout
from herdbook.tokens.tokenizer import Tokenizer

S = TypeVar("S", bound=AnswersSettings)


@dataclasses.dataclass
class Answers:
    """Examples to train on and to judge by, and the figures of reading them."""

    train: list[Example]
    heldout: list[Example]
    figures: dict[str, Any]


def read_answers(
    settings: AnswersSettings, preferences: Sequence[Path], tokenizer: Tokenizer, unpaired: bool = False
) -> Answers:
    """The preferences of all entries as examples of at most `settings.length` tokens.

    With `unpaired` (KTO) answers need no rival, and each example has an answer to another prompt as well. Figures:
    `kept`, `heldout`, and how many were `dropped` for what reason. UserError names a bad row, and when none is left.
    """
    dropped: Counter[str] = Counter()
    kept = []
    for one in read_preferences(preferences, settings.strengths, dropped):
        one = one if settings.edited else without_edited(one)
        if not unpaired and len(set(one.ranks)) < 2:
            dropped["unpaired"] += 1
        else:
            kept.append(one)
    examples = encode_all(tokenizer, kept, settings.length, dropped)
    if unpaired:
        examples = with_mismatched(examples, settings.seed)
        fitting = [example for example in examples if example.size <= settings.length]
        dropped["too_long"] += len(examples) - len(fitting)
        examples = fitting
    parts: list[list[Example]] = [[], []]
    for example in examples:
        assert example.source is not None
        parts[is_heldout(example.source.key, settings.heldout)].append(example)
    figures = {"kept": len(examples), "heldout": len(parts[1]), "dropped": dict(sorted(dropped.items()))}
    log("preferences", kept=len(examples), heldout=len(parts[1]), **dropped)
    if not parts[0]:
        why = ", ".join(f"{count} {name}" for name, count in dropped.items()) or "all are held out"
        raise UserError(f"{', '.join(map(str, preferences))}: no preference is left to train on ({why})")
    return Answers(parts[0], parts[1], figures)


def without_edited(one: Preference) -> Preference:
    """The preference without answers that an annotator mended."""
    kept = [pair for pair in zip(one.answers, one.ranks, strict=True) if pair[1] != EDITED]
    return dataclasses.replace(one, answers=tuple(answer for answer, _ in kept), ranks=tuple(rank for _, rank in kept))


def longest_of(answers: Answers) -> int:
    """Tokens of the longest prompt with one of its answers: what a model must hold."""
    return max(example.longest for example in (*answers.train, *answers.heldout))


def batches_of(settings: AnswersSettings, examples: list[Example]) -> AnswerBatches:
    """Batches of a run, or of what it is judged by."""
    return AnswerBatches(examples, settings.length, settings.rows, settings.seed)


def resolved(settings: S, batches: AnswerBatches) -> S:
    """The settings with `steps`, and at most a tenth of them as warm-up, where the data says how long the run is."""
    passes = settings.passes
    if passes is None:
        return settings
    steps = max(1, math.ceil(passes * batches.table.count / (settings.rows * settings.accumulate) - 1e-9))
    # Preferences are few: a warm-up as long as the run would be one without learning.
    return settings.model_copy(update={"steps": steps, "epochs": None, "warmup": min(settings.warmup, steps // 10)})
