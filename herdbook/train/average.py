"""Averages of weights: over checkpoints of one run (Polyak, §3.4.3), and over models of one shape (§4.1.5).

Noise of the last steps cancels out, and what variants of data and settings learnt adds up.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from herdbook.files import read_json
from herdbook.model.huggingface import publish, read_raw_config
from herdbook.model.stored import INDEX, file_names, shards, stored_shapes, stored_weights, write_weights
from herdbook.settings import UserError
from herdbook.train.checkpoint import Checkpoints

DESCRIBES = ("architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rope_theta")


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


def average_folders(
    folders: Sequence[Path],
    shares: Sequence[float],  # of each folder, summing to 1
    out: Path,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Write the weighted mean of Hugging Face folders of one shape, of any architecture, as a folder like the first.

    Sums are in float32, weights in the type they have in the first folder; a file at a time is held. UserError when
    the folders' weights differ in names or shapes, or are quantised.
    """
    shapes = [stored_shapes(folder) for folder in folders]
    _check_alike(folders, shapes)
    out.mkdir(parents=True, exist_ok=True)
    skipped = ("config.json", "generation_config.json", INDEX)
    for file in folders[0].iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name not in skipped:
            shutil.copy(file, out / file.name)
    wholes = {name: shape for name, (shape, _) in shapes[0].items()}
    item = max(dtype.itemsize for _, dtype in shapes[0].values())
    groups = shards(wholes, item, shard_bytes)
    drafts = [out / f".{name}.tmp" for name in file_names(len(groups))]
    size = 0
    try:
        for draft, group in zip(drafts, groups, strict=True):
            means = _mean_of(folders, shares, group)
            mean = {name: means[name].to(shapes[0][name][1]).contiguous() for name in group}
            size += sum(weight.nbytes for weight in mean.values())
            write_weights(mean, draft)
        config = read_raw_config(folders[0])
        generation = folders[0] / "generation_config.json"
        publish(out, drafts, groups, size, config, read_json(generation) if generation.is_file() else None)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def _mean_of(folders: Sequence[Path], shares: Sequence[float], names: Sequence[str]) -> dict[str, Tensor]:
    means: dict[str, Tensor] = {}
    for folder, share in zip(folders, shares, strict=True):
        for name, weight in stored_weights(folder, set(names)):
            part = weight.float() * share
            means[name] = means[name] + part if name in means else part
    return means


def _check_alike(folders: Sequence[Path], shapes: list[dict[str, tuple[torch.Size, torch.dtype]]]) -> None:
    configs = [read_raw_config(folder) for folder in folders]
    for folder, config, found in zip(folders, configs, shapes):
        if "quantization_config" in config:
            raise UserError(f"{folder}: quantised weights can't be averaged; average the models they were made from")
        for key in DESCRIBES:
            if config.get(key) != configs[0].get(key):
                raise UserError(
                    f"{folder} has {key}={config.get(key)!r}, {folders[0]} {configs[0].get(key)!r}; "
                    "only models of one shape can be averaged"
                )
        for name in sorted(found.keys() | shapes[0].keys()):
            mine, first = found.get(name), shapes[0].get(name)
            if mine is None or first is None or mine[0] != first[0]:
                told = [tuple(one[0]) if one else "lacking" for one in (mine, first)]
                raise UserError(f"{name} is {told[0]} in {folder} and {told[1]} in {folders[0]}; they have no average")
