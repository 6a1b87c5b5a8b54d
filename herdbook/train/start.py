"""A model that begins on many ranks without ever being whole on one: built without storage, filled part by part.

Each weight is drawn, or read from a Hugging Face folder, one at a time, and every rank keeps its part; nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import checked_weights, read_config
from herdbook.model.transformer import Transformer, drawn
from herdbook.train.distributed import Ranks
from herdbook.train.float8 import to_float8
from herdbook.train.gradients import OneProcess
from herdbook.train.parallel import Parallel
from herdbook.train.pipeline import Stages
from herdbook.train.replicas import among_groups
from herdbook.train.settings import TrainSettings
from herdbook.train.spread import fill
from herdbook.train.topology import ParallelSettings


def joined(settings: ParallelSettings) -> Parallel | None:
    """This process's part in a run on many ranks; None when the run has one process."""
    if settings.size == 1:
        return None
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    return Parallel(Ranks(settings, device))


def joined_groups(settings: ParallelSettings) -> tuple[Parallel | None, OneProcess | None]:
    """As `joined`, and what the loop is given: the same, or where there are replica groups what stands for all."""
    parallel = joined(settings)
    return parallel, among_groups(parallel, settings)


def in_group() -> bool:
    """Whether this process is one of several that were started together."""
    return dist.is_initialized()


def drawn_model(parallel: Parallel, config: ModelConfig, settings: TrainSettings) -> nn.Module:
    """The model that `Transformer.initialize` would draw, spread over the ranks."""
    model = spread_blank(parallel, config, settings)
    weights = ((name, drawn(name, weight.shape, config.layers, settings.seed)) for name, weight in named(model))
    return filled(model, weights)


def loaded_model(
    parallel: Parallel, folder: Path, settings: TrainSettings, config: ModelConfig | None = None
) -> nn.Module:
    """The model of a Hugging Face folder, spread over the ranks; `config` may change what the weights do not tell."""
    found = read_config(folder)
    with torch.device("meta"):
        names = Transformer(found)
    return filled(spread_blank(parallel, config or found, settings), checked_weights(folder, names))


def spread_blank(parallel: Parallel, config: ModelConfig, settings: TrainSettings) -> nn.Module:
    """A model of this shape in parts, its numbers not yet set."""
    with torch.device("meta"):
        model = Transformer(config)
    spread: Any = applied(parallel, model, settings)
    for part in spread.parts if isinstance(spread, Stages) else [spread]:
        part.to_empty(device=parallel.ranks.device)
    return spread


def applied(parallel: Parallel, model: Transformer, settings: TrainSettings) -> nn.Module:
    """A model, with or without storage, as this rank trains it."""
    if settings.precision == "float8":
        to_float8(model, settings.float8, parallel.ranks.device, settings.parallel.tensor)
    # Weights are gathered in bf16 where products are, unless the machine's own trial is yet to decide.
    auto = settings.precision == "auto" and parallel.ranks.device.type != "cpu"
    return parallel.apply(model, settings.precision in ("bf16", "float8") or auto)


def named(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The weights that lie, in part, on this rank."""
    return list(model.named_parameters())


def filled(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> nn.Module:
    """The model with these weights; those of other ranks' stages are passed over."""
    here = dict(named(model))
    for name, whole in weights:
        if name in here:
            fill(here[name], whole.float())
    return model
