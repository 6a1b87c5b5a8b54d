"""What a model will score before it is trained, in two steps (§3.2.1).

First the loss on a benchmark's right answers from compute, a line in the logarithm of FLOPs through compute-optimal
models; then the score from that loss, a sigmoid between chance and a ceiling, which may also be fitted to other models
(over-trained ones, earlier ones). Intervals come from drawing models anew, both fits at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from herdbook.settings import UserError

LEAST = 3


@dataclass(frozen=True)
class Sigmoid:
    """score = low + (high - low) / (1 + exp(steepness (loss - middle)))."""

    low: float
    """Score of a model that knows nothing: chance."""

    high: float
    middle: float
    steepness: float

    def at(self, loss: np.ndarray | float) -> np.ndarray:
        """Scores at these losses."""
        with np.errstate(over="ignore"):
            rise = 1.0 / (1.0 + np.exp(self.steepness * (np.asarray(loss, np.float64) - self.middle)))
        return self.low + (self.high - self.low) * rise


@dataclass(frozen=True)
class Forecast:
    """A forecast with its 95 % interval."""

    loss: float
    loss_low: float
    loss_high: float
    score: float
    score_low: float
    score_high: float


def fit_sigmoid(
    loss: np.ndarray,  # (M,) nats or normalised nats of the right answer
    score: np.ndarray,  # (M,) from 0 to 1
    chance: float = 0.0,
    ceiling: float | None = None,  # fitted, at most 1, when not given
    start: Sigmoid | None = None,  # searched from here alone, when given
) -> Sigmoid:
    """The sigmoid of least squares; UserError for fewer than three models or scores outside 0 to 1."""
    loss, score = np.asarray(loss, np.float64), np.asarray(score, np.float64)
    _check(loss, score)
    if not 0 <= chance < 1:
        raise UserError(f"chance is {chance}; it is a share of right answers, at least 0 and below 1")
    width = max(float(np.ptp(loss)), 1e-6)
    free = ceiling is None  # x is middle, log of steepness, and the ceiling where it is free

    def of(x: np.ndarray) -> Sigmoid:
        return Sigmoid(chance, float(x[2]) if ceiling is None else ceiling, float(x[0]), float(np.exp(x[1])))

    def residuals(x: np.ndarray) -> np.ndarray:
        return of(x).at(loss) - score

    def slopes(x: np.ndarray) -> np.ndarray:
        one = of(x)
        rise = (one.at(loss) - chance) / (one.high - chance)
        steep = (one.high - chance) * rise * (1 - rise) * one.steepness
        return np.column_stack([steep, -steep * (loss - one.middle), *([rise] if free else [])])

    top = min(1.0, max(float(score.max()), 0.9, chance + 1e-3))
    lows = np.array([loss.min() - 3 * width, np.log(0.1 / width), *([chance + 1e-4] if free else [])])
    highs = np.array([loss.max() + 3 * width, np.log(200 / width), *([1.0] if free else [])])
    if start is not None:
        starts = [[start.middle, float(np.log(start.steepness)), start.high]]
    else:
        middles = np.quantile(loss, [0.1, 0.3, 0.5, 0.7, 0.9])
        starts = [[float(m), float(np.log(s / width)), top] for m in middles for s in (2, 10)]
    best = None
    for one in starts:
        begun = np.clip(np.array(one[: 2 + free]), lows + 1e-9, highs - 1e-9)
        found = least_squares(residuals, begun, slopes, bounds=(lows, highs))
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return of(best.x)


def forecast(
    flops: np.ndarray,  # (O,) of compute-optimal models
    loss: np.ndarray,  # (O,) their loss on right answers
    target_flops: float,
    known_loss: np.ndarray,  # (M,) loss of all models whose score is known
    known_score: np.ndarray,  # (M,) 0 to 1
    *,
    chance: float = 0.0,
    ceiling: float | None = None,
    draws: int = 200,
    seed: int = 1,
) -> Forecast:
    """Loss and score of a compute-optimal model of `target_flops`.

    Raises UserError for fewer than three models in either step.
    """
    flops, loss = np.asarray(flops, np.float64), np.asarray(loss, np.float64)
    known_loss, known_score = np.asarray(known_loss, np.float64), np.asarray(known_score, np.float64)
    if len(flops) < LEAST:
        raise UserError(f"a forecast needs {LEAST} compute-optimal models, and there are {len(flops)}")
    _check(known_loss, known_score)
    generator = np.random.default_rng(seed)

    def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        slope, intercept = np.polyfit(x, y, 1)
        return float(slope), float(intercept)

    x, target = np.log10(flops), float(np.log10(target_flops))
    slope, intercept = line(x, loss)
    straight = slope * target + intercept
    left = loss - (slope * x + intercept)
    freedom = max(len(x) - 2, 1)
    noise = float(np.sqrt((left @ left) / freedom))
    sigmoid = fit_sigmoid(known_loss, known_score, chance, ceiling)
    astray = known_score - sigmoid.at(known_loss)
    spread = float(np.sqrt((astray @ astray) / max(len(astray) - (2 if ceiling is not None else 3), 1)))
    losses, scores = [], []
    for _ in range(draws):
        width = np.sqrt(freedom / generator.chisquare(freedom))
        one = line(x, slope * x + intercept + generator.normal(0, noise * width, len(x)))
        losses.append(one[0] * target + one[1] + generator.normal(0, noise * width))
        chosen = generator.integers(0, len(known_loss), len(known_loss))
        drawn = sigmoid
        if len(np.unique(known_loss[chosen])) >= LEAST:
            drawn = fit_sigmoid(known_loss[chosen], known_score[chosen], chance, ceiling, sigmoid)
        scores.append(float(drawn.at(losses[-1])) + generator.normal(0, spread))
    (loss_low, loss_high), (low, high) = (np.quantile(values, [0.025, 0.975]) for values in (losses, scores))
    return Forecast(
        straight,
        float(loss_low),
        float(loss_high),
        float(sigmoid.at(straight)),
        max(0.0, float(low)),
        min(1.0, float(high)),
    )


def _check(loss: np.ndarray, score: np.ndarray) -> None:
    if len(loss) != len(score) or len(loss) < LEAST:
        raise UserError(f"a score's sigmoid needs at least {LEAST} models with loss and score; there are {len(score)}")
    wrong = np.flatnonzero(~(np.isfinite(loss) & (score >= 0) & (score <= 1)))
    if len(wrong):
        at = wrong[0]
        raise UserError(f"model {at + 1}: loss {loss[at]:g} and score {score[at]:g}; scores are shares from 0 to 1")
