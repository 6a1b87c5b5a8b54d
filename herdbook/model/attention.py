"""Grouped-query attention inside documents (§3.2).

Several documents share one packed row; a token attends only to earlier tokens of its own document.
On a CPU that is one causal call per document, which also skips the work a mask would throw away; on an
accelerator it is one variable-length call. With a cache, every sequence looks at its own past (`cache.py`).
Letters: B rows, T tokens, H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model import cpu_attention
from herdbook.model.cache import PoolStep
from herdbook.model.config import ModelConfig
from herdbook.model.documents import Documents
from herdbook.model.rope import Rotation, rotate

varlen_attn: Callable[..., Any] | None
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # builds of torch without it
    varlen_attn = None


class Attention(nn.Module):
    """Queries of H heads over keys and values of G heads, rotated by position."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_width
        width, kv_width = config.heads * config.head_width, config.kv_heads * config.head_width
        self.query = nn.Linear(config.dim, width, bias=False)
        self.key = nn.Linear(config.dim, kv_width, bias=False)
        self.value = nn.Linear(config.dim, kv_width, bias=False)
        self.output = nn.Linear(width, config.dim, bias=False)
        self.attend = attend  # what context parallelism replaces

    def forward(
        self,
        x: Tensor,  # (B, T, dim)
        rotation: Rotation,  # of each token's position
        documents: Documents | None,  # None: every row is one document
        past: PoolStep | None = None,  # where keys and values are kept when generating
    ) -> Tensor:  # (B, T, dim)
        # The number of heads is taken from the weights: under tensor parallelism each rank has a share of them.
        query = rotate(self.query(x).unflatten(-1, (-1, self.head_dim)), rotation)
        key = rotate(self.key(x).unflatten(-1, (-1, self.head_dim)), rotation)
        value = self.value(x).unflatten(-1, (-1, self.head_dim))
        if past is not None:
            mixed = past.attend(self.layer, query, key, value)
        else:
            mixed = self.attend(query, key, value, documents)
        return self.output(mixed.flatten(2))


def attend(
    query: Tensor,  # (B, T, H, D)
    key: Tensor,  # (B, T, G, D)
    value: Tensor,  # (B, T, G, D)
    documents: Documents | None,
) -> Tensor:  # (B, T, H, D)
    """Causal attention within documents, by the fastest exact way the device has."""
    cpu = query.device.type == "cpu"
    learns = torch.is_grad_enabled() and query.requires_grad
    if cpu and learns and documents is not None and documents.longest <= cpu_attention.LONGEST:
        flat_query, flat_key, flat_value = (x.flatten(0, 1) for x in (query, key, value))
        return cpu_attention.per_document(flat_query, flat_key, flat_value, documents.lengths).view(query.shape)
    if documents is None or documents.whole_rows:
        return _causal(query, key, value)
    if cpu:
        return _per_document(query, key, value, documents)
    if varlen_attn is not None and query.dtype in (torch.bfloat16, torch.float16):
        return _variable_length(varlen_attn, query, key, value, documents)
    return _causal(query, key, value, documents.mask)


def _causal(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    grouped = query.shape[1] != key.shape[1]
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )
    return mixed.transpose(1, 2)


def _per_document(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    # Splitting the flattened batch keeps the backward pass to one concatenation; slices would add up padded copies.
    pieces = zip(*(x.flatten(0, 1).split(documents.lengths) for x in (query, key, value)), strict=True)
    mixed = [_causal(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)) for q, k, v in pieces]
    return torch.cat(mixed, dim=1).view(query.shape)


def _variable_length(
    kernel: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, documents: Documents
) -> Tensor:
    share, known = query.shape[-2] // key.shape[-2], _parameters(kernel)
    # Releases differ in how one asks for causal attention, and in whether key heads may be fewer.
    how: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if share > 1 and "enable_gqa" in known:
        how["enable_gqa"] = True
    elif share > 1:
        key, value = key.repeat_interleave(share, dim=-2), value.repeat_interleave(share, dim=-2)
    borders, longest = documents.borders, documents.longest
    flat_query, flat_key, flat_value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    mixed: Tensor = kernel(flat_query, flat_key, flat_value, borders, borders, longest, longest, **how)
    return mixed.view(query.shape)


@cache
def _parameters(kernel: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(kernel).parameters)
