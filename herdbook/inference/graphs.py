"""Decode steps on a GPU as CUDA graphs: hundreds of small kernels are launched as one.

A graph has fixed shapes, so one is recorded for each rounded-up number of answers and of blocks, when first needed;
rows that only fill it up write to a block of their own. Steps that read prompts run as they are. Recording has been
tried on no GPU yet; what it records is tested on a CPU.
Letters: R sequences, W blocks of the longest table, M wanted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from herdbook.inference.decode import Batch, Eager
from herdbook.model.cache import KVPool, PoolStep
from herdbook.model.transformer import Transformer


class Graphs(Eager):
    """A `Runner` that replays decode steps. The pool's last block must be nobody's: the filling rows write there."""

    def __init__(self, model: Transformer, pool: KVPool, most_rows: int) -> None:
        super().__init__(model, pool)
        self.most_rows = most_rows
        self.recorded: dict[tuple[int, int], Callable[[], Tensor]] = {}
        self.memory = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        width = -(-model.config.max_length // pool.block)
        # What a graph reads: always the beginnings of the same tensors.
        self.tokens = torch.zeros(most_rows, dtype=torch.int64, device=self.device)
        self.pasts = torch.zeros(most_rows, dtype=torch.int64, device=self.device)
        self.tables = {
            w: torch.zeros((most_rows, w), dtype=torch.int64, device=self.device) for w in sizes(rounded(width))
        }

    def __call__(self, batch: Batch) -> Tensor:
        """See `Runner`."""
        rows = len(batch.counts)
        if len(batch.tokens) != rows or len(batch.wanted) != rows:
            return super().__call__(batch)
        size = min(rounded(rows), self.most_rows)
        width = rounded(int(batch.pasts.max()) // self.pool.block + 1)
        filler = self.pool.blocks - 1
        tables = np.full((size, width), filler, np.int64)
        used = min(width, batch.tables.shape[1])
        tables[:rows, :used] = batch.tables[:, :used]
        self.tokens[:size] = torch.from_numpy(np.pad(batch.tokens, (0, size - rows)))
        self.pasts[:size] = torch.from_numpy(np.pad(batch.pasts, (0, size - rows)))
        self.tables[width][:size] = torch.from_numpy(tables)
        if (size, width) not in self.recorded:
            self.recorded[size, width] = self._record(size, width)
        return self.recorded[size, width]()[:rows].clone()

    def _step(self, size: int, width: int) -> Tensor:
        step = PoolStep.of_answers(self.pool, self.tables[width][:size], self.pasts[:size])
        return self.model.hidden(self.tokens[:size].unsqueeze(0), past=step)[0]

    def _record(self, size: int, width: int) -> Callable[[], Tensor]:
        if self.device.type != "cuda":
            return lambda: self._step(size, width)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up in the first run, which must not be recorded
            self._step(size, width)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.memory):
            out = self._step(size, width)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def rounded(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def sizes(most: int) -> list[int]:
    """Powers of two up to `most`, which is one."""
    return [1 << power for power in range(most.bit_length())]
