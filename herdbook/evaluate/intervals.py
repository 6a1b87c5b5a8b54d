"""Figures with their 95 % intervals, and pass@k (§5.1.1).

A share of items uses Wilson's interval, which stays honest near 0 and 1 where the paper's normal one does not;
a mean and a ratio of sums use the bootstrap over items. Every figure is `{"value", "low", "high", "n"}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

Z95 = 1.959963984540054
RESAMPLES = 2000


class Figure(TypedDict):
    """A measured figure, its 95 % interval, and the number of items it rests on."""

    value: float
    low: float
    high: float
    n: int


def proportion(correct: int, total: int) -> Figure:
    """The share `correct / total` with Wilson's 95 % interval; an empty sample says nothing: 0 in [0, 1]."""
    assert 0 <= correct <= total, (correct, total)
    if total == 0:
        return Figure(value=0.0, low=0.0, high=1.0, n=0)
    share, squared = correct / total, Z95 * Z95
    middle = (share + squared / (2 * total)) / (1 + squared / total)
    half = Z95 / (1 + squared / total) * math.sqrt(share * (1 - share) / total + squared / (4 * total * total))
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == total else min(1.0, middle + half)
    return Figure(value=share, low=low, high=high, n=total)


def mean(values: Sequence[float], seed: int = 0) -> Figure:
    """The mean of `values` with a bootstrap 95 % interval over items."""
    return ratio(values, [1.0] * len(values), seed)


def ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Figure:
    """sum(above) / sum(below), with a bootstrap 95 % interval over the items that give one of each."""
    assert len(above) == len(below), (len(above), len(below))
    if not above or sum(below) == 0:
        return Figure(value=0.0, low=0.0, high=0.0, n=0)
    upper, lower = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    generator = np.random.default_rng(seed)
    drawn = []
    rows = max(1, min(RESAMPLES, 4_000_000 // len(upper)))  # bounds the memory of one block of resamples
    for start in range(0, RESAMPLES, rows):
        picks = generator.integers(0, len(upper), size=(min(rows, RESAMPLES - start), len(upper)))
        drawn.append(upper[picks].sum(axis=1) / np.maximum(lower[picks].sum(axis=1), 1e-300))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    value = float(upper.sum() / lower.sum())
    return Figure(value=value, low=min(float(low), value), high=max(float(high), value), n=len(upper))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased chance that at least one of k draws, of `samples` without replacement, is among the `correct`."""
    assert 0 <= correct <= samples and 1 <= k <= samples, (samples, correct, k)
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
