"""Figures with their intervals, and how alike two texts are: the arithmetic of the audit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Figure = dict[str, float]
Z = 1.959964  # a 95 % interval
WORD = re.compile(r"\w+")


def share(hits: int, total: int) -> Figure | None:
    """`hits` out of `total` with Wilson's 95 % interval; None where there is nothing to count."""
    if not total:
        return None
    value, spread = hits / total, Z * Z / total
    middle = (value + spread / 2) / (1 + spread)
    half = Z * math.sqrt(value * (1 - value) / total + spread / (4 * total)) / (1 + spread)
    return {"value": value, "low": max(0.0, middle - half), "high": min(1.0, middle + half), "n": total}


def mean(values: Sequence[float]) -> Figure | None:
    """The mean with its 95 % interval by the normal law; None without values."""
    if not values:
        return None
    middle = math.fsum(values) / len(values)
    variance = math.fsum((value - middle) ** 2 for value in values) / max(1, len(values) - 1)
    half = Z * math.sqrt(variance / len(values))
    return {"value": middle, "low": middle - half, "high": middle + half, "n": len(values)}


@dataclass(frozen=True)
class Overlap:
    """Words two texts have in common, as multisets; all three in [0, 1]."""

    precision: float
    recall: float
    f1: float


def overlap(found: str, truth: str) -> Overlap:
    """How the bag of words of `found` compares with that of `truth`; two empty texts agree."""
    ours, true = Counter(WORD.findall(found)), Counter(WORD.findall(truth))
    common, ours_total, true_total = (ours & true).total(), ours.total(), true.total()
    if not ours_total and not true_total:
        return Overlap(1.0, 1.0, 1.0)
    precision = common / ours_total if ours_total else 0.0
    recall = common / true_total if true_total else 0.0
    return Overlap(precision, recall, 2 * common / (ours_total + true_total))


def spaced_words(text: str) -> str:
    """The words of a text with one space around each, so that `in` finds whole words in order."""
    return f" {' '.join(WORD.findall(text))} "


def foreign_words_right(found: str, truth: str) -> bool:
    """Whether nine tenths of the words beyond ASCII (of all words, where there are none) came through."""
    words = Counter(WORD.findall(truth))
    chosen = Counter({word: count for word, count in words.items() if not word.isascii()}) or words
    return (chosen & Counter(WORD.findall(found))).total() >= 0.9 * chosen.total()
