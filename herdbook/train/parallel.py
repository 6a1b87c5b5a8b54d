"""4D parallelism, applied to a model from outside (§3.3): any combination, for every objective.

Order: context (what attention sees), tensor (how matrices lie), recomputation, FSDP (who keeps which weights). Losses
and gradients are sums over ranks, divided once by all that was counted, so a topology changes rounding only. Weights
and sums are fp32; with bf16 the blocks' weights are gathered in it, and gradients are still added up in fp32.
"""

from __future__ import annotations

import functools
import signal
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from herdbook.train import pulse
from herdbook.train.context import ContextParallel, share_row
from herdbook.train.distributed import Ranks, scale_spread_gradients
from herdbook.train.expert import cut_experts, spread_experts
from herdbook.train.gradients import Autocast, OneProcess, OwnRows, Part, Sums, is_mixture, press
from herdbook.train.objective import Objective
from herdbook.train.pipeline import Pipeline, Stages
from herdbook.train.recompute import recompute


class Parallel(OneProcess):
    """A model spread over the ranks of a topology, and what the loop asks of them."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.settings = ranks, ranks.settings
        self.rank, self.size = ranks.rank, ranks.size
        self.context: ContextParallel | None = None
        if self.settings.context > 1:
            self.context = ContextParallel(ranks.context_group, ranks.context_rank, self.settings.context)
        self.pipeline: Pipeline | None = None
        self.metric_names: list[str] | None = None

    def apply(self, model: Any, bf16: bool = False) -> nn.Module:
        """The model as this rank trains it; `model` (a Transformer, with or without storage) is taken apart.

        Whether the topology fits is told by `topology.check` before.
        """
        settings = self.settings
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # nothing writes to it
        if settings.pipeline > 1:
            model = Stages(model, settings, self.ranks.stage_rank, self.context)
            parts = model.parts
        else:
            if self.context is not None:
                self.context.apply_to_hidden(model)
            parts = [model]
        for part in parts:
            blocks = list(part.blocks.values()) if isinstance(part.blocks, nn.ModuleDict) else list(part.blocks)
            for block in blocks:
                if self.context is not None:
                    self.context.apply_to_block(block)
                if is_mixture(part):
                    spread_experts(block, self.ranks)
            if settings.tensor > 1:
                self._cut_matrices(part, blocks)
            for block in blocks:
                recompute(block, settings.recompute)
            self._shard(part, blocks, bf16)
        if settings.pipeline > 1:
            self.pipeline = Pipeline(model, self.ranks, self.context)
        else:
            register_fsdp_forward_method(model, "hidden")
        object.__setattr__(model, "context", self.context)  # what `nats.document_sums` asks for
        object.__setattr__(model, "row_group", self.ranks.row_group if settings.row_ranks > 1 else None)
        object.__setattr__(model, "judge", functools.partial(self._judge, model))
        return model

    def _cut_matrices(self, part: Any, blocks: list[Any]) -> None:
        mesh = self.ranks.tensor_mesh
        if part.embedding is not None:
            rows = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
            parallelize_module(part.embedding, mesh, rows)
        for block in blocks:
            # Between matrices a rank has its part of the sequence; before them it is gathered once.
            whole = (Replicate(), None, None, None)
            gather = PrepareModuleInput(input_layouts=(Shard(1), None, None, None), desired_input_layouts=whole)
            plan: dict[str, ParallelStyle] = {
                "attention_norm": SequenceParallel(),
                "attention": gather,
                "attention.query": ColwiseParallel(),
                "attention.key": ColwiseParallel(),
                "attention.value": ColwiseParallel(),
                "attention.output": RowwiseParallel(output_layouts=Shard(1)),
                "feed_forward_norm": SequenceParallel(),
            }
            if is_mixture(part):
                cut_experts(block, self.ranks)
            else:
                plan |= {
                    "feed_forward": PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate()),
                    "feed_forward.gate": ColwiseParallel(),
                    "feed_forward.up": ColwiseParallel(),
                    "feed_forward.down": RowwiseParallel(output_layouts=Shard(1)),
                }
            parallelize_module(block, mesh, plan)
        if part.norm is not None:
            parallelize_module(part.norm, mesh, SequenceParallel())
            part.norm.register_forward_hook(_gather_sequence)
        if part.head is not None and part.embedding is not None and part.config.tied_embeddings:
            part.head.weight = part.embedding.weight
        elif part.head is not None and part.config.head_words < self.settings.tensor:
            alike = DTensor.from_local(part.head.weight.detach(), mesh, [Replicate()], run_check=False)
            part.head.weight = nn.Parameter(alike)
        elif part.head is not None:
            parallelize_module(part.head, mesh, ColwiseParallel())

    def _shard(self, part: Any, blocks: list[Any], bf16: bool) -> None:
        mesh, reshard = self.ranks.fsdp_mesh, self.settings.reshard
        policy = MixedPrecisionPolicy()
        if bf16:
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        for block in blocks:
            how: dict[str, Any] = {"mp_policy": policy, "shard_placement_fn": _other_axis}
            if bf16 and is_mixture(part):  # rounding must not decide which expert a token goes to
                fully_shard(block.feed_forward.router, mesh=mesh, reshard_after_forward=reshard)
            if self.settings.expert > 1:
                experts = block.feed_forward.experts
                fully_shard(experts, mesh=self.ranks.expert_fsdp_mesh, reshard_after_forward=reshard, **how)
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard, **how)
        fully_shard(part, mesh=mesh, reshard_after_forward=False, shard_placement_fn=_other_axis)
        for module in part.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # sums, divided once by the loop
                module.set_force_sum_reduction_for_comms(True)

    def part(self, size: int) -> tuple[int, int]:
        """As `OneProcess.part`: ranks that share rows have the same ones."""
        each, rest = divmod(size, self.settings.row_ranks)
        assert not rest, "rows that do not divide are told before"
        return self.ranks.row_rank * each, (self.ranks.row_rank + 1) * each

    def share(self, source: Any, part: Part | None = None) -> Any:
        """The batches of this rank: its rows, and its tokens of them."""
        return RankBatches(source, self, part)

    def gradients(self, model: nn.Module, objective: Objective, batches: Iterable[Any], autocast: Autocast) -> Sums:
        """As `OneProcess.gradients`, over all ranks."""
        sums, mixture, device = Sums(0.0), is_mixture(model), self.ranks.device
        if self.pipeline is not None:
            given = [batch.to(device) for batch in batches]
            counted = self._counted(objective, given) if mixture else None
            pulse.mark("forward")
            with autocast():
                self.pipeline.gradients(objective, given, sums, counted, self._counts(objective))
            return self._over_ranks(sums)
        for batch in batches:
            counted = self._counted(objective, [batch]) if mixture else [0.0]
            # With tensor parallelism each rank's gradient of a router is a part of the sum over them.
            press(model, counted[0] / self.settings.tensor)
            pulse.mark("forward")
            with autocast():
                loss = objective(model, batch.to(device))  # type: ignore[arg-type]
            if self._counts(objective):
                sums.add(loss, apart=mixture)
            sums.add_imbalance(model, counted[0])  # before backward, where recomputing runs the routers again
            pulse.mark("backward")
            loss.total.backward()
        return self._over_ranks(sums)

    def _counts(self, objective: Objective) -> bool:
        """Whether this rank's losses count: of those that share rows, and so have the same ones, the first's do."""
        return self.ranks.context_rank == 0 or not objective.of_documents

    def _counted(self, objective: Objective, batches: list[Any]) -> list[float]:
        """What each micro-batch counts over all ranks."""
        mine = self.ranks.tensor_rank == self.ranks.stage_rank == 0 and self._counts(objective)
        return self.ranks.sum([float(objective.count(batch)) if mine else 0.0 for batch in batches])

    def _over_ranks(self, sums: Sums) -> Sums:
        pulse.mark("reduce")
        mine = self.ranks.tensor_rank == 0
        if self.metric_names is None:
            self.metric_names = sorted(set().union(*self.ranks.gathered(sorted(sums.metrics))))
        figures = [sums.total, sums.count, sums.tokens, sums.flops, sums.full_flops]
        figures += [sums.metrics.get(name, 0.0) for name in self.metric_names]
        found = self.ranks.sum([float(value) if mine else 0.0 for value in figures])
        total, count, tokens, flops, full_flops, *metrics = found
        named = dict(zip(self.metric_names, metrics, strict=True))
        return Sums(total, int(count), int(tokens), flops, full_flops, named)

    def scale(self, weights: list[Tensor], count: float, clip: float) -> Tensor:
        """Make the summed gradients a clipped mean; returns the mean's norm over all ranks."""
        return scale_spread_gradients(self.ranks, weights, count, clip)

    def shapes(self, model: nn.Module) -> dict[str, list[int]]:
        """The whole shape of every weight of the model, wherever it lies."""
        mine = {name: list(weight.shape) for name, weight in model.named_parameters()}
        if self.pipeline is None and self.settings.expert == 1:
            return mine
        return {name: shape for shapes in self.ranks.gathered(mine) for name, shape in sorted(shapes.items())}

    def own_folder(self, folder: Path) -> Path:
        """Where this rank keeps what each rank keeps for itself: the first one in the run's own folder."""
        return folder if self.rank == 0 else folder / "ranks" / f"{self.rank:05}"

    def agreed(self, asked: signal.Signals | None) -> signal.Signals | None:
        """The signal that any rank got."""
        numbers = [number for number in self.ranks.gathered(asked) if number is not None]
        return numbers[0] if numbers else None

    def same(self, decide: Callable[[], Any]) -> Any:
        """What the first rank decides."""
        return self.ranks.from_first(decide)

    def most(self, value: int) -> int:
        """The largest value of any rank."""
        return max(self.ranks.gathered(value))

    @torch.no_grad()
    def _judge(self, model: Any, objective: Objective, batch: Any) -> Tensor:
        """The summed loss of a whole batch, the same on every rank."""
        found = self._ahead(model, lambda model, batch: objective(model, batch).total, batch)
        # Rows are not shared here, so only the ranks of one row group count.
        counts = self.ranks.row_rank == 0 and self.ranks.tensor_rank == 0 and self._counts(objective)
        return torch.tensor(self.ranks.sum([float(found) if counts and found is not None else 0.0])[0])

    @torch.no_grad()
    def measure(self, model: Any, measure: Callable[[Any, Any], Tensor], batch: Any, shape: tuple[int, ...]) -> Tensor:
        """As `gradients.measured`: each rank looks at its own rows."""
        first, last = self.part(len(batch))
        found = self._ahead(model, measure, batch.rows(first, last))
        whole = torch.zeros(shape, dtype=torch.float64)
        if found is not None and self.ranks.tensor_rank == self.ranks.context_rank == 0:
            whole[first:last] = found.double().cpu()
        return torch.tensor(self.ranks.sum(whole.flatten().tolist())).view(shape)

    def _ahead(self, model: Any, measure: Callable[[Any, Any], Tensor], batch: Any) -> Tensor | None:
        """What `measure` finds of a batch on the ranks that have the model's end, else None; called by all ranks."""
        batch = batch.to(self.ranks.device)
        if self.context is not None:
            batch = share_row(batch, self.context.rank, self.context.ranks)
        found = measure(model, batch) if self.pipeline is None else self.pipeline.measure(measure, batch)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # without a backward pass it would keep what was gathered
        return found


class RankBatches(OwnRows):
    """A rank's part of every batch: a pure function of the batch's number and the rank."""

    def __init__(self, source: Any, parallel: Parallel, part: Part | None = None) -> None:
        super().__init__(source, part or parallel.part)
        self.context = parallel.context

    def batch(self, step: int) -> Any:
        """This rank's rows of a batch, and with context parallelism its tokens of them."""
        mine = super().batch(step)
        return mine if self.context is None else share_row(mine, self.context.rank, self.context.ranks)


def _other_axis(weight: nn.Parameter) -> Shard | None:
    """What tensor parallelism cut by rows FSDP cuts by columns: twice by rows is only right where it divides evenly."""
    cut = isinstance(weight, DTensor) and any(place.is_shard(0) for place in weight.placements)
    return Shard(1) if cut else None


def _gather_sequence(module: nn.Module, args: Any, output: Any) -> Tensor:
    """After the final norm: every rank needs all tokens, for its own words; each has its part of their gradient."""
    assert isinstance(output, DTensor)
    return output.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
