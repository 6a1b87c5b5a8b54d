"""The processes of one run: who they are, their meshes and groups, and weights that lie in parts on them.

Two meshes over the same ranks: `weights` (pp, rep, shard, tp), where `shard` is rows and context together, for both
need the same weights; and `activations` (pp, rep, rows, cp, tp). Where experts are shared out a third is of theirs,
`experts` (pp, rep, shard, ep, tp): there `shard` and `ep` together are the `shard` of the first. Small facts travel
over a gloo group of their own, so that a thread (the checkpoint's) never mixes its messages with the step's.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from herdbook.settings import UserError
from herdbook.train.spread import copies, local
from herdbook.train.topology import ParallelSettings

TIMEOUT = datetime.timedelta(minutes=30)
"""After which a collective gives up by itself; the pulse finds a hang before (`parallel.timeout`)."""


def connect() -> torch.device:
    """Join the group of processes that torchrun started; returns this process's device."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")  # collectives in the flight recorder
    local = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
        device, backend = torch.device("cuda", local), "cpu:gloo,cuda:nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=TIMEOUT)
    return device


class Ranks:
    """The meshes of a topology and this process's place in them."""

    def __init__(self, settings: ParallelSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        if self.size != settings.size:
            raise UserError(
                f"parallel asks for {settings.size} processes (data * shard * tensor * context * pipeline), "
                f"but {self.size} were started"
            )
        s = settings
        sizes = (s.pipeline, s.data, s.shard * s.context, s.tensor)
        self.weights = init_device_mesh(device.type, sizes, mesh_dim_names=("pp", "rep", "shard", "tp"))
        sizes5 = (s.pipeline, s.data, s.shard, s.context, s.tensor)
        names = ("pp", "rep", "rows", "cp", "tp")
        self.activations = init_device_mesh(device.type, sizes5, mesh_dim_names=names)
        self.experts = self.weights
        self.expert_rank = 0
        if s.expert > 1:
            sizes_e = (s.pipeline, s.data, s.shard * s.context // s.expert, s.expert, s.tensor)
            names = ("pp", "rep", "shard", "ep", "tp")
            self.experts = init_device_mesh(device.type, sizes_e, mesh_dim_names=names)
            self.expert_rank = self.experts.get_local_rank("ep")
        place = self.activations.get_coordinate()
        assert place is not None
        self.stage_rank, replica, row, self.context_rank, self.tensor_rank = place
        self.row_rank = replica * s.shard + row
        self.control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.background = dist.new_group(backend="gloo", timeout=TIMEOUT)

    @property
    def fsdp_mesh(self) -> DeviceMesh:
        """Where FSDP shards, after where it copies when there are several copies."""
        return self._copied(self.weights)

    @property
    def expert_fsdp_mesh(self) -> DeviceMesh:
        """The same for experts: ranks that have the same ones."""
        return self._copied(self.experts)

    def _copied(self, mesh: DeviceMesh) -> DeviceMesh:
        return mesh["rep", "shard"] if self.settings.data > 1 else mesh["shard"]

    @property
    def expert_group(self) -> dist.ProcessGroup:
        """The ranks that share out the experts."""
        return self.experts["ep"].get_group()

    @cached_property
    def batch_group(self) -> dist.ProcessGroup:
        """The ranks that share a micro-batch and have the same blocks; first asked for by all of them at once."""
        if self.settings.data == 1:
            return self.weights["shard"].get_group()
        return self.weights["rep", "shard"]._flatten("batch").get_group()

    @cached_property
    def row_group(self) -> dist.ProcessGroup:
        """The ranks that work on other rows with the same part of the model; first asked for by all of them at once."""
        if self.settings.data == 1:
            return self.activations["rows"].get_group()
        return self.activations["rep", "rows"]._flatten("all_rows").get_group()

    @property
    def tensor_mesh(self) -> DeviceMesh:
        """The ranks that share each matrix."""
        return self.weights["tp"]

    @property
    def context_group(self) -> dist.ProcessGroup:
        """The ranks that share the tokens of a row."""
        return self.activations["cp"].get_group()

    @property
    def pipeline_group(self) -> dist.ProcessGroup:
        """The ranks that share the blocks."""
        return self.activations["pp"].get_group()

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all ranks, in fp64."""
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.control)
        return sums.tolist()

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's value (what pickle can hold), by rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def from_first(self, decide: Callable[[], Any]) -> Any:
        """What rank 0 decides; an error there is raised everywhere."""
        told: list[Any] = [None, None]
        if self.rank == 0:
            try:
                told[0] = decide()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told, src=0, group=self.control)
        if told[1] is not None:
            raise told[1]
        return told[0]


@torch.no_grad()
def scale_spread_gradients(ranks: Ranks, weights: list[Tensor], count: float, clip: float) -> Tensor:
    """`optimizer.scale_gradients` for weights that lie in parts: the norm is of all ranks' gradients together."""
    grads = [weight.grad for weight in weights if weight.grad is not None]
    parts = [local(grad) for grad in grads]
    squares = 0.0
    if parts:
        held = torch.tensor([copies(grad) for grad in grads], dtype=torch.float64)
        squares = float((torch.stack(torch._foreach_norm(parts)).double().cpu().square() / held).sum())
    norm = torch.tensor(ranks.sum([squares])[0]).sqrt() / count
    if torch.isfinite(norm) and parts:
        torch._foreach_mul_(parts, float(torch.clamp(clip / (norm + 1e-6), max=1.0)) / count)
    return norm
