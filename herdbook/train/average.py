"""Averages of weights over checkpoints of one run (Polyak): noise of the last steps cancels out (§3.4.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from herdbook.train.checkpoint import Checkpoints


def evenly(total: int, members: int, share: float) -> tuple[int, list[int]]:
    """Steps between checkpoints, and the steps of the `members` that end with `total` and fill its last `share`."""
    every = max(1, round(total * share / members))
    steps = sorted({total, *range(every, total, every)})
    # The last one before the end may lie close to it; it would count nearly twice.
    if len(steps) > 1 and total - steps[-2] < every / 2:
        del steps[-2]
    return every, steps[-members:]


def load_weights(checkpoints: Checkpoints, step: int, model: nn.Module) -> None:
    """Load only the weights of a checkpoint into `model`."""
    checkpoints.load(step, {"model": dict(model.named_parameters())})


def members(checkpoints: Checkpoints, steps: Iterable[int], model: nn.Module) -> Iterator[int]:
    """Load one checkpoint after the other into `model`, saying which."""
    for step in steps:
        load_weights(checkpoints, step, model)
        yield step


@torch.no_grad()
def add_to_mean(mean: dict[str, Tensor], model: nn.Module, count: int) -> None:
    """Make `mean`, of the `count - 1` models before, the mean of `count`; an empty one becomes the first."""
    for name, weight in model.named_parameters():
        if count == 1:
            mean[name] = weight.detach().clone()
        else:
            mean[name] += (weight - mean[name]) / count


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy `weights` into the model."""
    for name, weight in model.named_parameters():
        weight.copy_(weights[name])
