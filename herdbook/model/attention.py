"""Grouped-query attention inside documents (§3.2).

Several documents share one packed row; a token attends only to earlier tokens of its own document, and of the trunk
that it branches from: keys are laid out document after document, and a document's queries belong to its last ones.
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
        keys, values = documents.seen(key.flatten(0, 1)), documents.seen(value.flatten(0, 1))
        lengths, seen = documents.lengths, documents.seen_lengths
        return cpu_attention.per_document(query.flatten(0, 1), keys, values, lengths, seen).view(query.shape)
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
    queries = query.flatten(0, 1).split(documents.lengths)
    keys, values = (documents.seen(x.flatten(0, 1)).split(documents.seen_lengths) for x in (key, value))
    mixed = [lower_right(q, k, v) for q, k, v in zip(queries, keys, values, strict=True)]
    return torch.cat(mixed).view(query.shape)


def lower_right(
    query: Tensor,  # (Q, H, D)
    key: Tensor,  # (S, G, D) of which the last Q belong to the queries
    value: Tensor,  # (S, G, D)
) -> Tensor:  # (Q, H, D)
    """Causal attention of the last tokens of a document over all of it."""
    new, seen = len(query), len(key)
    mask = None
    if new < seen:
        mask = torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
    return _causal(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), mask).squeeze(0)


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
    keys, values = documents.seen(key.flatten(0, 1)), documents.seen(value.flatten(0, 1))
    borders, seen, longest = documents.borders, documents.seen_borders, documents.longest
    mixed: Tensor = kernel(query.flatten(0, 1), keys, values, borders, seen, longest, longest, **how)
    return mixed.view(query.shape)


@cache
def _parameters(kernel: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(kernel).parameters)
