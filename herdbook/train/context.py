"""Context parallelism (§3.3): each rank has a part of every row, and gathers the keys and values of all.

A row is cut into 2n chunks; rank i has chunks i and 2n - 1 - i, so that causal work is even. Every rank knows all
document ids, so masks cost no messages: a piece of a document on this rank attends to that document's gathered keys
from its beginning to the piece's end. Letters: B rows, T tokens of a row, L = T / n tokens here, c = L / 2 tokens of a
chunk, H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from herdbook.model.attention import lower_right
from herdbook.model.documents import Documents
from herdbook.train.spread import all_gather_into, reduce_scatter_into


def chunks_of(rank: int, ranks: int) -> tuple[int, int]:
    """The two chunks of a rank: one from the head of the row, one from its tail."""
    return rank, 2 * ranks - 1 - rank


def places_of(length: int, rank: int, ranks: int) -> Tensor:
    """(L,) which tokens of a row of `length` lie on a rank, in order."""
    size = length // (2 * ranks)
    return torch.cat([torch.arange(chunk * size, (chunk + 1) * size) for chunk in chunks_of(rank, ranks)])


def share_row(batch: Any, rank: int, ranks: int) -> Any:
    """A batch whose (B, T, …) tensors are this rank's tokens; document ids, and what has no tokens, stay whole."""
    changes = {}
    places = places_of(batch.tokens.shape[1], rank, ranks).to(batch.tokens.device)
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        of_tokens = isinstance(value, Tensor) and value.shape[:2] == batch.tokens.shape
        if of_tokens and field.name != "document_ids":
            changes[field.name] = value.index_select(1, places)
    return dataclasses.replace(batch, **changes)


class PartOfDocuments(Documents):
    """The documents of whole rows, seen by a rank that has some tokens of each."""

    def __init__(self, ids: Tensor, rank: int, ranks: int) -> None:
        super().__init__(ids)
        self.rank, self.ranks = rank, ranks

    @cached_property
    def positions(self) -> Tensor:
        """(B, L) place of each token of this rank in its document."""
        places = places_of(self.ids.shape[1], self.rank, self.ranks).to(self.ids.device)
        return Documents(self.ids).positions.index_select(1, places)

    @cached_property
    def pieces(self) -> list[tuple[int, slice, int, int, int]]:
        """(row, trunk, document's first token, piece's first token, piece's end) in the order of this rank's tokens."""
        time = self.ids.shape[1]
        size = time // (2 * self.ranks)
        rows: list[list[tuple[slice, int, int]]] = [[] for _ in range(self.ids.shape[0])]
        for (row, start, end), (first, last) in zip(self.spans, self.trunks, strict=True):
            rows[row].append((slice(first % time, first % time + last - first), start, end))
        found = []
        for row, spans in enumerate(rows):
            for chunk in chunks_of(self.rank, self.ranks):
                low, high = chunk * size, (chunk + 1) * size
                for trunk, start, end in spans:
                    if start < high and end > low:
                        found.append((row, trunk, start, max(start, low), min(end, high)))
        return found


class _GatherRow(torch.autograd.Function):
    """(2, B, L, G, D) of each rank to (2, B, T, G, D) in the row's order; backward adds up and gives back."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        ranks = dist.get_world_size(group)
        ctx.group, ctx.ranks, ctx.dtype = group, ranks, part.dtype
        found = part.new_empty((ranks * part.shape[0], *part.shape[1:]))
        all_gather_into(found, part.contiguous(), group=group)
        size = part.shape[2] // 2
        chunks = found.view(ranks, *part.shape[:2], 2, size, *part.shape[3:])  # (n, 2, B, 2, c, G, D)
        chunks = chunks.permute(1, 2, 0, 3, 4, 5, 6).flatten(2, 3)  # (2, B, 2n, c, G, D), rank after rank
        return chunks.index_select(2, _slots(ranks).argsort().to(part.device)).flatten(2, 3)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ranks, whole = ctx.ranks, grads[0].float()  # sums over ranks are fp32
        chunks = whole.unflatten(2, (2 * ranks, -1)).index_select(2, _slots(ranks).to(whole.device))
        parts = chunks.unflatten(2, (ranks, 2)).permute(2, 0, 1, 3, 4, 5, 6).contiguous()  # (n, 2, B, 2, c, G, D)
        mine = torch.empty_like(parts[0])
        reduce_scatter_into(mine, parts.flatten(0, 1), group=ctx.group)
        return mine.flatten(2, 3).to(ctx.dtype), None


def _slots(ranks: int) -> Tensor:
    """(2n,) the chunk that stands at each place when the ranks' chunks stand side by side."""
    return torch.tensor([chunk for rank in range(ranks) for chunk in chunks_of(rank, ranks)])


def attend_over_ranks(
    query: Tensor,  # (B, L, H, D)
    key: Tensor,  # (B, L, G, D)
    value: Tensor,  # (B, L, G, D)
    documents: PartOfDocuments,
    group: dist.ProcessGroup,
) -> Tensor:  # (B, L, H, D)
    """Causal attention within documents over the whole row."""
    keys, values = _GatherRow.apply(torch.stack([key, value.to(key.dtype)]), group).unbind(0)  # (B, T, G, D)
    pieces = documents.pieces
    queries = query.flatten(0, 1).split([end - first for _, _, _, first, end in pieces])
    mixed = []
    for part, (row, trunk, start, _, end) in zip(queries, pieces, strict=True):
        seen = [keys[row, start:end], values[row, start:end]]
        if trunk.start < trunk.stop:
            seen = [torch.cat([keys[row, trunk], seen[0]]), torch.cat([values[row, trunk], seen[1]])]
        mixed.append(lower_right(part, *seen))
    return torch.cat(mixed).view(query.shape)


class ContextParallel:
    """What context parallelism changes of a model: whose positions are counted, and what attention looks at."""

    def __init__(self, group: dist.ProcessGroup, rank: int, ranks: int) -> None:
        self.group, self.rank, self.ranks = group, rank, ranks

    def documents(self, documents: Documents) -> Documents:
        """The documents as this rank sees them."""
        return PartOfDocuments(documents.ids, self.rank, self.ranks)

    def own(
        self,
        values: Tensor,  # (B, T) of whole rows
    ) -> Tensor:  # (B, L)
        """Those of this rank's tokens."""
        return values.index_select(1, places_of(values.shape[1], self.rank, self.ranks).to(values.device))

    def apply_to_block(self, block: nn.Module) -> None:
        """Let a block's attention look over the ranks."""
        attention: Any = block.get_submodule("attention")
        attention.attend = partial(attend_over_ranks, group=self.group)

    def apply_to_hidden(self, model: Any) -> None:
        """Let `model.hidden` take this rank's tokens and the documents of whole rows."""
        whole = model.hidden

        def hidden(tokens: Tensor, documents: Documents | None = None, cache: Any = None) -> Tensor:
            if documents is None:
                size = (tokens.shape[0], tokens.shape[1] * self.ranks)
                documents = Documents(torch.zeros(size, dtype=torch.int32, device=tokens.device))
            found: Tensor = whole(tokens, self.documents(documents), cache)
            return found

        model.hidden = hidden
