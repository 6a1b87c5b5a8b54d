"""The key/value cache: room for every row's past, laid out once, rows of different lengths side by side (§6).

A row's first `lengths[row]` places are its past; what lies behind them is left over and never read.
So prompts may be padded on the right and cut back afterwards, and a row may forget by being cut.
Letters: B rows, T new tokens, S places in use, G key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from herdbook.model.config import ModelConfig
from herdbook.model.documents import Documents


class KVCache:
    """Keys and values of the past of `batch` rows, at most `max_length` tokens each."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.layers, batch, max_length, config.kv_heads, config.head_width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.cut([0] * batch)

    @property
    def max_length(self) -> int:
        """Places per row."""
        return self.keys.shape[2]

    def cut(self, lengths: Sequence[int]) -> None:
        """Say how long each row's past is; what lies behind is forgotten."""
        assert len(lengths) == self.keys.shape[1] and max(lengths, default=0) <= self.max_length
        self.host_lengths = list(lengths)
        self.lengths = torch.tensor(self.host_lengths, dtype=torch.int64, device=self.keys.device)  # (B,)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order; frees the others' room."""
        longest = max((self.host_lengths[row] for row in rows), default=0)
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.keys.device)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros((old.shape[0], len(rows), *old.shape[2:]))
            new[:, :, :longest] = old[:, index, :longest]
            setattr(self, name, new)
        self.cut([self.host_lengths[row] for row in rows])

    def part(self, start: int, stop: int) -> KVCache:
        """Rows start … stop as a cache of their own, sharing this one's memory but not its lengths."""
        view = object.__new__(KVCache)
        view.keys, view.values = self.keys[:, start:stop], self.values[:, start:stop]
        view.cut(self.host_lengths[start:stop])
        return view

    def step(self, time: int) -> CacheStep:
        """Make room for `time` new tokens at the end of every row."""
        return CacheStep(self, time)

    def fill(self, documents: Documents) -> CacheFill:
        """Make document i of a packed batch the whole past of row i."""
        return CacheFill(self, documents)


class CacheStep:
    """One forward pass of T tokens per row that looks at the past; prepared once, used by every layer."""

    def __init__(self, cache: KVCache, time: int) -> None:
        self.cache, self.time = cache, time
        past = cache.host_lengths
        self.longest = max(past) + time
        if self.longest > cache.max_length:
            raise ValueError(f"{self.longest} tokens do not fit a cache of {cache.max_length} places per row")
        device = cache.keys.device
        self.even = min(past) == max(past)
        self.positions = cache.lengths[:, None] + torch.arange(time, device=device)  # (B, T)
        self.rows = torch.arange(len(past), device=device)[:, None]
        self.mask: Tensor | None = None  # (B, 1, T, S), True where a new token may look; None when everywhere
        if time > 1 or not self.even:
            places = torch.arange(self.longest, device=device)
            self.mask = (places <= self.positions[:, :, None]).unsqueeze(1)

    def store(
        self,
        layer: int,
        key: Tensor,  # (B, T, G, D)
        value: Tensor,  # (B, T, G, D)
    ) -> tuple[Tensor, Tensor]:  # (B, S, G, D) each
        """Write the new keys and values behind each row's past; returns all that is in use."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if self.even:
            keys[:, self.longest - self.time : self.longest] = key
            values[:, self.longest - self.time : self.longest] = value
        else:
            keys[self.rows, self.positions] = key.to(keys.dtype)
            values[self.rows, self.positions] = value.to(values.dtype)
        return keys[:, : self.longest], values[:, : self.longest]

    def finish(self) -> None:
        """Count the new tokens as past."""
        self.cache.host_lengths = [length + self.time for length in self.cache.host_lengths]
        self.cache.lengths = self.cache.lengths + self.time


class CacheFill:
    """One forward pass over packed documents that become the rows' pasts: prompts without padding."""

    def __init__(self, cache: KVCache, documents: Documents) -> None:
        if len(documents.lengths) != len(cache.host_lengths):
            raise ValueError(f"{len(documents.lengths)} documents cannot fill {len(cache.host_lengths)} cache rows")
        if documents.longest > cache.max_length:
            raise ValueError(f"{documents.longest} tokens do not fit a cache of {cache.max_length} places per row")
        self.cache, self.lengths = cache, documents.lengths
        self.positions = documents.positions.flatten()  # (B * T,)
        self.rows = documents.starts.flatten().cumsum(0) - 1

    def store(
        self,
        layer: int,
        key: Tensor,  # (B, T, G, D) packed
        value: Tensor,  # (B, T, G, D) packed
    ) -> None:
        """Write each document's keys and values to its row."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, self.positions] = key.flatten(0, 1).to(keys.dtype)
        values[self.rows, self.positions] = value.flatten(0, 1).to(values.dtype)

    def finish(self) -> None:
        """Count the documents as the rows' past."""
        self.cache.cut(self.lengths)
