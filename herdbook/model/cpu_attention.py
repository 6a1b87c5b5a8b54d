"""Causal attention with gradients on a CPU, document by document, by plain matrix products.

torch's own kernel is made for long sequences; its backward pass takes twice as long as the products it is made of when
documents have a few hundred tokens. Here the probabilities are kept in the products' type, and queries are taken in
blocks that skip the keys after them. Scores, softmax and their gradients are in fp32 (fp64 for fp64 inputs).
Letters: N tokens of all documents, K keys that they see (more than N where documents branch from a trunk), H query
heads, G key/value heads, R = H / G, D head width, Q queries of a block, S keys up to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 128  # queries whose keys are multiplied at once; the last S - Q of them are all seen, the last Q a triangle
LONGEST = 1024  # tokens of a document: kept probabilities grow with its square, and torch's kernel catches up


@cache
def triangle(size: int, dtype: torch.dtype) -> Tensor:
    """(size, size): 0 where a query may look, -inf after it."""
    return torch.full((size, size), float("-inf"), dtype=dtype).triu(1)


def per_document(
    query: Tensor,  # (N, H, D)
    key: Tensor,  # (K, G, D)
    value: Tensor,  # (K, G, D)
    lengths: list[int],  # queries of each document, N together
    seen: list[int] | None = None,  # keys of each, K together, none above LONGEST; the queries belong to the last ones
) -> Tensor:  # (N, H, D)
    """Each token's mixture of the values of its document up to itself, differentiable."""
    mixed: Tensor = _PerDocument.apply(query, key, value, lengths, seen or lengths)
    return mixed


def _blocks(lengths: list[int], seen: list[int]) -> Iterator[tuple[slice, slice]]:
    """Which queries are in each block, and the keys that its last query sees; its first one sees all but Q - 1."""
    token = first = 0
    for length, keys in zip(lengths, seen, strict=True):
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, length)
            yield slice(token + start, token + end), slice(first, first + keys - length + end)
        token, first = token + length, first + keys


def _by_group(x: Tensor, groups: int) -> Tensor:
    """(Q, H, D) to (G, R * Q, D): the queries of a key head's query heads one below the other."""
    size, heads, width = x.shape
    return x.view(size, groups, heads // groups, width).permute(1, 2, 0, 3).reshape(groups, -1, width)


def _from_groups(x: Tensor, heads: int) -> Tensor:
    """(G, R * Q, D) to (Q, H, D), the inverse of `_by_group`."""
    groups, _, width = x.shape
    return x.view(groups, heads // groups, -1, width).permute(2, 0, 1, 3).reshape(-1, heads, width)


class _PerDocument(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], seen: list[int]) -> Tensor:
        heads, groups = query.shape[1], key.shape[1]
        share, scale = heads // groups, query.shape[2] ** -0.5
        precise = torch.float64 if query.dtype == torch.float64 else torch.float32
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        fine_query, fine_key = query.to(precise), key.to(precise)
        mixed, kept = torch.empty_like(query), []
        with torch.autocast("cpu", enabled=False):
            for block, past in _blocks(lengths, seen):
                keys, size = fine_key[past].transpose(0, 1), block.stop - block.start  # (G, S, D)
                scores = _by_group(fine_query[block], groups) @ keys.mT
                scores.mul_(scale)
                scores.view(groups, share, size, -1)[..., -size:] += triangle(size, precise)
                probabilities = torch.softmax(scores, dim=-1, out=scores).to(value.dtype)  # (G, R * Q, S)
                mixed[block] = _from_groups(probabilities @ value[past].transpose(0, 1), heads)
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, mixed, *kept)
        ctx.lengths, ctx.seen = lengths, seen
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixed, *kept = ctx.saved_tensors
        heads, groups = query.shape[1], key.shape[1]
        scale = query.shape[2] ** -0.5
        grad = grads[0].contiguous()
        precise = torch.float64 if query.dtype == torch.float64 else torch.float32
        fine_grad, fine_value = grad.to(precise), value.to(precise)
        # The softmax's own part of its gradient: what a query's mixture weighs already.
        weighed = (fine_grad * mixed.to(precise)).sum(-1, keepdim=True).neg_()  # (N, H, 1)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key, dtype=precise), torch.zeros_like(value, dtype=precise)
        with torch.autocast("cpu", enabled=False):
            for (block, past), probabilities in zip(_blocks(ctx.lengths, ctx.seen), kept, strict=True):
                above = _by_group(grad[block], groups)  # (G, R * Q, D)
                grad_value[past] += (probabilities.mT @ above).transpose(0, 1)
                errors = torch.baddbmm(
                    _by_group(weighed[block], groups),
                    _by_group(fine_grad[block], groups),
                    fine_value[past].permute(1, 2, 0),
                )
                scores = errors.mul_(probabilities).mul_(scale).to(query.dtype)  # (G, R * Q, S)
                grad_query[block] = _from_groups(scores @ key[past].transpose(0, 1), heads)
                grad_key[past] += (scores.mT @ _by_group(query[block], groups)).transpose(0, 1)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None
