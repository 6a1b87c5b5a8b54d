"""Pipeline parallelism (§3.3): consecutive blocks on different ranks, micro-batches flowing through them.

The first and the last stage have one block less, for embedding and head. Schedules are torch's: 1F1B, interleaved
1F1B and ZBV. The last stage hands its output to the objective as if it were the whole model's, so every objective
that reads `model.hidden` and `model.head` can be trained so. Letters: B rows, T tokens of this rank, S stages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import Schedule1F1B, ScheduleInterleaved1F1B, ScheduleZBVZeroBubble

from herdbook.model.documents import Documents
from herdbook.model.experts import collect_imbalance
from herdbook.train.context import ContextParallel
from herdbook.train.distributed import Ranks
from herdbook.train.gradients import Sums, is_mixture, press
from herdbook.train.objective import Objective
from herdbook.train.spread import local
from herdbook.train.topology import ParallelSettings, layers_of_stages, stages_of_rank

SCHEDULES: dict[str, Any] = {
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zbv": ScheduleZBVZeroBubble,
}


class Part(nn.Module):
    """One stage: some blocks, the first with the embedding, the last with the norm (and the head, for the loss)."""

    def __init__(self, model: Any, layers: range, first: bool, last: bool, context: ContextParallel | None) -> None:
        super().__init__()
        self.config, self.rope, self.context = model.config, model.rope, context
        self.embedding = model.embedding if first else None
        self.blocks = nn.ModuleDict({str(layer): model.blocks[layer] for layer in layers})
        self.norm = model.norm if last else None
        self.head = model.head if last else None
        self.uneven: Tensor | float = 0.0  # of a step's micro-batches, each times what it counts
        self.share = 1.0  # of the routers' gradients that is this rank's to find

    def forward(
        self,
        x: Tensor,  # (B, T) int64 tokens in the first stage, else (B, T, dim)
        document_ids: Tensor,  # (B, tokens of whole rows)
        counted: Tensor | None = None,  # (1,) what the micro-batch counts, for the routers of a mixture
    ) -> Tensor:  # (B, T, dim)
        if counted is not None:
            press(self, float(counted) * self.share)
        documents = Documents.from_ids(document_ids)
        if self.context is not None:
            documents = self.context.documents(documents)
        rotation = self.rope.rotation(documents.positions)
        if self.embedding is not None:
            x = self.embedding(x)
        for block in self.blocks.values():
            x = block(x, rotation, documents, None)
        if counted is not None and (uneven := collect_imbalance(self)) is not None:
            self.uneven += uneven * float(counted)
        return x if self.norm is None else self.norm(x)


class Stages(nn.Module):
    """The stages of one rank; its weights have the names that they have in the whole model."""

    def __init__(self, model: Any, settings: ParallelSettings, rank: int, context: ContextParallel | None) -> None:
        super().__init__()
        total = settings.total_stages
        layers = layers_of_stages(model.config.layers, total)
        self.config, self.numbers = model.config, stages_of_rank(settings, rank)
        if total > 1 and model.config.tied_embeddings:
            model.head = _copied(model.head)  # a stage of its own; `Tie` keeps it what the embedding is
        parts = [Part(model, layers[n], n == 0, n == total - 1, context) for n in self.numbers]
        self.parts: list[Part]
        object.__setattr__(self, "parts", parts)  # not registered: the names below are the whole model's
        blocks = {number: block for part in parts for number, block in part.blocks.items()}
        self.blocks = nn.ModuleDict(blocks)
        self.embedding = next((part.embedding for part in parts if part.embedding is not None), None)
        self.norm = next((part.norm for part in parts if part.norm is not None), None)
        head = next((part.head for part in parts if part.head is not None), None)
        self.head = None if model.config.tied_embeddings else head

    def modules(self) -> Any:  # type: ignore[override]
        """All modules, the stages themselves among them."""
        yield from super().modules()
        yield from self.parts


def _copied(head: nn.Linear) -> nn.Linear:
    made = nn.Linear(head.in_features, head.out_features, bias=False, device=head.weight.device)
    with torch.no_grad():
        made.weight.copy_(head.weight)
    return made


class Tie:
    """Keeps the last stage's head what the first stage's embedding is, where a model has one weight for both.

    The embedding is the weight: it is trained, saved and counted. Before a step the head gets its numbers, and after
    it the embedding gets the head's gradient. Both are cut alike, so each rank talks to one other.
    """

    def __init__(self, stages: Stages, ranks: Ranks) -> None:
        self.group, self.rank, self.device = ranks.pipeline_group, ranks.stage_rank, ranks.device
        settings = ranks.settings
        self.first = 0
        self.last = next(
            r for r in range(settings.pipeline) if settings.total_stages - 1 in stages_of_rank(settings, r)
        )
        self.embedding: nn.Parameter | None = stages.embedding.weight if stages.embedding is not None else None
        heads = [part.head for part in stages.parts if part.head is not None]
        self.head: nn.Parameter | None = heads[0].weight if heads else None

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the head the embedding's numbers."""
        found = self._sent(None if self.embedding is None else local(self.embedding), self.first, self.last)
        if self.head is not None:
            local(self.head).copy_(found)

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add the head's gradient to the embedding's."""
        mine = None
        if self.head is not None:
            assert self.head.grad is not None
            mine, self.head.grad = local(self.head.grad), None
        found = self._sent(mine, self.last, self.first)
        if self.embedding is not None:
            assert self.embedding.grad is not None
            local(self.embedding.grad).add_(found)

    def _sent(self, part: Tensor | None, source: int, target: int) -> Tensor:
        """What `source` has, on `target`; elsewhere nothing that is of use."""
        if source == target == self.rank:
            assert part is not None
            return part
        if self.rank == source:
            assert part is not None
            dist.send(part.contiguous(), group=self.group, group_dst=target)
        elif self.rank == target:
            like = self.embedding if self.head is None else self.head
            assert like is not None
            part = torch.empty_like(local(like))
            dist.recv(part, group=self.group, group_src=source)
        return torch.empty(0) if part is None else part


class Whole:
    """The model as the objective sees it on the last stage: its output is already there."""

    def __init__(self, part: Part, output: Tensor, row_group: dist.ProcessGroup | None) -> None:
        self.config, self.head, self.output, self.context = part.config, part.head, output, part.context
        self.row_group = row_group

    def hidden(self, tokens: Tensor, documents: Documents | None = None, cache: Any = None) -> Tensor:
        """What the last stage gave for this micro-batch."""
        return self.output


class Pipeline:
    """The schedule of a rank's stages."""

    def __init__(self, stages: Stages, ranks: Ranks, context: ContextParallel | None) -> None:
        self.stages, self.ranks, self.settings = stages, ranks, ranks.settings
        self.total = self.settings.total_stages
        self.has_loss = self.total - 1 in stages.numbers
        self.objective: Objective | None = None
        self.row_group = ranks.row_group if self.settings.row_ranks > 1 else None
        self.micro: list[Any] = []
        self.sums, self.counts = Sums(0.0), True
        self.schedules: dict[tuple[int, ...], Any] = {}
        self.tie = Tie(stages, ranks) if stages.config.tied_embeddings else None
        for part in stages.parts:
            part.share = 1.0 / self.settings.tensor

    def gradients(
        self, objective: Objective, batches: list[Any], sums: Sums, counted: list[float] | None, counts: bool = True
    ) -> None:
        """One step: forward and backward of all micro-batches; `sums` gets what the last stage finds, if that `counts`.

        `counted` is what each micro-batch of a mixture of experts counts over all ranks, else None.
        """
        self.objective, self.micro, self.sums, self.counts = objective, batches, sums, counts
        tokens = torch.cat([batch.tokens for batch in batches])
        ids = torch.cat([batch.document_ids for batch in batches])
        schedule = self._schedule(len(batches), *batches[0].tokens.shape)
        numbers = torch.arange(len(batches))
        first, last = 0 in self.stages.numbers, self.has_loss
        keywords: dict[str, Any] = {"document_ids": ids}
        if counted is not None:
            keywords["counted"] = torch.tensor(counted)
        if last:
            keywords |= {"target": numbers, "losses": []}
        if self.tie is not None:
            self.tie.refresh()
        schedule.step(*([tokens] if first else []), return_outputs=False, **keywords)
        if self.tie is not None:
            self.tie.add_gradient()
        if counted is not None:
            for part in self.stages.parts:
                sums.add_cost(part.config, part.uneven)
                part.uneven = 0.0

    def _loss(self, output: Tensor, number: Tensor) -> Tensor:
        assert self.objective is not None
        loss = self.objective(self._whole(output), self.micro[int(number)])
        if self.counts:
            self.sums.add(loss, apart=is_mixture(self.stages))
        return loss.total

    def _whole(self, output: Tensor) -> Any:
        part = self.stages.parts[self.stages.numbers.index(self.total - 1)]
        return Whole(part, output, self.row_group)

    def _schedule(self, count: int, rows: int, length: int) -> Any:
        key = (count, rows, length)
        if key not in self.schedules:
            stages = [self._stage(n, part, rows, length) for n, part in zip(self.stages.numbers, self.stages.parts)]
            make = SCHEDULES[self.settings.schedule]
            given = stages[0] if self.settings.schedule == "1f1b" else stages
            self.schedules[key] = make(given, count, loss_fn=self._loss, scale_grads=False)
        return self.schedules[key]

    def _stage(self, number: int, part: Part, rows: int, length: int) -> PipelineStage:
        """A stage with its shapes told, so that none has to be found by running it."""
        stream = (rows, length // self.settings.tensor, part.config.dim)
        given = torch.empty(rows, length, dtype=torch.int64, device="meta")
        if number > 0:
            given = torch.empty(stream, device="meta", requires_grad=True)
        last = number == self.total - 1
        shape = (rows, length, part.config.dim) if last else stream
        output = torch.empty(shape, device="meta", requires_grad=True)
        told: dict[str, Any] = {"input_args": given, "output_args": output}
        if "output_grads" in inspect.signature(PipelineStage).parameters:  # releases after 2.11
            told["output_grads"] = None if last else torch.empty(shape, device="meta")
            told["input_grads"] = torch.empty(stream, device="meta") if number else None
        group = self.ranks.pipeline_group
        return PipelineStage(part, number, self.total, self.ranks.device, group=group, **told)

    def measure(self, measure: Callable[[Any, Any], Tensor], batch: Any) -> Tensor | None:
        """What `measure` finds of the model and one batch, on the rank that has the last stage; None elsewhere."""
        if self.tie is not None:
            self.tie.refresh()
        group, ranks = self.ranks.pipeline_group, self.settings.pipeline
        where = {stage: rank for rank in range(ranks) for stage in stages_of_rank(self.settings, rank)}
        rows, length = batch.tokens.shape
        shape = (rows, length // self.settings.tensor, self.stages.config.dim)
        x, mine = batch.tokens, self.ranks.stage_rank
        for stage in range(self.total):
            if where[stage] == mine:
                x = self.stages.parts[self.stages.numbers.index(stage)](x, document_ids=batch.document_ids)
            if stage + 1 == self.total:
                break
            here, there = where[stage], where[stage + 1]
            if here != there and mine == here:
                dist.send(x.float().contiguous(), group=group, group_dst=there)
            elif here != there and mine == there:
                x = torch.empty(shape, device=batch.tokens.device)
                dist.recv(x, group=group, group_src=here)
        return measure(self._whole(x), batch) if self.has_loss else None
