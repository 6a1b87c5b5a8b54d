"""Topologies that do not fit are told with numbers that would; stages are balanced as in the paper."""

from __future__ import annotations

from typing import Any

import pytest

from herdbook.model.config import preset
from herdbook.settings import UserError
from herdbook.train.topology import ParallelSettings, check, check_length, layers_of_stages, stages_of_rank
from tests.support.models import tiny_config


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ({"tensor": 3}, r"parallel\.tensor=3 does not divide the model's heads=4; 1, 2, 4 would"),
        ({"tensor": 4}, r"the model's kv_heads=2; 1, 2 would"),
        ({"data": 3, "shard": 2}, r"data \* parallel\.shard=6 does not divide rows=8; 1, 2, 4, 8 would"),
        ({"context": 3}, r"context=3 and tensor=1 cut a row into 6 pieces.*length=64.*; 60 or 66 would"),
        ({"pipeline": 8}, r"8 pipeline stages for 2 layers, embedding and head; at most 4"),
        (
            {"pipeline": 4},
            r"a pipeline of 4 stages on 4 ranks needs 4 micro-batches, and accumulate=3; accumulate=4 would",
        ),
        ({"pipeline": 2, "schedule": "interleaved"}, r"pipeline=2 does not divide accumulate=3; 1, 3 would"),
        ({"shard": 2, "expert": 2}, r"expert=2 shares out the experts of a mixture, and the model is dense"),
    ],
)
def test_what_does_not_divide_is_told_with_what_would(topology: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(ParallelSettings(**topology), tiny_config(), rows=8, length=64, accumulate=3)


def test_rows_that_are_only_judged_have_to_fit_too() -> None:
    check_length(ParallelSettings(context=2, tensor=2), 64)
    with pytest.raises(UserError, match=r"cut a row into 8 pieces, and short_length=60 is no .*; 56 or 64 would be"):
        check_length(ParallelSettings(context=2, tensor=2), 60, "short_length")


def test_experts_are_shared_out_among_ranks_that_share_weights() -> None:
    mixture = tiny_config(experts=6)
    for topology, message in (
        ({"shard": 4, "expert": 4}, r"parallel\.expert=4 does not divide the model's experts=6; 1, 2, 3, 6 would"),
        ({"data": 2, "expert": 2}, r"parallel\.expert=2 does not divide shard \* context=1; 1 would"),
    ):
        with pytest.raises(UserError, match=message):
            check(ParallelSettings(**topology), mixture, rows=8, length=64, accumulate=3)
    check(ParallelSettings(shard=2, context=3, expert=6), mixture, rows=8, length=60, accumulate=3)


def test_the_papers_405b_has_one_block_less_on_the_first_and_last_stage() -> None:
    config = preset("llama3-405b")
    found = [len(layers) for layers in layers_of_stages(config.layers, 16)]
    assert found == [7] + [8] * 14 + [7]
    assert sum(found) == 126
    with_eight = [len(layers) for layers in layers_of_stages(config.layers, 128)]
    assert with_eight == [0] + [1] * 126 + [0]


@pytest.mark.parametrize("layers", range(1, 14))
@pytest.mark.parametrize("stages", range(1, 7))
def test_every_block_is_in_one_stage_in_order(layers: int, stages: int) -> None:
    if stages > layers + 2:
        return
    found = [layer for part in layers_of_stages(layers, stages) for layer in part]
    assert found == list(range(layers))


def test_stages_lie_in_turn_or_in_a_v() -> None:
    interleaved = ParallelSettings(pipeline=3, schedule="interleaved", stages=2)
    assert [stages_of_rank(interleaved, rank) for rank in range(3)] == [[0, 3], [1, 4], [2, 5]]
    v = ParallelSettings(pipeline=3, schedule="zbv")
    assert [stages_of_rank(v, rank) for rank in range(3)] == [[0, 5], [1, 4], [2, 3]]


def test_the_papers_topologies_fit_its_model() -> None:
    for sizes, length, rows in (
        ({"tensor": 8, "pipeline": 16, "data": 128}, 8192, 128),
        ({"tensor": 8, "context": 16, "pipeline": 16, "data": 8}, 131_072, 8),
    ):
        parallel = ParallelSettings(**sizes, schedule="interleaved", stages=8)  # type: ignore[arg-type]
        assert parallel.size in (16_384,)
        check(parallel, preset("llama3-405b"), rows=rows, length=length, accumulate=128)
