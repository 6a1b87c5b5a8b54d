"""Batches for the loop that are a pure function of their number, without token files."""

from __future__ import annotations

from typing import Any

import torch

from herdbook.tokens.batches import Batch
from herdbook.train.phases import Plan
from herdbook.train.settings import TrainSettings


class RandomBatches:
    """Rows of random tokens, each of a few documents; `split` makes each step's rows that many micro-batches."""

    def __init__(self, rows: int = 4, length: int = 16, vocab_size: int = 97, split: int = 1) -> None:
        self.rows, self.length, self.vocab_size, self.split = rows, length, vocab_size, split

    def batch(self, step: int) -> Batch:
        number, part = divmod(step, self.split)
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(0, self.vocab_size, (self.rows, self.length), generator=generator)
        ids = (torch.rand(self.rows, self.length, generator=generator) < 0.15).cumsum(1).int()
        targets = torch.full_like(tokens, -100)
        same = ids[:, 1:] == ids[:, :-1]
        targets[:, :-1][same] = tokens[:, 1:][same]
        targets[:, : 2 * (number % 3)] = -100  # steps, and rows, differ in how much is counted
        targets[0, : self.length // 2] = -100
        whole = Batch(tokens, targets, ids)
        each = self.rows // self.split
        return whole.rows(part * each, (part + 1) * each)


class PlannedBatches:
    """Random rows, as many and as long as the run's phases want them."""

    def __init__(self, settings: TrainSettings) -> None:
        self.parts = Plan.of(settings).parts

    def batch(self, step: int) -> Batch:
        part = next(part for part in reversed(self.parts) if part.first_micro <= step)
        return RandomBatches(part.rows, part.length).batch(step)


class OneBatch:
    """The same batch at every step."""

    def __init__(self, batch: Batch) -> None:
        self.only = batch

    def batch(self, step: int) -> Batch:
        return self.only


def tiny_settings(**changes: Any) -> TrainSettings:
    """Settings of a run of a few milliseconds a step."""
    quick: dict[str, Any] = {
        "steps": 6,
        "rows": 4,
        "length": 16,
        "warmup": 2,
        "schedule": "linear",
        "precision": "fp32",
        "threads": 1,
    }
    quick |= {"tensorboard": False, "peak_flops": 1e10, "checkpoint_every": 0}
    return TrainSettings(**{**quick, **changes})
