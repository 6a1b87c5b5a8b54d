"""Phases within a run: borders against closed forms, the paper's schedule, batches against plain ones of each phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from herdbook.recipe import read_recipe
from herdbook.tokens.batches import PackedBatches
from herdbook.tokens.shards import TokenSet, TokenSets
from herdbook.train.phased import SEED_STEP, PhasedBatches
from herdbook.train.phases import Plan
from herdbook.train.schedule import learning_rate_share
from herdbook.train.settings import TrainSettings

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def plan(**changes: Any) -> Plan:
    return Plan.of(TrainSettings.model_validate({"rows": 4, "length": 16, **changes}))


def token_set(documents: int, seed: int) -> TokenSet:
    sizes = np.random.default_rng(seed).integers(2, 40, documents)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return TokenSet(np.arange(offsets[-1]) % 90, offsets, sizes * 3)


@pytest.fixture(scope="module")
def sets() -> TokenSets:
    made = {name: {"train": token_set(50, n), "heldout": token_set(5, n)} for n, name in enumerate(("a", "b"))}
    return TokenSets(Path("made"), made, 97, 0, 1, "none")


def test_the_papers_405b_run_is_a_recipe_and_its_steps_and_tokens_are_the_closed_forms() -> None:
    settings = read_recipe(RECIPES / "cluster-405b.yaml").stages["base"].settings
    assert isinstance(settings, TrainSettings)
    small, medium, large = 1 << 22, 1 << 23, 1 << 24  # "4M", "8M", "16M" tokens a step
    first = -(-252_000_000 // small)
    second = -(-(2_870_000_000_000 - first * small) // medium)
    found = Plan.of(settings)
    assert found.starts == [0, first, first + second]
    assert [part.step_tokens for part in found.parts] == [small, medium, large]
    assert [part.length for part in found.parts] == [4096, 8192, 8192]
    assert found.tokens(found.starts[1]) == first * small >= 252_000_000 > (first - 1) * small
    assert 0 <= found.tokens(found.starts[2]) - 2_870_000_000_000 < medium
    before = first * small + second * medium
    steps = first + second + -(-(15_600_000_000_000 - before) // large)
    assert found.total_steps == settings.total_steps == steps
    assert found.tokens(steps) == before + (steps - first - second) * large
    assert 0 <= found.tokens(steps) - 15_600_000_000_000 < large
    assert settings.peak_lr == 8e-5 and settings.warmup == 8000
    assert learning_rate_share(8000, settings) == 1.0
    assert settings.peak_lr * learning_rate_share(steps - 1, settings) == pytest.approx(8e-7, rel=1e-6)


def test_every_step_and_micro_batch_is_where_counting_one_by_one_puts_it() -> None:
    found = plan(tokens=20_000, phases=[{"after_tokens": 1000, "rows": 8}, {"after_steps": 30, "accumulate": 3},
                                        {"after_tokens": 10_000, "length": 40, "rows": 2}])  # fmt: skip
    tokens = micro = 0
    rows, length, accumulate = 4, 16, 1
    for step in range(found.total_steps):
        if tokens >= 1000 and rows == 4:
            rows = 8
        if step == 30:
            accumulate = 3
        if tokens >= 10_000:
            rows, length = 2, 40
        part = found.at(step)
        assert (part.rows, part.length, part.accumulate) == (rows, length, accumulate), step
        assert (found.tokens(step), found.micro(step)) == (tokens, micro), step
        tokens, micro = tokens + rows * length * accumulate, micro + accumulate
    assert 0 <= tokens - 20_000 < rows * length * accumulate


def test_a_run_without_phases_counts_as_before() -> None:
    found = plan(tokens=10_001, accumulate=2)
    assert (found.total_steps, found.micro(7), found.tokens(7)) == (79, 14, 7 * 128)


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([{"after_steps": 5, "rows": 8}, {"after_steps": 5, "rows": 2}], "number 2 begins no later"),
        ([{"after_tokens": 1000, "rows": 8}, {"after_tokens": 900, "rows": 2}], "number 2 begins no later"),
        ([{"after_steps": 200, "rows": 8}], "begins at step 200 .* ends after 100 steps"),
        ([{"after_steps": 5}], "changes nothing"),
        ([{"rows": 5}], "either after_tokens or after_steps"),
    ],
)
def test_phases_that_cannot_be_are_told(phases: list[dict[str, int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(steps=100, phases=phases)


def test_one_phase_has_the_batches_of_a_plain_run(sets: TokenSets) -> None:
    ours = PhasedBatches(sets, plan(steps=9), 5)
    plain = PackedBatches(sets, length=16, rows=4, seed=5)
    for step in (0, 8, 3):
        assert torch.equal(ours.batch(step).tokens, plain.batch(step).tokens)


def test_a_batch_ramp_goes_on_where_the_data_stopped_and_another_length_begins_anew(sets: TokenSets) -> None:
    ours = PhasedBatches(
        sets,
        plan(steps=12, phases=[{"after_steps": 4, "rows": 8, "accumulate": 2}, {"after_steps": 8, "length": 32}]),
        5,
    )
    small, large = (PackedBatches(sets, length=length, rows=8, seed=seed) for length, seed in
                    ((16, 5), (32, 5 + SEED_STEP)))  # fmt: skip
    ramp = ours.runs[0]
    places = [place for step in range(4 + 4 * 2) for place in ramp.places(step)]
    assert len(places) == len(set(places)) == 4 * 4 + 4 * 2 * 8
    for name, table in ramp.tables.items():  # in the order of the table, without a gap
        assert {epoch * table.count + row for one, epoch, row in places if one == name} == set(
            range(sum(one == name for one, _, _ in places))
        )
        assert table.count == small.tables[name].count
    assert [len(ours.batch(step)) for step in (3, 4, 11, 12)] == [4, 8, 8, 8]
    assert torch.equal(ours.batch(12 + 3).tokens, large.batch(3).tokens)


def test_a_new_mix_takes_its_rows_from_the_sets_it_names(sets: TokenSets) -> None:
    from herdbook.pretrain.settings import PretrainSettings

    settings = PretrainSettings(
        steps=20, rows=4, length=16, mix={"a": 1.0}, model="tiny",
        phases=({"after_steps": 10, "mix": {"b": 1.0}},),  # type: ignore[arg-type]
    )  # fmt: skip
    ours = PhasedBatches(sets, Plan.of(settings), 5)
    assert [{name for name, _, _ in ours.runs[0].places(step)} for step in (9, 10)] == [{"a"}, {"b"}]
    assert ours.epochs().keys() == {"a", "b"}
