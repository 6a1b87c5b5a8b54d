"""Weights that lie in parts on several ranks (DTensors): their parts here, their wholes, and what needs the whole.

Plain tensors pass through unchanged, so one process computes what it always did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:  # importing them takes a second that one process need not wait
    from torch.distributed.tensor import DTensor

# Releases after 2.11 have other names for them, and warn of these.
all_gather_into: Callable[..., Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
reduce_scatter_into: Callable[..., Any] = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)

PIECE_NUMBERS = 1 << 28  # of whole matrices gathered at once, beyond one for each rank


def is_spread(value: Any) -> TypeGuard[DTensor]:
    """Whether a tensor lies in parts."""
    return hasattr(value, "device_mesh")


def local(value: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; plain tensors are their own."""
    return value.to_local() if is_spread(value) else value


def copies(value: Tensor) -> int:
    """How many ranks hold each number of a tensor."""
    if not is_spread(value):
        return 1
    sizes = [value.device_mesh.size(dim) for dim, place in enumerate(value.placements) if place.is_replicate()]
    return torch.Size(sizes).numel()


def part_of(whole: Tensor, like: DTensor) -> Tensor:
    """The part of `whole`, which every rank has, that lies on this rank in `like`; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    spread = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return spread.redistribute(placements=like.placements).to_local()


@torch.no_grad()
def fill(weight: Tensor, whole: Tensor) -> None:
    """Copy a whole weight's numbers into a weight that may lie in parts."""
    if is_spread(weight):
        weight.to_local().copy_(part_of(whole.to(weight.device), weight))
    else:
        weight.copy_(whole)


def parts_of(wholes: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """This rank's part of each of the stacked `wholes`."""
    return [part_of(whole, one) if is_spread(one) else whole for whole, one in zip(wholes.unbind(), like, strict=True)]


def orthogonalize_spread(
    parts: Sequence[Tensor],  # this rank's parts of K matrices of one shape
    like: Sequence[Tensor],  # the weights they belong to
    work: Callable[[Tensor], Tensor],  # (k, R, C) whole matrices to (k, R, C)
) -> Tensor:  # (K, R, C), whole on every rank
    """`work` on whole matrices, each done by one of the ranks that share it, the results told to all."""
    first: Any = like[0]
    mesh, group = first.device_mesh, _group_of(first)
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    shape, done = first.shape, []
    step = ranks * max(1, PIECE_NUMBERS // (ranks * shape.numel()))
    for start in range(0, len(parts), step):
        pairs = zip(parts[start : start + step], like[start : start + step])
        wholes = [whole_of(part, weight, mesh) for part, weight in pairs]
        each = -(-len(wholes) // ranks)
        mine = wholes[rank * each : (rank + 1) * each]
        made = torch.zeros(each, *shape, dtype=torch.float32, device=parts[0].device)
        if mine:
            made[: len(mine)] = work(torch.stack(mine))
        everyone = torch.empty(each * ranks, *shape, dtype=torch.float32, device=made.device)
        all_gather_into(everyone, made, group=group)
        done.append(everyone[: len(wholes)])
    return torch.cat(done)


def whole_of(part: Tensor, like: Any, mesh: Any) -> Tensor:
    """The whole tensor of which every rank gives its part, laid out as `like` is."""
    from torch.distributed.tensor import DTensor

    spread = DTensor.from_local(part, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())
    return spread.full_tensor()


_groups: dict[Any, dist.ProcessGroup] = {}


def _group_of(weight: Any) -> dist.ProcessGroup:
    """The group of all ranks that hold a part of a weight."""
    mesh = weight.device_mesh
    if mesh.ndim == 1:
        return mesh.get_group()
    key = tuple(mesh.mesh.flatten().tolist())
    if key not in _groups:
        _groups[key] = dist.new_group(list(key), use_local_synchronization=True)
    return _groups[key]


def own_words(weight: Any) -> tuple[Tensor, int, dist.ProcessGroup | None]:
    """This rank's words of a head (V, D), the first one's number, and the ranks that have the others (None: whole)."""
    if not is_spread(weight):
        return weight, 0, None
    from torch.distributed.tensor import Shard

    mesh = weight.device_mesh
    if weight.placements[0].is_replicate():  # a head of fewer words than ranks
        return weight.to_local(), 0, None
    first = min(mesh.get_local_rank() * words_each(weight.shape[0], mesh.size()), weight.shape[0])
    return weight.to_local(grad_placements=[Shard(0)]), first, mesh.get_group()


def words_each(words: int, ranks: int) -> int:
    """Words of each rank but the last ones, which may have fewer, as DTensor cuts."""
    return -(-words // ranks)
