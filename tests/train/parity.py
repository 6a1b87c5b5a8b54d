"""One process and a topology side by side: the same model, batches and optimizer; how far do they come apart?"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from herdbook.train.distributed import Ranks
from herdbook.train.gradients import OneProcess, judged
from herdbook.train.loop import train
from herdbook.train.metrics import read_metrics
from herdbook.train.objective import NextToken
from herdbook.train.parallel import Parallel
from herdbook.train.settings import TrainSettings
from herdbook.train.topology import ParallelSettings, check
from tests.support.models import tiny_model
from tests.train.support import RandomBatches, tiny_settings

STEPS, ROWS, LENGTH = 10, 4, 32
LIMIT = 1e-5
Table = list[tuple[str, str, int, float, float, float]]
TABLE: Table = []
"""(topology, optimizer, ranks, errors of the loss, the gradient's norm and the worst tensor's gradient)."""


class Case:
    """A model's shape, micro-batches of a step, and settings, the same for one process and for all topologies."""

    objective: Any = NextToken()

    def __init__(self, layers: int, accumulate: int, shape: dict[str, Any] | None = None, **changes: Any) -> None:
        self.layers, self.accumulate, self.shape, self.changes = layers, accumulate, shape or {}, changes

    @property
    def settings(self) -> TrainSettings:
        quick: dict[str, Any] = {"steps": STEPS, "rows": ROWS, "length": LENGTH, "optimizer": "adamw"}
        return tiny_settings(**{**quick, "accumulate": self.accumulate, **self.changes})

    def model(self, seed: int = 0) -> Any:
        return tiny_model(seed, layers=self.layers, heads=4, kv_heads=4, **self.shape)

    def batches(self) -> Any:
        return RandomBatches(rows=ROWS * self.accumulate, length=LENGTH, split=self.accumulate)

    def alone(self, folder: Path) -> None:
        model = self.model()
        OneProcess().gradients(model, self.objective, self.first_step(self.batches()), nullcontext)
        found = {name: weight.grad for name, weight in model.named_parameters()}
        found["judged"] = judged(model, self.objective, self.batches().batch(0)).detach()
        torch.save(found, folder.with_suffix(".gradients"))
        train(self.model(), self.objective, self.batches(), self.settings, folder)

    def spread(self, folder: Path, topology: dict[str, Any]) -> None:
        """The same on the ranks of a topology; called by each of them."""
        parallel = Parallel(Ranks(ParallelSettings(**topology), torch.device("cpu")))
        settings = self.settings
        check(parallel.settings, self.model().config, settings.rows, settings.length, settings.accumulate)
        model = parallel.apply(self.model(), settings.precision == "bf16")
        parallel.gradients(model, self.objective, self.first_step(parallel.share(self.batches())), nullcontext)
        wholes = {}
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            wholes[name], weight.grad = weight.grad.full_tensor(), None  # type: ignore[attr-defined]
        gathered = {name: grad for part in parallel.ranks.gathered(wholes) for name, grad in part.items()}
        gathered["judged"] = judged(model, self.objective, self.batches().batch(0))  # as a validation does
        if parallel.rank == 0:
            torch.save(gathered, folder.with_suffix(".gradients"))
        train(model, self.objective, self.batches(), settings, folder, parallel=parallel)

    def spread_all(self, folder: Path, topologies: dict[str, dict[str, Any]]) -> None:
        """Several topologies of as many ranks, one after the other: the ranks are started once."""
        for name, topology in topologies.items():
            self.spread(folder / name, topology)

    def first_step(self, batches: Any) -> list[Any]:
        return [batches.batch(number) for number in range(self.accumulate)]


def errors(one: Path, other: Path) -> tuple[float, float, float]:
    """Largest relative error over all steps of the loss and of the gradient's norm, and of any tensor's gradient."""
    records = [read_metrics(folder / "metrics.jsonl") for folder in (one, other)]
    assert len(records[0]) == len(records[1])
    figures = [max(abs(a[key] - b[key]) / abs(a[key]) for a, b in zip(*records)) for key in ("loss", "gradient_norm")]
    gradients = [torch.load(folder.with_suffix(".gradients")) for folder in (one, other)]
    assert gradients[0].keys() == gradients[1].keys()
    figures.append(max(distance(grad, gradients[1][name]) for name, grad in gradients[0].items()))
    return figures[0], figures[1], figures[2]


def distance(one: Tensor, other: Tensor) -> float:
    """Norm of the difference as a share of the norm."""
    assert one.shape == other.shape
    return float((one - other).norm() / one.norm())


def table() -> list[str]:
    """The lines of the parity table."""
    if not TABLE:
        return []
    head = f"{'topology':<24} {'optimizer':<10} {'ranks':>5} {'loss':>9} {'norm':>9} {'gradients':>9}"
    rows = [f"{name:<24} {how:<10} {n:>5} {a:9.1e} {b:9.1e} {c:9.1e}" for name, how, n, a, b, c in TABLE]
    return ["largest relative error against one process, fp32, document masks, 10 steps", head, *rows]
