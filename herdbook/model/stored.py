"""The safetensors files of a model folder: read weight by weight, written in shards and synced."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from herdbook.files import read_json
from herdbook.settings import UserError

INDEX = "model.safetensors.index.json"


def file_names(total: int) -> list[str]:
    """What the safetensors files of a model are called."""
    return (
        ["model.safetensors"] if total == 1 else [f"model-{i + 1:05}-of-{total:05}.safetensors" for i in range(total)]
    )


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write one safetensors file and sync it to disk."""
    save_file(weights, path, metadata={"format": "pt"})
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def shards(weights: Mapping[str, Tensor | torch.Size], item_bytes: int, shard_bytes: int) -> list[list[str]]:
    """The names of weights (or of their shapes), in order, in groups of at most `shard_bytes`, but at least one."""
    groups: list[list[str]] = [[]]
    room = shard_bytes
    for name, weight in weights.items():
        size = weight.numel() * item_bytes
        if groups[-1] and size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(name)
        room -= size
    return groups


def stored_weights(folder: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder's safetensors, or each of the `wanted` names, one at a time."""
    for path, file in _stored_files(folder):
        for key in file.keys():  # noqa: SIM118  (not a dict)
            if wanted is None or key in wanted:
                with _damage_told(path):
                    tensor = file.get_tensor(key)
                yield key, tensor


def stored_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor of the folder's safetensors."""
    return {name: (weight.shape, weight.dtype) for name, weight in stored_weights(folder)}


def _stored_files(folder: Path) -> Iterator[tuple[Path, Any]]:
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{folder} has no {name}; weights are read from safetensors files")
        with _damage_told(path):
            opened = safe_open(path, framework="pt", device="cpu")
        with opened as file:
            yield path, file


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
