"""Schedules against their closed forms."""

from __future__ import annotations

import math

import pytest

from herdbook.train.schedule import learning_rate_share, momentum
from herdbook.train.settings import TrainSettings


def shares(**changes: object) -> list[float]:
    settings = TrainSettings.model_validate({"steps": 100, "warmup": 10, **changes})
    return [learning_rate_share(step, settings) for step in range(settings.total_steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_warm_up_rises_linearly_to_the_peak_and_nothing_exceeds_it(schedule: str) -> None:
    found = shares(schedule=schedule, decay=0.5)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(found) == 1.0 and min(found) > 0
    assert sorted(found[10:], reverse=True) == found[10:]


def test_cosine_is_half_a_cosine_to_the_floor() -> None:
    found = shares(schedule="cosine", floor=0.1)
    assert found[10:] == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * t / 90)) for t in range(90)])


def test_linear_would_reach_zero_at_the_step_after_the_last() -> None:
    assert shares(schedule="linear")[10:] == pytest.approx([(90 - t) / 90 for t in range(90)])


def test_wsd_is_level_and_then_falls_over_its_share_of_the_steps() -> None:
    found = shares(schedule="wsd", decay=0.2, floor=0.5)
    assert found[10:81] == [1.0] * 71
    assert found[80:] == pytest.approx([1 - 0.5 * t / 20 for t in range(20)])


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert shares(schedule="cosine", warmup=0)[0] == 1.0


def test_the_papers_schedule_ends_at_a_hundredth() -> None:
    settings = TrainSettings(steps=1_200_000, warmup=8000, schedule="cosine", floor=0.01, peak_lr=8e-5)
    assert learning_rate_share(8000, settings) == 1.0
    assert learning_rate_share(1_199_999, settings) == pytest.approx(0.01, rel=1e-6)


def test_momentum_rises_to_its_final_value() -> None:
    assert [momentum(step, 0.95) for step in (0, 150, 300, 9999)] == pytest.approx([0.85, 0.90, 0.95, 0.95])
    assert momentum(0, 0.5) == 0.5


def test_a_budget_of_tokens_becomes_steps_rounded_up() -> None:
    assert TrainSettings(tokens=10_001, rows=10, length=100, accumulate=2).total_steps == 6


@pytest.mark.parametrize("given", [{}, {"steps": 1, "tokens": 1}])
def test_a_run_needs_exactly_one_end(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="steps or tokens"):
        TrainSettings(**given)
