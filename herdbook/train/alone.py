"""A model as one process trains it: on its device, recomputing and compiled as the settings say.

Many processes do the same by `parallel.py`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from herdbook.train.machine import own_device
from herdbook.train.recompute import recompute
from herdbook.train.settings import TrainSettings

Model = TypeVar("Model", bound=nn.Module)


def alone(model: Model, settings: TrainSettings) -> Model:
    """The model, moved to this process's device and changed in place."""
    blocks: Any = model.to(own_device()).get_submodule("blocks")
    for block in blocks.children():
        recompute(block, settings.parallel.recompute)
    if settings.compile:
        compile_blocks(model, settings.parallel.recompute)
    return model


def compile_blocks(model: nn.Module, recomputed: str = "none") -> None:
    """Compile each block but for its attention, which asks the documents for their lengths; it has its own kernel.

    On a CPU, and in blocks that are computed again, only the feed-forwards are compiled: a CPU gains nothing from the
    rest, and recomputing hides a block from the compiler.
    """
    blocks: Any = model.get_submodule("blocks")
    for block in blocks.children():
        if recomputed != "none" or next(block.parameters()).device.type == "cpu":
            block.feed_forward.compile()
        else:
            compile_block(block)


def compile_block(block: Any) -> None:
    """Compile a whole block, attention's kernel left out."""
    block.attention.attend = torch.compiler.disable(block.attention.attend)
    block.compile()
