"""Two-step forecasts and mixes, against made-up truth."""

import numpy as np
import pytest

from herdbook.scaling.forecast import Sigmoid, fit_sigmoid, forecast
from herdbook.scaling.mixes import MixLaw, best_mix, fit_mixes
from herdbook.settings import UserError

TRUE = Sigmoid(low=0.25, high=0.95, middle=0.8, steepness=9.0)


def test_sigmoid_is_found() -> None:
    loss = np.linspace(0.4, 1.3, 20)
    found = fit_sigmoid(loss, TRUE.at(loss), chance=0.25)
    assert (found.high, found.middle, found.steepness) == pytest.approx((0.95, 0.8, 9.0), rel=1e-3)


def test_forecasts_hold_the_truth_as_often_as_they_say() -> None:
    """From models up to 1e22 FLOPs to one of 3.8e25, as the paper does for ARC Challenge."""
    g, held = np.random.default_rng(4), {"loss": 0, "score": 0}
    for _ in range(40):
        flops = np.geomspace(6e18, 1e22, 10)
        true = 1.35 - 0.12 * (np.log10(flops) - 18.8)
        others = np.linspace(0.5, 1.35, 14)
        found = forecast(
            flops,
            true + g.normal(0, 0.01, 10),
            3.8e25,
            np.r_[others],
            np.clip(TRUE.at(others) + g.normal(0, 0.01, 14), 0, 1),
            chance=0.25,
            draws=40,
        )
        wanted = 1.35 - 0.12 * (np.log10(3.8e25) - 18.8)
        held["loss"] += found.loss_low <= wanted <= found.loss_high
        held["score"] += found.score_low <= float(TRUE.at(wanted)) <= found.score_high
    assert held["loss"] >= 35 and held["score"] >= 35


def test_bad_scores_are_told() -> None:
    with pytest.raises(UserError, match="at least 3 models"):
        fit_sigmoid(np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    with pytest.raises(UserError, match="model 2: loss 2 and score 80"):
        fit_sigmoid(np.array([1.0, 2.0, 3.0]), np.array([0.1, 80, 0.2]))


def test_mix_law_and_best_mix() -> None:
    g = np.random.default_rng(0)
    true = MixLaw(
        np.array([1.5, 1.2, 0.8]),
        np.array([1.0, 0.7, 0.5]),
        np.array([[-2.0, 0.3, 0.2], [0.1, -1.5, 0], [0, 0.2, -1.0]]),
    )
    shares = g.dirichlet(np.ones(3), 24)
    found = fit_mixes(shares, true.at(shares))
    new = g.dirichlet(np.ones(3), 50)
    assert found.at(new) == pytest.approx(true.at(new), rel=1e-3)
    weights = np.array([0.5, 0.3, 0.2])
    best, loss = best_mix(found, weights)
    every = np.array([(i, j, 60 - i - j) for i in range(61) for j in range(61 - i)]) / 60
    brute = (true.at(every) @ weights).min()
    assert loss <= brute + 1e-4 and float(true.at(best) @ weights) == pytest.approx(brute, abs=1e-3)
    limited, _ = best_mix(found, weights, most=np.array([0.2, 1.0, 1.0]))
    assert limited[0] <= 0.2 + 1e-9 and limited.sum() == pytest.approx(1)
    with pytest.raises(UserError, match="no whole mix"):
        best_mix(found, weights, most=np.array([0.2, 0.2, 0.2]))
    with pytest.raises(UserError, match="mix 2"):
        fit_mixes(np.array([[0.5, 0.5], [0.5, 0.6], [1, 0]]), np.ones((3, 2)))
