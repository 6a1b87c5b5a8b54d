"""A model in parts as one Hugging Face folder, without a machine that has to hold it whole.

Every file has weights that the same ranks hold parts of (those of a pipeline stage, or of some experts), and one of
them gathers and writes it, weight by weight: no rank holds more than one file. Files are published together, by the
first rank, when all are on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from herdbook.model.huggingface import config_to_json, publish, theirs
from herdbook.model.stored import file_names, shards, write_weights
from herdbook.settings import UserError
from herdbook.train.distributed import Ranks


@torch.no_grad()
def save_spread(
    ranks: Ranks,
    model: nn.Module,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    bos_id: int | None,
    eos_ids: Sequence[int],
    pad_id: int | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """As `huggingface.save_model`; called by every rank."""
    ranks.from_first(lambda: folder.mkdir(parents=True, exist_ok=True))
    shape: Any = model.config
    weights = {theirs(name, shape): weight.detach() for name, weight in model.named_parameters()}
    shapes = ranks.gathered({name: weight.shape for name, weight in weights.items()})
    files = _files(shapes, dtype.itemsize, shard_bytes)
    drafts = [folder / f".{name}.tmp" for name in file_names(len(files))]
    problem = None
    for draft, (writer, group) in zip(drafts, files, strict=True):
        tensors: dict[str, Tensor] = {}
        for name in group:
            if name not in weights:
                break  # other ranks' file
            whole = weights[name].full_tensor()  # type: ignore[attr-defined]
            if ranks.rank == writer:
                tensors[name] = whole.to(dtype=dtype, device="cpu").contiguous()
        if tensors and problem is None:
            try:
                write_weights(tensors, draft)
            except Exception as error:
                problem = f"rank {ranks.rank}: {error}"
    problems = [one for one in ranks.gathered(problem) if one]
    if problems:
        ranks.from_first(partial(_remove, drafts))
        raise UserError(f"{folder}: the model could not be written ({problems[0]}); free some space and run again")
    whole_shapes = {name: shape for part in shapes for name, shape in part.items()}
    size = sum(shape.numel() for shape in whole_shapes.values()) * dtype.itemsize
    config = config_to_json(shape, dtype, bos_id, eos_ids, pad_id)
    ranks.from_first(lambda: publish(folder, drafts, [group for _, group in files], size, config))


def _files(
    shapes: list[dict[str, torch.Size]],  # of the weights that each rank holds parts of
    item_bytes: int,
    shard_bytes: int,
) -> list[tuple[int, list[str]]]:
    """Each file's writer and its weights, the same on every rank; the holders of the same weights take turns."""
    holders: dict[str, list[int]] = {}
    for rank, part in enumerate(shapes):
        for name in part:
            holders.setdefault(name, []).append(rank)
    together: dict[tuple[int, ...], dict[str, torch.Size]] = {}
    for name, held_by in holders.items():
        together.setdefault(tuple(held_by), {})[name] = shapes[held_by[0]][name]
    return [
        (held_by[number % len(held_by)], group)
        for held_by, weights in together.items()
        for number, group in enumerate(shards(weights, item_bytes, shard_bytes))
    ]


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
