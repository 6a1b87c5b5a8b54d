"""The compute-optimal model by isoFLOP curves (§3.2.1): a parabola per budget, and a power law through their minima.

Of each compute budget several sizes are trained; loss over the logarithm of tokens is nearly a parabola, whose lowest
point is the optimal number of tokens for that budget. N*(C) = A C^alpha is the line through these points in log-log.
Intervals are from a bootstrap of residuals. Its draws carry the doubt about the noise's own size, so they are
as wide as Student's t would have them where runs are few. Letters: B budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from herdbook.scaling.runs import Runs
from herdbook.settings import UserError

SIZES = 4  # a parabola has three constants, so with fewer nothing is left to tell the noise


@dataclass(frozen=True)
class Power:
    """y = coefficient * C^exponent, with draws of both for intervals."""

    coefficient: float
    exponent: float
    draws: np.ndarray  # (draws, 2): log coefficient, exponent

    def at(self, flops: float) -> float:
        """The value at so many FLOPs."""
        return float(self.coefficient * flops**self.exponent)

    def interval(self, flops: float | None = None) -> tuple[float, float]:
        """95 % interval of the exponent, or of the value at so many FLOPs."""
        values = self.draws[:, 1] if flops is None else self.draws[:, 0] + self.draws[:, 1] * np.log(flops)
        low, high = np.quantile(values, [0.025, 0.975])
        return (float(low), float(high)) if flops is None else (float(np.exp(low)), float(np.exp(high)))


@dataclass(frozen=True)
class Curve:
    """One budget's parabola."""

    flops: float
    runs: np.ndarray  # indices
    curvature: float
    tokens: float
    """Tokens at its minimum."""

    parameters: float
    """Size there, by the line through the budget's own sizes and tokens."""

    loss: float
    """Loss there."""

    middle: float
    """Logarithm of tokens from which the parabola is reckoned, for plots."""

    coefficients: np.ndarray  # (3,) of (log tokens - middle), highest power first

    def at(self, tokens: np.ndarray) -> np.ndarray:
        """The parabola's loss at so many tokens."""
        return np.polyval(self.coefficients, np.log(tokens) - self.middle)


@dataclass(frozen=True)
class IsoFlop:
    """The curves of all budgets and the laws through their minima."""

    curves: list[Curve]
    tokens: Power
    """Optimal tokens by FLOPs; the paper has exponent .537 and coefficient .299."""

    parameters: Power
    """Optimal parameters by FLOPs; with C = 6 N D its exponent is 1 minus that of tokens, else by the sizes trained."""

    noise: float
    """Standard deviation of a run's loss about its parabola."""


def isoflop(runs: Runs, draws: int = 1000, seed: int = 1) -> IsoFlop:
    """Fit curves and laws.

    Raises UserError when there are fewer than two budgets with at least four sizes each, when a curve bends downwards
    or has its minimum outside the sizes trained; it says which sizes to add.
    """
    budgets = [chosen for chosen in runs.budgets() if sizes_of(runs, chosen) >= SIZES]
    if len(budgets) < 2:
        found = ", ".join(
            f"{sizes_of(runs, chosen)} at {runs.flops[chosen].mean():.3g}" for chosen in runs.budgets()[:8]
        )
        raise UserError(
            f"isoFLOP curves need at least 2 compute budgets with {SIZES} different sizes each; among {len(runs)} runs "
            f"there are {len(budgets)} such budgets (sizes: {found} FLOPs); train more sizes of these budgets"
        )
    designs = [_design(runs, chosen) for chosen in budgets]
    curves = [_curve(runs, chosen, *design) for chosen, design in zip(budgets, designs, strict=True)]
    flops = np.array([curve.flops for curve in curves])
    lowest = np.log([curve.tokens for curve in curves])
    drawn, noise = _drawn_minima(runs, budgets, designs, draws, np.random.default_rng(seed))
    sigma = drawn.std(axis=1).clip(1e-9)
    slopes = np.array([_line(np.log(flops), row, sigma) for row in drawn.T])
    intercept, slope = _line(np.log(flops), lowest, sigma)
    tokens = Power(float(np.exp(intercept)), float(slope), slopes)
    sizes = [_sizes_by_tokens(runs, chosen) for chosen in budgets]
    drawn_sizes = np.array([lift + slope * row for (lift, slope), row in zip(sizes, drawn, strict=True)])
    size_slopes = np.array([_line(np.log(flops), row, sigma) for row in drawn_sizes.T])
    intercept, slope = _line(np.log(flops), np.log([curve.parameters for curve in curves]), sigma)
    parameters = Power(float(np.exp(intercept)), float(slope), size_slopes)
    return IsoFlop(curves, tokens, parameters, noise)


def sizes_of(runs: Runs, chosen: np.ndarray) -> int:
    """How many sizes these runs have; a size trained twice, with other seeds, counts once."""
    return len(np.unique(np.round(np.log(runs.parameters[chosen]), 6)))


def _sizes_by_tokens(runs: Runs, chosen: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the logarithm of size over that of tokens within a budget.

    With C = 6 N D the slope is -1; attention, which counts more in small models, makes it a little steeper.
    """
    slope, intercept = np.polyfit(np.log(runs.tokens[chosen]), np.log(runs.parameters[chosen]), 1)
    return float(intercept), float(slope)


def _design(runs: Runs, chosen: np.ndarray) -> tuple[np.ndarray, float]:
    """Powers of the centred logarithm of tokens, (n, 3), and the centre."""
    x = np.log(runs.tokens[chosen])
    middle = float((x.min() + x.max()) / 2)
    return np.vander(x - middle, 3), middle


def _curve(runs: Runs, chosen: np.ndarray, design: np.ndarray, middle: float) -> Curve:
    a, b, c = coefficients = np.linalg.lstsq(design, runs.loss[chosen], rcond=None)[0]
    flops = float(np.exp(np.log(runs.flops[chosen]).mean()))
    named = f"the budget of {flops:.3g} FLOPs ({sizes_of(runs, chosen)} sizes)"
    if a <= 0:
        raise UserError(
            f"{named}: loss over tokens does not bend upwards, so it has no minimum; add sizes at both ends"
        )
    x = -b / (2 * a) + middle
    few, many = np.log(runs.tokens[chosen].min()), np.log(runs.tokens[chosen].max())
    if not few <= x <= many:
        smallest, largest = runs.parameters[chosen].min(), runs.parameters[chosen].max()
        lift, slope = _sizes_by_tokens(runs, chosen)
        wanted = np.exp(lift + slope * x)
        side = f"smaller than {smallest:.3g}" if x > many else f"larger than {largest:.3g}"
        raise UserError(
            f"{named}: the best size lies outside those trained; add sizes {side} parameters, up to about {wanted:.3g} "
            "and beyond"
        )
    lift, slope = _sizes_by_tokens(runs, chosen)
    size = float(np.exp(lift + slope * x))
    return Curve(flops, chosen, float(a), float(np.exp(x)), size, float(c - b * b / (4 * a)), middle, coefficients)


def _drawn_minima(
    runs: Runs,
    budgets: Sequence[np.ndarray],
    designs: Sequence[tuple[np.ndarray, float]],
    draws: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Drawn logarithms of optimal tokens (B, draws), and the noise's standard deviation."""
    hats = [design @ np.linalg.pinv(design) for design, _ in designs]
    fitted = [hat @ runs.loss[chosen] for hat, chosen in zip(hats, budgets, strict=True)]
    left = [runs.loss[chosen] - one for chosen, one in zip(budgets, fitted, strict=True)]
    freedom = sum(len(chosen) - 3 for chosen in budgets)
    noise = float(np.sqrt(sum(float(one @ one) for one in left) / freedom))
    # All residuals as if of one size: a fit takes away its share of the noise, by its hat matrix's diagonal.
    shares = [np.sqrt(np.maximum(1 - np.diag(hat), 1e-6)) for hat in hats]
    pool = np.concatenate([one / share for one, share in zip(left, shares, strict=True)])
    pool = (pool - pool.mean()) * (noise / max(float(pool.std()), 1e-300))
    widths = np.sqrt(freedom / generator.chisquare(freedom, draws))
    drawn = []
    for (design, middle), one in zip(designs, fitted, strict=True):
        noises = generator.choice(pool, (draws, len(one))) * widths[:, None]
        coefficients = np.linalg.pinv(design) @ (one[:, None] + noises.T)
        a, b = np.maximum(coefficients[0], 1e-3 * abs(np.linalg.pinv(design) @ one)[0]), coefficients[1]
        reach = np.abs(design[:, 1]).max() * 2  # a curve that hardly bends has its minimum anywhere
        drawn.append(np.clip(-b / (2 * a), -reach, reach) + middle)
    return np.array(drawn), noise


def _line(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the weighted least squares line."""
    weights = 1 / sigma**2
    mean_x, mean_y = float(np.average(x, weights=weights)), float(np.average(y, weights=weights))
    slope = float((weights * (x - mean_x) * (y - mean_y)).sum() / (weights * (x - mean_x) ** 2).sum())
    return mean_y - slope * mean_x, slope


def envelope_of(runs: Runs) -> tuple[float, float]:
    """The first approach on finished runs: the curve of a size is made of its runs of several budgets.

    These are better curves than one run's losses on the way, whose learning rate has not yet come down. Raises
    UserError when fewer than three sizes were trained for several budgets, and as `envelope`.
    """
    sizes, flops, losses = [], [], []
    for size in np.unique(runs.parameters):
        own = np.flatnonzero(runs.parameters == size)
        if len(own) > 1:
            order = own[np.argsort(runs.flops[own], kind="stable")]
            sizes.append(size)
            flops.append(runs.flops[order])
            losses.append(runs.loss[order])
    if len(sizes) < 3:
        raise UserError(
            f"the envelope needs at least three sizes trained for several budgets each; there are {len(sizes)}"
        )
    return envelope(flops, losses, np.array(sizes))


def envelope(
    flops: Sequence[np.ndarray], losses: Sequence[np.ndarray], parameters: np.ndarray, points: int = 100
) -> tuple[float, float]:
    """Hoffmann's first approach: coefficient and exponent of the best size as a power of compute.

    `flops` and `losses` are training curves, ascending in FLOPs, one for each of `parameters`; at each amount of
    compute the lowest curve's size wins. Raises UserError when fewer than three sizes ever win.
    """
    start = max(float(one[0]) for one in flops)
    end = min(float(one[-1]) for one in flops)
    start = min(start, end / 10)
    grid = np.geomspace(start, max(float(one[-1]) for one in flops), points)
    table = np.array(
        [
            np.interp(np.log(grid), np.log(f), loss, left=np.inf, right=np.inf)
            for f, loss in zip(flops, losses, strict=True)
        ]
    )
    winners = parameters[np.argmin(table, axis=0)]
    told = np.isfinite(table.min(axis=0))
    if len(np.unique(winners[told])) < 3:
        raise UserError("fewer than three sizes are ever the best of the training curves; add sizes, or longer runs")
    # One point per winner, in the middle of where it wins: a size wins over a stretch only because sizes are few.
    sizes = np.unique(winners[told])
    places = np.array([np.log(grid[told][winners[told] == size]).mean() for size in sizes])
    inner = slice(1, -1) if len(sizes) > 4 else slice(None)  # the first and last win for want of others
    intercept, slope = _line(places[inner], np.log(sizes[inner]), np.ones(len(sizes[inner])))
    return float(np.exp(intercept)), slope
