"""Intervals and pass@k against scipy, closed forms and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from herdbook.evaluate.intervals import mean, pass_at_k, proportion, ratio


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (3, 7), (7, 7), (540, 600), (1, 1), (0, 14042), (7021, 14042)])
def test_proportion_is_scipys_wilson_interval(correct: int, total: int) -> None:
    figure = proportion(correct, total)
    expected = scipy.stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert figure["value"] == correct / total and figure["n"] == total
    assert figure["low"] == pytest.approx(expected.low, abs=1e-12)
    assert figure["high"] == pytest.approx(expected.high, abs=1e-12)


def test_nothing_asked_says_nothing() -> None:
    assert proportion(0, 0) == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(5, 2, 2000)
    figure = mean(values.tolist())
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert figure["value"] == pytest.approx(values.mean())
    assert figure["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert figure["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_of_a_ratio_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        sizes = generator.integers(10, 1000, 60).astype(float)
        costs = sizes * generator.normal(2.0, 0.3, 60)
        figure = ratio(costs.tolist(), sizes.tolist(), trial)
        covered += figure["low"] <= 2.0 <= figure["high"]
    assert 180 <= covered <= 199


def test_a_ratio_weighs_by_size_not_by_item() -> None:
    assert ratio([1.0, 300.0], [1.0, 100.0])["value"] == pytest.approx(301 / 101)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(samples: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    draws = list(itertools.combinations(range(samples), k))
    expected = sum(any(index < correct for index in draw) for draw in draws) / len(draws)
    assert pass_at_k(samples, correct, k) == pytest.approx(expected)
