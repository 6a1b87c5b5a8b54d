"""Meta's own checkpoints: `params.json` and `consolidated.*.pth`, one file per model-parallel rank.

Meta turns neighbouring pairs (2i, 2i + 1) of a head, Hugging Face and we turn (i, i + D/2); the rows of
the query and key matrices are reordered accordingly, and nothing else changes.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from herdbook.files import read_json
from herdbook.model.config import ModelConfig, RopeScaling
from herdbook.model.huggingface import assign
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError

OUTER_NAMES = {
    "embedding.weight": "tok_embeddings.weight",
    "norm.weight": "norm.weight",
    "head.weight": "output.weight",
}
BLOCK_NAMES = {
    "attention_norm": "attention_norm",
    "attention.query": "attention.wq",
    "attention.key": "attention.wk",
    "attention.value": "attention.wv",
    "attention.output": "attention.wo",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "feed_forward.w1",
    "feed_forward.up": "feed_forward.w3",
    "feed_forward.down": "feed_forward.w2",
}


def load_meta(folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Transformer:
    """The model of a folder with Meta's files; `dtype` None keeps the stored precision."""
    folder = Path(folder)
    shards = _read_shards(folder)
    config = _read_params(folder / "params.json", shards)
    with torch.device("meta"):
        model = Transformer(config)
    weights = {}
    for ours, blank in model.named_parameters():
        name = _meta_name(ours)
        absent = [number for number, shard in enumerate(shards) if name not in shard]
        if absent:
            raise UserError(f"{folder}: file {absent[0]} of {len(shards)} lacks the weight {name}")
        weight = _join([shard[name] for shard in shards], ours, tuple(blank.shape), f"{folder}: {name}", config)
        weights[ours] = weight.to(dtype=dtype or weight.dtype, device=device, copy=True)
    assign(model, weights)
    return model


def _meta_name(ours: str) -> str:
    if ours in OUTER_NAMES:
        return OUTER_NAMES[ours]
    _, layer, rest = ours.split(".", 2)
    return f"layers.{layer}.{BLOCK_NAMES[rest.removesuffix('.weight')]}.weight"


def _read_shards(folder: Path) -> list[dict[str, Tensor]]:
    paths = sorted(folder.glob("consolidated.*.pth"))
    if not paths:
        raise UserError(f"{folder} has no consolidated.*.pth: it is not a folder with Meta's weights")
    try:
        return [torch.load(path, map_location="cpu", weights_only=True, mmap=True) for path in paths]
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{folder}: consolidated.*.pth cannot be read as weights: {error}") from error


def _read_params(path: Path, shards: list[dict[str, Tensor]]) -> ModelConfig:
    """Meta's params.json as our configuration; what it leaves open is read off the weights."""
    try:
        raw: dict[str, Any] = read_json(path)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    first = shards[0]
    try:
        embedding, gate = first["tok_embeddings.weight"], first["layers.0.feed_forward.w1.weight"]
        dim, heads = raw["dim"], raw["n_heads"]
        split_by_width = embedding.shape[1] != dim  # Llama 2 splits the embedding by width, Llama 3 by vocabulary
        output = first.get("output.weight")
        theta, scaled = raw.get("rope_theta", 10_000.0), raw.get("use_scaled_rope", False)
        # Llama 3.2's small models stretch 32 times; their params.json says only that they stretch.
        factor = raw.get("rope_scaling_factor", 8 if dim >= 4096 else 32)
        return ModelConfig(
            vocab_size=embedding.shape[0] * (1 if split_by_width else len(shards)),
            dim=dim,
            layers=raw["n_layers"],
            heads=heads,
            kv_heads=raw.get("n_kv_heads") or heads,
            ffn_dim=gate.shape[0] * len(shards),
            rope_theta=theta,
            rope_scaling=RopeScaling(factor=factor) if scaled else None,
            norm_eps=raw.get("norm_eps", 1e-5),
            max_length=131_072 if scaled else 4096 if theta == 10_000.0 else 8192,
            tied_embeddings=output is None or (output.shape == embedding.shape and torch.equal(output, embedding)),
        )
    except KeyError as error:
        raise UserError(f"{path.parent} lacks {error}") from error


def _join(parts: list[Tensor], ours: str, shape: tuple[int, ...], where: str, config: ModelConfig) -> Tensor:
    """One weight from its model-parallel parts, of `shape` and in our order of rows."""
    if len(shape) == 1:
        whole = parts[0]
    else:
        inputs_split = ours.endswith(("attention.output.weight", "feed_forward.down.weight"))
        width_split = ours == "embedding.weight" and parts[0].shape[1] != shape[1]
        whole = torch.cat(parts, dim=1) if inputs_split or width_split else torch.cat(_distinct(parts, shape[0]))
    if tuple(whole.shape) != shape:
        raise UserError(f"{where} has shape {tuple(whole.shape)}, but params.json asks for {shape}")
    if ours.endswith(("attention.query.weight", "attention.key.weight")):
        heads = shape[0] // config.head_width
        whole = whole.view(heads, -1, 2, shape[1]).transpose(1, 2).reshape(shape)
    return whole


def _distinct(parts: list[Tensor], rows: int) -> list[Tensor]:
    """The parts without repeats: with more ranks than key heads, neighbouring ranks hold the same head."""
    repeats = sum(part.shape[0] for part in parts) // rows
    return parts[::repeats] if repeats > 1 else parts
