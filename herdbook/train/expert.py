"""Mixtures of experts over ranks: expert parallelism (Lepikhin et al. 2021), and experts' matrices that are cut.

With expert parallelism each of n ranks has E / n of the experts, whole. A rank routes its own tokens, sends each to the
ranks that have its experts, and gets their outputs back; so an expert works on the tokens of all n ranks, and its
gradient is already their sum. The n ranks are among those that share weights (`shard` and `context`), which goes on for
what is not an expert; experts are shared by the ranks that have the same ones.
Letters: E experts, n ranks, R rows (a token for an expert), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from herdbook.model.experts import Experts
from herdbook.train.distributed import Ranks


class _Exchange(torch.autograd.Function):
    """Rows to the ranks they are for; the gradients go back the same ways."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], taken: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.taken, ctx.group = sent, taken, group
        return _exchanged(rows, sent, taken, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _exchanged(grads[0], ctx.taken, ctx.sent, ctx.group), None, None, None


def _exchanged(rows: Tensor, sent: list[int], taken: list[int], group: dist.ProcessGroup) -> Tensor:
    found = rows.new_empty(sum(taken), *rows.shape[1:])
    dist.all_to_all_single(found, rows.contiguous(), taken, sent, group=group)
    return found


def work_over_ranks(
    work: Callable[[Tensor, list[int]], Tensor],  # of this rank's experts: `ExpertSet.forward`
    group: dist.ProcessGroup,
    rows: Tensor,  # (R, D), those of one of the E experts after those of another
    counts: list[int],  # (E,)
) -> Tensor:  # (R, D)
    """`ExpertSet.forward` for all E experts, each on the rank that has it."""
    ranks = dist.get_world_size(group)
    given = torch.tensor(counts, device=rows.device).view(ranks, -1)  # (n, E / n) for each rank's experts
    arriving = torch.empty_like(given)  # (n, E / n) from each rank, for the experts here
    dist.all_to_all_single(arriving, given, group=group)
    sent, taken = given.sum(1).tolist(), arriving.sum(1).tolist()
    arrived = _Exchange.apply(rows, sent, taken, group)
    # They lie rank after rank; the experts want them expert after expert.
    here = arriving.shape[1]
    expert = torch.arange(here, device=rows.device).repeat(ranks).repeat_interleave(arriving.flatten())
    order = expert.argsort(stable=True)
    done = work(arrived.index_select(0, order), arriving.sum(0).tolist())
    back: Tensor = _Exchange.apply(done.index_select(0, order.argsort()), taken, sent, group)
    return back


def spread_experts(block: nn.Module, ranks: Ranks) -> None:
    """Let a block's routers see all ranks' tokens, and this rank keep its share of the experts only."""
    layer = block.get_submodule("feed_forward")
    assert isinstance(layer, Experts)
    layer.everywhere = partial(_summed, ranks.batch_group)
    if ranks.settings.expert == 1:
        return
    each = layer.count // ranks.settings.expert
    mine = {str(number) for number in range(ranks.expert_rank * each, (ranks.expert_rank + 1) * each)}
    for number in set(layer.experts) - mine:
        del layer.experts[number]
    layer.experts.forward = partial(work_over_ranks, layer.experts.forward, ranks.expert_group)  # type: ignore[method-assign]


def _summed(group: dist.ProcessGroup, counts: Tensor) -> Tensor:
    counts = counts.clone()
    dist.all_reduce(counts, group=group)
    return counts


def cut_experts(block: nn.Module, ranks: Ranks) -> None:
    """Tensor parallelism of a block's experts: matrices cut as a dense feed-forward's, routers whole on every rank.

    Each rank works on all tokens with its part of every expert, so whatever it finds, outputs and the gradients of
    tokens and routers, is a part of a sum over the ranks.
    """
    layer = block.get_submodule("feed_forward")
    assert isinstance(layer, Experts)
    mesh = ranks.tensor_mesh
    layer.router.weight = nn.Parameter(distribute_tensor(layer.router.weight, mesh, [Replicate()]))
    layer.router.forward = partial(_route, layer.router)  # type: ignore[method-assign]
    for expert in layer.experts.values():
        for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
            linear = expert.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight = nn.Parameter(distribute_tensor(linear.weight, ranks.experts["tp"], [Shard(axis)]))
            linear.forward = partial(_multiply, linear)  # type: ignore[method-assign]
    layer.register_forward_pre_hook(_gather_tokens)
    layer.register_forward_hook(partial(_add_and_part, mesh))


def _route(router: nn.Linear, x: Tensor) -> Tensor:
    assert isinstance(router.weight, DTensor)
    return F.linear(x.float(), router.weight.to_local(grad_placements=[Partial()]).float())


def _multiply(linear: nn.Linear, x: Tensor) -> Tensor:
    assert isinstance(linear.weight, DTensor)
    return F.linear(x, linear.weight.to_local())


def _gather_tokens(module: nn.Module, args: Any) -> tuple[Tensor]:
    """From a rank's part of the sequence, as norms leave it, to all of it."""
    assert isinstance(args[0], DTensor)
    return (args[0].redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()]),)


def _add_and_part(mesh: Any, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The sum of the ranks' outputs, of which each keeps its part of the sequence."""
    parts = DTensor.from_local(output, mesh, [Partial()], run_check=False)
    return parts.redistribute(placements=[Shard(1)]).to_local()
