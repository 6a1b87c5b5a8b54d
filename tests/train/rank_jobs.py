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
from herdbook.train.settings import TrainSettings
from herdbook.train.start import joined
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
