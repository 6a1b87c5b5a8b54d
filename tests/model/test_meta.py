"""Meta's checkpoints, against a forward pass written the way Meta's papers define it: complex rotations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from herdbook.model.meta import load_meta
from herdbook.settings import UserError

DIM, HEADS, LAYERS, VOCABULARY, FFN = 32, 4, 2, 64, 48
PARAMS = {"dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "norm_eps": 1e-5, "rope_theta": 500_000.0, "vocab_size": -1}
TOKENS = torch.randint(0, VOCABULARY, (50,), generator=torch.Generator().manual_seed(3))


def draw(kv_heads: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(kv_heads)
    width = DIM // HEADS * kv_heads
    shapes = {"tok_embeddings.weight": (VOCABULARY, DIM), "output.weight": (VOCABULARY, DIM), "norm.weight": (DIM,)}
    for i in range(LAYERS):
        shapes |= {f"layers.{i}.attention.{n}.weight": (DIM, DIM) for n in ("wq", "wo")}
        shapes |= {f"layers.{i}.attention.{n}.weight": (width, DIM) for n in ("wk", "wv")}
        shapes |= {f"layers.{i}.feed_forward.{n}.weight": (FFN, DIM) for n in ("w1", "w3")}
        shapes |= {f"layers.{i}.feed_forward.w2.weight": (DIM, FFN)}
        shapes |= {f"layers.{i}.{n}.weight": (DIM,) for n in ("attention_norm", "ffn_norm")}
    return {name: torch.randn(shape, generator=generator) * 0.25 for name, shape in shapes.items()}


def turn(x: Tensor) -> Tensor:  # (T, heads, D): neighbouring pairs are complex numbers
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    powers = torch.arange(pairs.shape[-1], dtype=torch.float64) * 2 / x.shape[-1]
    angles = torch.arange(len(x), dtype=torch.float64)[:, None] * 500_000.0**-powers
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)


def reference(weights: dict[str, Tensor], kv_heads: int) -> Tensor:
    w = {name: value.double() for name, value in weights.items()}
    width = DIM // HEADS

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale

    x = w["tok_embeddings.weight"][TOKENS]
    for i in range(LAYERS):
        a, f = f"layers.{i}.attention", f"layers.{i}.feed_forward"
        y = norm(x, w[f"layers.{i}.attention_norm.weight"])
        q = turn((y @ w[f"{a}.wq.weight"].T).view(-1, HEADS, width))
        k = turn((y @ w[f"{a}.wk.weight"].T).view(-1, kv_heads, width)).repeat_interleave(HEADS // kv_heads, 1)
        v = (y @ w[f"{a}.wv.weight"].T).view(-1, kv_heads, width).repeat_interleave(HEADS // kv_heads, 1)
        scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(width)
        scores += torch.full(scores.shape[1:], float("-inf")).triu(1)
        x = x + torch.einsum("hts,shd->thd", scores.softmax(-1), v).flatten(1) @ w[f"{a}.wo.weight"].T
        y = norm(x, w[f"layers.{i}.ffn_norm.weight"])
        x = x + (F.silu(y @ w[f"{f}.w1.weight"].T) * (y @ w[f"{f}.w3.weight"].T)) @ w[f"{f}.w2.weight"].T
    return norm(x, w["norm.weight"]) @ w["output.weight"].T


def write(
    folder: Path, weights: dict[str, Tensor], kv_heads: int, shards: int, embedding_dim: int, **more: Any
) -> None:
    """Split as Meta's model parallel ranks hold the weights; key heads fewer than ranks are held twice."""
    for rank in range(shards):
        part = {}
        for name, weight in weights.items():
            if weight.ndim == 1:
                part[name] = weight
                continue
            dim = embedding_dim if name.startswith("tok") else 1 if name.endswith(("wo.weight", "w2.weight")) else 0
            pieces = shards
            if name.endswith(("wk.weight", "wv.weight")):
                pieces = min(shards, kv_heads)
            part[name] = weight.chunk(pieces, dim)[rank * pieces // shards].clone()
        part["rope.freqs"] = torch.ones(4)
        torch.save(part, folder / f"consolidated.{rank:02}.pth")
    (folder / "params.json").write_text(json.dumps({**PARAMS, "n_kv_heads": kv_heads, **more}))


@pytest.mark.parametrize(
    ("kv_heads", "shards", "embedding_dim"), [(4, 1, 0), (2, 1, 0), (2, 2, 0), (4, 2, 1), (2, 4, 0)]
)
def test_meta_files_give_the_logits_of_their_definition(
    kv_heads: int, shards: int, embedding_dim: int, tmp_path: Path
) -> None:
    weights = draw(kv_heads)
    write(tmp_path, weights, kv_heads, shards, embedding_dim)
    model = load_meta(tmp_path)
    assert model.config.parameters() == sum(weight.numel() for weight in weights.values())
    with torch.no_grad():
        got = model(TOKENS[None])[0]
    want = reference(weights, kv_heads)
    assert want.std() > 0.3
    assert (got - want).abs().max() < 1e-5


def test_a_shared_head_and_stretching_are_recognised(tmp_path: Path) -> None:
    weights = draw(2)
    weights["output.weight"] = weights["tok_embeddings.weight"]
    write(tmp_path, weights, 2, 2, 0, use_scaled_rope=True)
    config = load_meta(tmp_path, dtype=torch.bfloat16).config
    assert config.tied_embeddings and config.rope_scaling is not None and config.rope_scaling.factor == 32


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no consolidated"):
        load_meta(tmp_path)
    weights = draw(2)
    write(tmp_path, weights, 2, 1, 0)
    (tmp_path / "params.json").write_text(json.dumps({**PARAMS, "n_kv_heads": 4}))
    with pytest.raises(UserError, match=r"attention\.wk.* has shape \(16, 32\)"):
        load_meta(tmp_path)
    del weights["layers.1.attention.wo.weight"]
    write(tmp_path, weights, 2, 1, 0)
    with pytest.raises(UserError, match=r"lacks the weight layers\.1\.attention\.wo\.weight"):
        load_meta(tmp_path)
    (tmp_path / "consolidated.00.pth").write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot be read"):
        load_meta(tmp_path)
