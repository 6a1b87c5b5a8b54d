"""How good a classifier is on documents it has not seen, with 95 % intervals: accuracy, AUC.

Accuracy has Wilson's interval. AUC has DeLong's: each document's placement is the share of the other class it is ranked
above, and the variance of the mean placements is that of the AUC; on the logit scale, so that it stays in [0, 1].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import rankdata

Z95 = 1.959963984540054
Figure = dict[str, float]


def share(hits: int, total: int) -> Figure:
    """`hits` out of `total` with Wilson's 95 % interval."""
    value, squared = hits / total, Z95 * Z95 / total
    middle = (value + squared / 2) / (1 + squared)
    half = Z95 * math.sqrt(value * (1 - value) / total + squared / (4 * total)) / (1 + squared)
    return {"value": value, "low": max(0.0, middle - half), "high": min(1.0, middle + half), "n": total}


def auc(
    scores: np.ndarray,  # (N,)
    good: np.ndarray,  # (N,) bool
) -> Figure | None:
    """Chance that a good document has the higher score, ties counting half; None where there are not both kinds."""
    above, below = scores[good], scores[~good]
    if not len(above) or not len(below):
        return None
    ranks = rankdata(np.concatenate([above, below]))
    over = (ranks[: len(above)] - rankdata(above)) / len(below)  # placements of the good ones
    under = 1 - (ranks[len(above) :] - rankdata(below)) / len(above)
    value = float(over.mean())
    error = math.sqrt(_variance(over) / len(over) + _variance(under) / len(under))
    low, high = _interval(value, error, min(len(above), len(below)))
    return {"value": value, "low": low, "high": high, "n": len(scores)}


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.25


def _interval(value: float, error: float, fewest: int) -> tuple[float, float]:
    """On the logit scale; where the classes are parted altogether, Wilson's for the smaller of them."""
    if not 0 < value < 1 or not error:
        found = share(round(value * fewest), fewest)
        return min(found["low"], value), max(found["high"], value)
    middle, half = math.log(value / (1 - value)), Z95 * error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-min(max(side, -700), 700))) for side in (middle - half, middle + half))
    return low, high


def judge(probabilities: np.ndarray, truth: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Figures of predicted probabilities (N, C) against true classes (N,).

    Of two classes the second is the good one. `guess` is the accuracy of always saying the most frequent class.
    """
    said = probabilities.argmax(axis=1)
    counts = np.bincount(truth, minlength=len(classes))
    figures: dict[str, Any] = {
        "accuracy": share(int((said == truth).sum()), len(truth)),
        "guess": float(counts.max() / len(truth)),
    }
    if len(classes) == 2:
        found = auc(probabilities[:, 1], truth == 1)
        figures |= {"auc": found} if found else {}
    if classes != ["bad", "good"]:
        figures["recall"] = {
            name: share(int((said[truth == index] == index).sum()), int(counts[index]))
            for index, name in enumerate(classes)
            if counts[index]
        }
    return figures
