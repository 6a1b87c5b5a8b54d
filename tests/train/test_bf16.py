"""With bf16, gradients are bf16 within a micro-batch of a rank, and added up over both in fp32."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from herdbook.train.distributed import Ranks
from herdbook.train.objective import NextToken
from herdbook.train.parallel import Parallel
from herdbook.train.topology import ParallelSettings
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks
from tests.train.support import OneBatch, RandomBatches

RANKS, MICRO = 2, 2


def gradients(topology: dict[str, Any], batches: list[Any]) -> dict[str, Tensor]:
    """Whole gradients of the micro-batches together."""
    parallel = Parallel(Ranks(ParallelSettings(**topology), torch.device("cpu")))
    model = parallel.apply(tiny_model(), bf16=True)
    mine = [parallel.share(OneBatch(batch)).batch(0) for batch in batches]
    parallel.gradients(model, NextToken(), mine, partial(torch.autocast, "cpu", torch.bfloat16))
    return {name: weight.grad.full_tensor() for name, weight in model.named_parameters()}  # type: ignore[union-attr]


def each_alone(parts: list[Any]) -> list[dict[str, Tensor]]:
    return [gradients({}, [part]) for part in parts]


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_gradients_of_ranks_and_micro_batches_are_added_up_in_fp32() -> None:
    batches = [RandomBatches(rows=4).batch(number) for number in range(MICRO)]
    parts = [batch.rows(2 * rank, 2 * rank + 2) for batch in batches for rank in range(RANKS)]
    alone = run_ranks(1, each_alone, parts)[0]
    for topology in ({"shard": RANKS}, {"data": RANKS}, {"shard": RANKS, "reshard": True}):
        found = run_ranks(RANKS, gradients, topology, batches)[0]
        for name, grad in found.items():
            each = [one[name] for one in alone]
            assert grad.dtype == torch.float32
            assert error(grad, torch.stack(each).sum(0)) < 1e-6, name
            if name.startswith("blocks."):  # their gradients are numbers of bf16, whose sum is not
                assert all(torch.equal(one, one.bfloat16().float()) for one in each), name
                rough = sum((one.bfloat16() for one in each[1:]), start=each[0].bfloat16())
                assert error(grad, rough.float()) > 1e-4, name


def scored(topology: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """What the routers of a mixture in bf16 were given and what they made of it."""
    parallel, seen = Parallel(Ranks(ParallelSettings(**topology), torch.device("cpu"))), []
    model = parallel.apply(tiny_model(experts=4), bf16=True)
    for block in model.blocks:  # type: ignore[union-attr]
        block.feed_forward.router.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        NextToken()(model, RandomBatches(rows=2).batch(0))  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("topology", [{"shard": 2}, {"tensor": 2}])
def test_routers_score_with_weights_that_were_not_rounded(topology: dict[str, Any]) -> None:
    weights = [block.feed_forward.router.weight for block in tiny_model(experts=4).blocks]
    for rank in run_ranks(2, scored, topology):
        for (given, found), weight in zip(rank, weights, strict=True):
            torch.testing.assert_close(found, F.linear(given.float(), weight), rtol=1e-6, atol=1e-6)
