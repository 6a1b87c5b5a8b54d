"""Jobs for ranks that `launch` starts: small runs that take a stage's settings, and can be disturbed by files.

A file `slow` in the folder holds seconds that each step takes longer, so that a test has time to disturb it;
`slow-1` those of rank 1 alone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from herdbook.train.loop import train
from herdbook.train.objective import NextToken
from herdbook.train.replicas import GROUP
from herdbook.train.settings import TrainSettings
from herdbook.train.start import joined, joined_groups
from tests.support.models import tiny_model
from tests.train.support import RandomBatches


class Disturbed(RandomBatches):
    """Random rows; leaves word of each step and of the process that does it, and takes as long as a test asks."""

    def __init__(self, out: Path, rank: int, **shape: Any) -> None:
        super().__init__(**shape)
        self.out, self.rank = out, rank

    def batch(self, step: int) -> Any:
        place = self.out / f"rank-{self.rank}.txt"
        place.with_suffix(".tmp").write_text(f"{os.getpid()} {step} {time.monotonic()}")
        place.with_suffix(".tmp").replace(place)
        for slow in (self.out / "slow", self.out / f"slow-{self.rank}"):
            if slow.exists():
                time.sleep(float(slow.read_text()))
        return super().batch(step)


def tiny(settings: TrainSettings, out: Path) -> dict[str, Any]:
    """Train a tiny model over the ranks; its whole weights are left in weights.pt."""
    parallel = joined(settings.parallel)
    assert parallel is not None
    model = parallel.apply(tiny_model(), settings.precision == "bf16")
    rows = RandomBatches(settings.rows, settings.length)
    batches = Disturbed(out, parallel.rank, rows=rows.rows, length=rows.length)
    figures = train(model, NextToken(), batches, settings, out, parallel=parallel)
    wholes = {name: weight.full_tensor() for name, weight in model.named_parameters()}  # type: ignore[attr-defined]
    if parallel.rank == 0:
        torch.save(wholes, out / "weights.pt")
    return figures


def tiny_groups(settings: TrainSettings, out: Path) -> dict[str, Any]:
    """As `tiny`, in replica groups; each leaves weights-GROUP.pt, and hold-GROUP keeps it from starting."""
    number = int(os.environ[GROUP])
    while (out / f"hold-{number}").exists():
        time.sleep(0.05)
    parallel, groups = joined_groups(settings.parallel)
    assert groups is not None
    model: Any = tiny_model() if parallel is None else parallel.apply(tiny_model(), settings.precision == "bf16")
    name = number * settings.parallel.size + groups.rank
    batches = Disturbed(out, name, rows=settings.rows, length=settings.length)
    figures = train(model, NextToken(), batches, settings, out, parallel=groups)
    wholes = {name: weight.detach() for name, weight in model.named_parameters()}
    if parallel is not None:
        wholes = {name: weight.full_tensor() for name, weight in wholes.items()}
    if groups.rank == 0:
        torch.save(wholes, out / f"weights-{number}.pt")
    return figures
