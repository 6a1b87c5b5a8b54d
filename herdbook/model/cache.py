"""The key/value cache in pages (§4.2.2: paged attention): one pool of blocks, and per sequence a table of its blocks.

A block holds the keys and values of `block` tokens; a sequence takes blocks as it grows, from anywhere in the
pool, and sequences that begin alike may name the same blocks. Who holds which block is decided outside
(`inference/blocks.py`); here is how a forward pass writes to them and looks at them.
Letters: R sequences, W blocks of the longest table, N new tokens of all sequences end to end, S places of a
sequence, H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from herdbook.model.config import ModelConfig

BLOCK = 16
"""Tokens of a block: small enough that little is left empty, a whole number of vector registers."""


class KVPool:
    """Keys and values of all sequences: per layer one array of `blocks` × `block` places."""

    def __init__(
        self,
        config: ModelConfig,
        blocks: int,
        *,
        block: int = BLOCK,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.blocks, self.block = blocks, block
        shape = (config.layers, blocks * block, config.kv_heads, config.head_width)
        self.keys, self.values = zeros(shape, dtype, device), zeros(shape, dtype, device)

    @staticmethod
    def block_bytes(config: ModelConfig, dtype: torch.dtype, block: int = BLOCK) -> int:
        """Memory that one block takes over all layers, keys and values."""
        return 2 * config.layers * block * config.kv_heads * config.head_width * dtype.itemsize

    def step(
        self,
        tables: Sequence[Sequence[int]] | np.ndarray,  # (R, W) blocks of each sequence, in its order
        pasts: Sequence[int] | np.ndarray,  # (R,) tokens of each that were read before
        counts: Sequence[int] | np.ndarray,  # (R,) new tokens of each, at least 1
    ) -> PoolStep:
        """A forward pass over new tokens of these sequences, whose blocks must have room for them."""
        if not isinstance(tables, np.ndarray):
            longest = max(map(len, tables))
            tables = np.array([[*table, *[0] * (longest - len(table))] for table in tables], dtype=np.int64)
        return PoolStep(self, tables.astype(np.int64), np.asarray(pasts, np.int64), np.asarray(counts, np.int64))


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Zeros; on a CPU their memory is taken page by page when it is first written to, so an unused pool costs none."""
    if torch.device(device).type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), np.uint8)).view(dtype)


class PoolStep:
    """One forward pass over N new tokens, sequence after sequence; prepared once, used by every layer."""

    def __init__(self, pool: KVPool, tables: np.ndarray, pasts: np.ndarray, counts: np.ndarray) -> None:
        lengths = pasts + counts
        if (need := int(-(-lengths.max() // pool.block))) > tables.shape[1]:
            raise ValueError(
                f"{lengths.max()} tokens need {need} blocks of {pool.block}; a table has {tables.shape[1]}"
            )
        self.pool = pool
        device = pool.keys.device
        ends = counts.cumsum()
        owner = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(ends[-1]) - np.repeat(ends - counts - pasts, counts)
        slots = tables[owner, places // pool.block] * pool.block + places % pool.block
        self.positions = torch.from_numpy(places).to(device).unsqueeze(0)  # (1, N)
        self.slots = torch.from_numpy(slots).to(device)  # (N,)
        # Leading sequences with one new token each, those that are answering, are looked after together.
        longer = np.flatnonzero(counts > 1)
        self.singles = int(longer[0]) if len(longer) else len(counts)
        self.past_slots: Tensor | None = None  # (singles, S)
        self.mask: Tensor | None = None  # (singles, 1, 1, S), True where the token may look; None when everywhere
        if self.singles:
            self.past_slots = self._slots(tables[: self.singles], int(lengths[: self.singles].max())).to(device)
            if lengths[: self.singles].min() < self.past_slots.shape[1]:
                place = torch.arange(self.past_slots.shape[1], device=device)
                own = torch.from_numpy(lengths[: self.singles]).to(device)
                self.mask = (place < own[:, None])[:, None, None]
        # Of the others: where their new tokens lie, how many were before, and the slots of all (None: no past).
        self.pieces: list[tuple[int, int, Tensor | None]] = []
        for row in range(self.singles, len(counts)):
            past, end = int(pasts[row]), int(ends[row])
            whole = self._slots(tables[row : row + 1], past + int(counts[row]))[0].to(device) if past else None
            self.pieces.append((end - int(counts[row]), end, whole))

    @classmethod
    def of_answers(
        cls,
        pool: KVPool,
        tables: Tensor,  # (R, W) int64
        pasts: Tensor,  # (R,) int64
    ) -> PoolStep:
        """One new token of each sequence, prepared on the device alone: nothing is copied from or to the host."""
        step = object.__new__(cls)
        block, places = pool.block, torch.arange(tables.shape[1] * pool.block, device=tables.device)
        step.pool, step.singles, step.pieces = pool, len(pasts), []
        step.positions = pasts.unsqueeze(0)
        step.slots = tables.gather(1, (pasts // block)[:, None])[:, 0] * block + pasts % block
        step.past_slots = (tables[:, :, None] * block + places[:block]).flatten(1)
        step.mask = (places <= pasts[:, None])[:, None, None]
        return step

    def _slots(self, tables: np.ndarray, length: int) -> Tensor:
        """(R, length) places in the pool of each table's first tokens."""
        block = self.pool.block
        used = tables[:, : -(-length // block)]
        slots = (used[:, :, None] * block + np.arange(block)).reshape(len(used), -1)
        return torch.from_numpy(slots[:, :length].copy())

    def attend(
        self,
        layer: int,
        query: Tensor,  # (1, N, H, D)
        key: Tensor,  # (1, N, G, D)
        value: Tensor,  # (1, N, G, D)
    ) -> Tensor:  # (1, N, H, D)
        """Keep the new keys and values, then let each new token look at all of its sequence up to itself."""
        keys, values = self.pool.keys[layer], self.pool.values[layer]  # (places, G, D)
        # All are stored before any looks: sequences of one step may share blocks that are written in it.
        keys.index_copy_(0, self.slots, key[0].to(keys.dtype))
        values.index_copy_(0, self.slots, value[0].to(values.dtype))
        parts = []
        if self.past_slots is not None:
            mixed = attend_past(query[0, : self.singles], keys[self.past_slots], values[self.past_slots], self.mask)
            parts.append(mixed)
        for start, end, whole in self.pieces:
            if whole is None:
                parts.append(causal(query[0, start:end], key[0, start:end], value[0, start:end]))
            else:
                parts.append(causal(query[0, start:end], keys[whole], values[whole]))
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0)


def attend_past(
    query: Tensor,  # (R, H, D) one new token of each sequence
    keys: Tensor,  # (R, S, G, D) past and new
    values: Tensor,  # (R, S, G, D)
    mask: Tensor | None,  # (R, 1, 1, S) True where the token may look
) -> Tensor:  # (R, H, D)
    """Attention of one new token over its past. The H / G queries of a key head become rows of one product."""
    folded = query.unflatten(1, (keys.shape[2], -1))
    keys, values = keys.transpose(1, 2).to(query.dtype), values.transpose(1, 2).to(query.dtype)
    return F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask).flatten(1, 2)


def causal(
    query: Tensor,  # (T, H, D) the last tokens of one sequence
    keys: Tensor,  # (S, G, D) of all of it, S >= T
    values: Tensor,  # (S, G, D)
) -> Tensor:  # (T, H, D)
    """Attention of a sequence's last T tokens to everything before them and to themselves."""
    new, places = query.shape[0], keys.shape[0]
    mask = None
    if places > new:
        mask = torch.ones(new, places, dtype=torch.bool, device=query.device).tril(places - new)
    query, keys, values = (x.transpose(0, 1).unsqueeze(0).to(query.dtype) for x in (query, keys, values))
    grouped = query.shape[1] != keys.shape[1]
    mixed = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )
    return mixed[0].transpose(0, 1)
