"""A forward pass over stages with micro-batches (§6.1): while a stage is at one part, the next is at the part before.

Without parts only one stage would work at a time. Parts have about as many tokens each, of answers as of prompts; they
go through every stage in their order, so a part finds in the cache what the parts before it wrote.
Letters: R sequences, N new tokens, M wanted ones, W words of a rank.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from herdbook.inference.decode import Batch
from herdbook.inference.shares import Share
from herdbook.model.cache import KVPool
from herdbook.model.documents import Documents

ANSWER, LOGITS = 1 << 16, (1 << 16) + 1
"""Tags of what goes to and from the first rank; micro-batches are tagged by their number."""


def micro_batches(
    batch: Batch,  # wanted tokens in the order of their places
    count: int,  # at most
    whole: bool = False,  # sequences must not be cut: they are in no cache
) -> list[Batch]:
    """The batch in parts of about as many tokens."""
    total, ends = len(batch.tokens), np.cumsum(batch.counts)
    starts = ends - batch.counts
    borders = np.arange(1, count) * total // count
    if whole:
        borders = ends[np.searchsorted(ends, borders)]
    parts = []
    for first, last in pairwise(sorted({0, *borders.tolist(), total})):
        rows = np.flatnonzero((ends > first) & (starts < last))
        begin, end = np.maximum(starts[rows], first), np.minimum(ends[rows], last)
        wanted = batch.wanted[(batch.wanted >= first) & (batch.wanted < last)] - first
        parts.append(
            Batch(
                batch.tokens[first:last],
                (end - begin).astype(np.int32),
                (batch.pasts[rows] + begin - starts[rows]).astype(np.int32),
                batch.tables[rows],
                wanted,
            )
        )
    return parts


class Member:
    """One rank's part in every pass. All ranks must make the same calls in the same order."""

    def __init__(self, share: Share) -> None:
        self.share, self.place = share, share.place
        weight = next(share.parameters())
        self.device, self.dtype, self.dim = weight.device, weight.dtype, share.whole.dim
        self.pool: KVPool | None = None  # laid out when the engine knows how many blocks it takes

    @torch.inference_mode()
    def run(self, batch: Batch, cached: bool) -> Tensor | None:  # (M, dim), on the first rank
        """Read new tokens into the cache, or (`cached` False) packed sequences that are kept nowhere."""
        place, width = self.place, self.place.layout.tensor_parallel
        parts = micro_batches(batch, place.layout.parts, whole=not cached)
        given: list[tuple[Tensor, Any]] = []
        if not place.first:
            for number, part in enumerate(parts):  # asked for at once, so they arrive while others are worked on
                x = torch.empty(1, len(part.tokens), self.dim, dtype=self.dtype, device=self.device)
                given.append((x, dist.irecv(x, place.rank - width, tag=number)))
        found: list[Tensor] = []
        sent: list[tuple[Tensor, Any]] = []
        for number, part in enumerate(parts):
            if given:
                x, arrival = given[number]
                arrival.wait()
            else:
                x = self.share.embed(torch.from_numpy(part.tokens).to(self.device).long().unsqueeze(0))
            x = self.work(x, part, cached)
            if place.last:
                found.append(x[0, torch.from_numpy(part.wanted).to(self.device).long()])
            else:
                sent.append((x, dist.isend(x, place.rank + width, tag=number)))
        for _, departure in sent:
            departure.wait()
        return self._answer(torch.cat(found) if found else None, len(batch.wanted))

    def work(self, x: Tensor, part: Batch, cached: bool) -> Tensor:
        """One micro-batch through this rank's blocks."""
        if not cached:
            return self.share(x, Documents.from_lengths(part.counts.tolist(), self.device), None)
        assert self.pool is not None
        return self.share(x, None, self.pool.step(part.tables, part.pasts, part.counts))

    def _answer(self, hidden: Tensor | None, wanted: int) -> Tensor | None:
        """What the last stage found, on the first rank."""
        place = self.place
        teller = place.layout.ranks - place.layout.tensor_parallel  # the last stage's first rank
        if place.rank == 0 and hidden is None:
            hidden = torch.empty(wanted, self.dim, dtype=self.dtype, device=self.device)
            dist.recv(hidden, teller, tag=ANSWER)
        elif place.rank == teller and place.rank > 0:
            assert hidden is not None
            dist.send(hidden, 0, tag=ANSWER)
        return hidden if place.rank == 0 else None

    @torch.inference_mode()
    def head(self, hidden: Tensor | None, rows: int) -> Tensor | None:
        """Logits (M, vocabulary) on the first rank, of the (M, dim) that it gives; each rank of the last stage makes
        those of its words."""
        place, width = self.place, self.place.layout.tensor_parallel
        heads = range(place.layout.ranks - width, place.layout.ranks)
        if place.rank == 0:
            assert hidden is not None
            hidden = hidden.contiguous()
            sent = [dist.isend(hidden, rank, tag=ANSWER) for rank in heads if rank > 0]
            parts = [
                torch.empty(rows, self.share.words, dtype=self.dtype, device=self.device) if rank else None
                for rank in heads
            ]
            given = [
                dist.irecv(part, rank, tag=LOGITS) for part, rank in zip(parts, heads, strict=True) if part is not None
            ]
            if self.share.head is not None:
                parts[0] = self.share.head(hidden)
            for work in (*sent, *given):
                assert work is not None
                work.wait()
            return torch.cat([part for part in parts if part is not None], 1)[:, : self.share.whole.vocab_size]
        if self.share.head is not None:
            hidden = torch.empty(rows, self.dim, dtype=self.dtype, device=self.device)
            dist.recv(hidden, 0, tag=ANSWER)
            dist.send(self.share.head(hidden).contiguous(), 0, tag=LOGITS)
        return None
