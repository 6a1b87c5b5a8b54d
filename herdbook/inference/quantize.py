"""A model folder with its matrices in 8 or 4 bits (§6.2): weight by weight, so that no machine must hold it whole.

What is rounded is a choice of matrices and of layers: the paper's float8 leaves attention and the first and last
layer alone. Norms, the embedding and (unless asked for) the head are stored as before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from herdbook.files import read_json
from herdbook.model.compressed import KEY, config_to_json, stored_tensors
from herdbook.model.experts import Router
from herdbook.model.huggingface import checked_weights, publish, read_config, read_raw_config, their_module, theirs
from herdbook.model.quantized import Scheme, dequantize, quantize
from herdbook.model.stored import INDEX, file_names, write_weights
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError

PARTS = ("attention", "feed_forward", "head")
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
OWN_FILES = ("config.json", "generation_config.json", INDEX, "pytorch_model.bin.index.json")


@dataclass
class Rounded:
    """What rounding a folder came to."""

    matrices: int = 0
    """Matrices that were rounded."""

    weights: int = 0
    """Weights in them."""

    share: float = 0.0
    """Their part of all weights."""

    bytes_before: int = 0
    """Size of all weights as they were stored."""

    bytes_after: int = 0
    """Size of all weights as they are stored now."""

    error: float = 0.0
    """Root of the squared error over the squared weights, of all that was rounded."""

    worst: str = ""
    """The matrix with the greatest such error."""

    worst_error: float = 0.0
    """Its error."""

    _squares: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def count(self, name: str, weight: Tensor, meant: Tensor) -> None:
        """Count a rounded matrix; `meant` is what it stands for now."""
        error, size = (meant - weight.float()).square().sum().item(), weight.float().square().sum().item()
        self._squares = [self._squares[0] + error, self._squares[1] + size]
        self.matrices, self.weights = self.matrices + 1, self.weights + weight.numel()
        self.error = (self._squares[0] / max(self._squares[1], 1e-300)) ** 0.5
        own = (error / max(size, 1e-300)) ** 0.5
        if own >= self.worst_error:
            self.worst, self.worst_error = name, own

    def figures(self) -> dict[str, Any]:
        """As metrics of a stage."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def choose_matrices(model: Transformer, parts: Iterable[str], ends: int) -> list[str]:
    """The linear layers of these parts, but for those of the `ends` first and `ends` last blocks."""
    layers, wanted = model.config.layers, set(parts)
    chosen = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or isinstance(module, Router):
            continue
        if name == "head":
            take = "head" in wanted
        else:
            _, layer, part = name.split(".")[:3]
            take = part in wanted and ends <= int(layer) < layers - ends
        if take:
            chosen.append(name)
    if not chosen:
        raise UserError(
            f"no matrix would be rounded: matrices={','.join(sorted(wanted))}, and of {layers} layers the {ends} first "
            f"and the {ends} last are left out; lower `ends` or name more matrices"
        )
    return chosen


def quantize_folder(
    source: Path,
    target: Path,
    scheme: Scheme,
    *,
    parts: Iterable[str] = ("attention", "feed_forward"),
    ends: int = 0,
    search: int = 1,
    dtype: torch.dtype | None = None,  # of what is not rounded, and of the scales; None: as stored
    shard_bytes: int = 5_000_000_000,
) -> Rounded:
    """Write `source`, a Hugging Face folder, to `target` with its matrices rounded; other files are copied.

    A head that shares the embedding's weight becomes a matrix of its own when it is to be rounded. Raises UserError
    for a folder that is quantised already or is no Llama, and for groups that don't divide a matrix.
    """
    config, raw = read_config(source), read_raw_config(source)
    if KEY in raw:
        raise UserError(f"{source} is quantised already; quantise the model it was made from")
    with torch.device("meta"):
        model = Transformer(config)
    chosen = set(choose_matrices(model, parts, ends))
    for name in sorted(chosen):  # before any work
        scheme.groups(model.get_submodule(name).in_features, their_module(name))  # type: ignore[arg-type]
    target.mkdir(parents=True, exist_ok=True)
    copy_others(source, target)
    writer, report, total = _Shards(target, shard_bytes), Rounded(), 0
    with writer:
        for name, weight in checked_weights(source, model):
            report.bytes_before += weight.nbytes
            total += weight.numel()
            kept = weight if dtype is None else weight.to(dtype)
            modules = [name.rpartition(".")[0]]
            if config.tied_embeddings and modules == ["embedding"] and "head" in chosen:
                modules.append("head")
            for module in modules:
                if module in chosen:
                    writer.add(_rounded(module, weight, kept.dtype, scheme, search, report))
                else:
                    writer.add({theirs(name): kept})
        report.bytes_after, report.share = writer.size, report.weights / total
        ignore = [their_module(n) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in chosen]
        raw |= {KEY: config_to_json(scheme, ignore)}
        if dtype is not None:
            raw |= dict.fromkeys(("dtype", "torch_dtype"), str(dtype).removeprefix("torch."))
        if "head" in chosen:
            raw["tie_word_embeddings"] = False
        known = source / "generation_config.json"
        writer.publish(raw, read_json(known) if known.is_file() else None)
    return report


def _rounded(
    module: str, weight: Tensor, scale_dtype: torch.dtype, scheme: Scheme, search: int, report: Rounded
) -> dict[str, Tensor]:
    """What is stored of a matrix, by Hugging Face's names; counts it in the report."""
    name = their_module(module)
    values, scale = quantize(weight, scheme, scale_dtype, search, name)
    report.count(name, weight, dequantize(values, scale, torch.float32))
    return {f"{name}.{leaf}": tensor for leaf, tensor in stored_tensors(values, scale, scheme).items()}


def copy_others(source: Path, target: Path) -> None:
    """The tokenizer and whatever else lies beside the weights."""
    for path in sorted(source.iterdir()):
        hidden = path.name.startswith(".") or path.name in OWN_FILES
        if path.is_file() and not hidden and path.suffix not in WEIGHT_FILES:
            shutil.copyfile(path, target / path.name)


class _Shards:
    """Tensors on their way to safetensors files of at most `limit` bytes; nothing is left when it fails."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.held: dict[str, Tensor] = {}
        self.drafts: list[Path] = []
        self.groups: list[list[str]] = []
        self.size = 0

    def __enter__(self) -> _Shards:
        return self

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Tensors that belong into one file."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self.held and sum(tensor.nbytes for tensor in self.held.values()) + size > self.limit:
            self._write()
        self.held |= {name: tensor.contiguous() for name, tensor in tensors.items()}
        self.size += size

    def _write(self) -> None:
        draft = self.folder / f".{len(self.drafts)}.{os.getpid()}.tmp"
        self.drafts.append(draft)
        self.groups.append(list(self.held))
        write_weights(self.held, draft)
        self.held = {}

    def publish(self, config: dict[str, Any], generation: dict[str, Any] | None) -> None:
        """Put the files in their places, config.json last."""
        if self.held:
            self._write()
        assert len(file_names(len(self.drafts))) == len(self.groups)
        publish(self.folder, self.drafts, self.groups, self.size, config, generation)

    def __exit__(self, *problem: object) -> None:
        for draft in self.drafts:
            draft.unlink(missing_ok=True)
