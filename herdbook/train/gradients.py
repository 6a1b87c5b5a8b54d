"""What the loop asks of the machinery below it: gradients of a step, and agreement between ranks.

With one process that is a plain loop over micro-batches, and every question is its own answer. `parallel.Parallel`
answers the same questions for many processes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from herdbook.model.experts import burden, collect_imbalance
from herdbook.train import pulse
from herdbook.train.objective import Objective
from herdbook.train.optimizer import scale_gradients

Autocast = Callable[[], AbstractContextManager[Any]]
Offer = Callable[[], tuple[dict[str, Any], dict[str, Any]]]
"""Where a run stands: its tensors, and what JSON can hold."""


Part = Callable[[int], tuple[int, int]]
"""Which rows (start, stop) of a batch of that size a process works on."""


class OwnRows:
    """A process's rows of every batch; where the source can make some rows without the others, only they are made."""

    def __init__(self, source: Any, part: Part) -> None:
        self.source, self.part = source, part

    def batch(self, step: int) -> Any:
        """This process's rows of the batch of that number."""
        if hasattr(self.source, "size"):
            return self.source.batch(step, *self.part(self.source.size(step)))
        whole = self.source.batch(step)
        return whole.rows(*self.part(len(whole)))


@dataclass
class Sums:
    """What the micro-batches of a step gave together, over all ranks."""

    total: Tensor | float
    """Sum of the losses."""

    count: int = 0
    tokens: int = 0
    flops: float = 0.0
    full_flops: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)

    def add(self, loss: Any, apart: bool = False) -> None:
        """Count one micro-batch's `objective.Loss` in; `apart` also among the metrics, since more will be added."""
        self.total = self.total + loss.total.detach()
        self.count, self.tokens = self.count + loss.count, self.tokens + loss.tokens
        self.flops, self.full_flops = self.flops + loss.flops, self.full_flops + loss.full_flops
        metrics = {**loss.metrics, "task_loss": loss.total} if apart else loss.metrics
        for key, value in metrics.items():
            self.metrics[key] = self.metrics.get(key, 0) + value.detach()

    def add_imbalance(self, model: Any, counted: float) -> None:
        """Count in what the routers' unevenness cost in a micro-batch that counted so much."""
        uneven = collect_imbalance(model)
        if uneven is not None:
            self.add_cost(model.config, uneven * counted)

    def add_cost(self, config: Any, uneven: Tensor | float) -> None:
        """Count in the sum over layers of the imbalance, times what was counted."""
        mean = uneven / config.layers
        self.metrics["imbalance"] = self.metrics.get("imbalance", 0) + mean
        self.total = self.total + config.router_loss * mean


def is_mixture(model: Any) -> bool:
    """Whether a model has routers, which an imbalance has to be kept from."""
    return getattr(getattr(model, "config", None), "experts", 0) > 0


def press(model: Any, counted: float) -> None:
    """Let the routers of a mixture feel their imbalance in a micro-batch that counts so many (tokens, pairs, …)."""
    if is_mixture(model):
        burden(model, model.config.router_loss * counted / model.config.layers)


class OneProcess:
    """One process: the whole model, all rows, nobody to agree with."""

    rank, size = 0, 1
    ranks: Any = None
    leads = True
    """Whether it is this process, or its ranks, that write the run's record and checkpoints."""

    changed = False
    """Whether others take part in this step than in the one before."""

    def found(self, checkpoints: Any, offer: Offer) -> dict[str, Any] | None:
        """What the run goes on from, None for a new one; `offer` tells what others could go on from."""
        run: dict[str, Any] | None = checkpoints.newest()
        return run

    def load(self, checkpoints: Any, step: int, state: dict[str, Any]) -> None:
        """Fill `state` with what was `found`."""
        checkpoints.load(step, state)

    def meet(self, step: int) -> dict[str, Any] | None:
        """Before a step: who takes part in it; returns what to go on from where this process has missed steps."""
        return None

    def commit(self) -> bool:
        """Whether the step's gradients are whole, so that it counts; else it is done again."""
        return True

    def part(self, size: int) -> tuple[int, int]:
        """The first of this rank's rows in a batch of so many, and the one behind its last."""
        return 0, size

    def share(self, source: Any, part: Part | None = None) -> Any:
        """The batches of this rank; `part` where its rows are others than `self.part` says."""
        return source if part is None else OwnRows(source, part)

    def gradients(self, model: nn.Module, objective: Objective, batches: Iterable[Any], autocast: Autocast) -> Sums:
        """Sum the gradients of the micro-batches' summed losses into the weights' `.grad`."""
        device = next(model.parameters()).device
        sums, mixture = Sums(torch.zeros((), device=device)), is_mixture(model)
        for batch in batches:
            counted = objective.count(batch) if mixture else 0
            if device.type != "cpu":
                batch = batch.to(device)
            press(model, counted)
            with autocast():
                loss = objective(model, batch)  # type: ignore[arg-type]
            sums.add(loss, apart=mixture)
            sums.add_imbalance(model, counted)  # before backward, where recomputing runs the routers again
            loss.total.backward()
        return sums

    def scale(self, weights: list[Tensor], count: float, clip: float) -> Tensor:
        """Make the summed gradients a clipped mean; returns the mean's norm over all ranks."""
        return scale_gradients(weights, count, clip)

    def shapes(self, model: nn.Module) -> dict[str, list[int]]:
        """The whole shape of every trained or frozen weight of the model, wherever it lies."""
        return {name: list(weight.shape) for name, weight in model.named_parameters()}

    def own_folder(self, folder: Path) -> Path:
        """Where this rank keeps what each rank keeps for itself."""
        return folder

    def agreed(self, asked: signal.Signals | None) -> signal.Signals | None:
        """The signal that any rank got."""
        return asked

    def same(self, decide: Callable[[], Any]) -> Any:
        """What the first rank decides."""
        return decide()

    def most(self, value: int) -> int:
        """The largest value of any rank."""
        return value

    def close(self) -> None:
        """The run is over."""

    def judging(self, model: nn.Module) -> nn.Module:
        """The model as a validation may call it."""
        return model


def judged(model: nn.Module, objective: Objective, batch: Any) -> Tensor:
    """The summed loss of a whole batch, gradients off, however many ranks hold the model."""
    pulse.mark("validating")
    judge = getattr(model, "judge", None)
    if judge is not None:
        whole: Tensor = judge(objective, batch)
        return whole
    return objective(model, batch.to(next(model.parameters()).device)).total  # type: ignore[arg-type]


def measured(
    model: nn.Module,
    measure: Callable[[Any, Any], Tensor],  # model and batch to a (B, …) tensor, the same on ranks that share rows
    batch: Any,  # of B rows, whole on every rank
    shape: tuple[int, ...],  # of what `measure` finds, rows first
    parallel: Any = None,
) -> Tensor:  # (B, …) on the CPU
    """What `measure` finds of each row of a batch, gradients off, the rows shared out over the ranks."""
    pulse.mark("validating")
    if parallel is not None:
        whole: Tensor = parallel.measure(model, measure, batch, shape)
        return whole
    return measure(model, batch.to(next(model.parameters()).device)).cpu()
