"""One forward pass over the paged cache: which tokens of which sequences, and the ways to run it.

`Eager` runs the model's own modules and works for every model on every device. `native.Native` is the same pass
as one call of compiled code, for dense models on a CPU. Both give what the head reads at the wanted tokens.
Letters: R sequences, W blocks of the longest table, N new tokens end to end, M wanted ones, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from herdbook.model.cache import KVPool
from herdbook.model.transformer import Transformer


@dataclass(frozen=True)
class Batch:
    """The work of one forward pass. Sequences with one new token come first."""

    tokens: np.ndarray  # (N,) int32
    counts: np.ndarray  # (R,) int32, new tokens of each sequence
    pasts: np.ndarray  # (R,) int32, tokens of each that lie in the cache
    tables: np.ndarray  # (R, W) int32, blocks of each, with room for the new tokens
    wanted: np.ndarray  # (M,) int32, new tokens whose output is wanted, by place


class Runner(Protocol):
    """A way to run a batch through the model."""

    def __call__(self, batch: Batch) -> Tensor:  # (M, dim)
        """Read the new tokens into the cache; what the head reads at the wanted ones."""

    def head(
        self,
        hidden: Tensor,  # (M, dim)
    ) -> Tensor:  # (M, V)
        """Logits."""


class Eager:
    """The model as it is."""

    def __init__(self, model: Transformer, pool: KVPool) -> None:
        self.model, self.pool = model, pool
        self.device = pool.keys.device

    def __call__(self, batch: Batch) -> Tensor:
        """See `Runner`."""
        step = self.pool.step(batch.tables, batch.pasts, batch.counts)
        tokens = torch.from_numpy(batch.tokens).to(self.device).long().unsqueeze(0)
        hidden = self.model.hidden(tokens, past=step)[0]
        if len(batch.wanted) == len(batch.tokens):
            return hidden
        return hidden[torch.from_numpy(batch.wanted).to(self.device).long()]

    def head(self, hidden: Tensor) -> Tensor:
        """See `Runner`."""
        return self.model.head(hidden)
