"""Where the documents of packed rows begin and end (§3.2: a token attends within its own document only).

Batches carry one id per token; every maximal run of equal ids in a row is a document. A run whose id is negative is
a branch: it goes on from the last run before it whose id is not (its trunk), so several answers to one prompt lie in
one row, and none sees another (§4.1.2). Everything the model needs from that (positions, borders, the mask) is found
once per batch, not once per layer.
Letters: B rows, T tokens, N documents of the whole batch, K tokens that they see, a trunk's once for each branch.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Documents:
    """The documents of one batch of packed rows."""

    def __init__(
        self,
        ids: Tensor,  # (B, T) integers; neighbours with equal ids belong together, negative ones to what is before them
    ) -> None:
        if ids.ndim != 2:
            raise ValueError(f"document ids must be (rows, tokens), got shape {tuple(ids.shape)}")
        self.ids = ids

    @classmethod
    def from_ids(cls, ids: Tensor) -> Documents:
        """Documents from (B, T) ids; each maximal run of equal ids in a row is a document, a negative one a branch."""
        return cls(ids)

    @classmethod
    def from_lengths(cls, lengths: list[int], device: torch.device | str = "cpu") -> Documents:
        """One row that holds documents of these lengths, one after the other."""
        numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        return cls(numbers.unsqueeze(0).to(device))

    @cached_property
    def starts(self) -> Tensor:
        """(B, T) bool: the first token of each document."""
        first = torch.ones_like(self.ids, dtype=torch.bool)
        first[:, 1:] = self.ids[:, 1:] != self.ids[:, :-1]
        return first

    @cached_property
    def branches(self) -> Tensor:
        """(B, T) bool: the tokens of branches."""
        return self.ids < 0

    @cached_property
    def branched(self) -> bool:
        """Whether there is any branch."""
        return bool(self.branches.any())

    @cached_property
    def branch_numbers(self) -> Tensor:
        """(B, T) int64: which branch of its row a token belongs to, from 0; -1 where to none."""
        return torch.where(self.branches, (self.starts & self.branches).cumsum(dim=1) - 1, -1)

    @cached_property
    def positions(self) -> Tensor:
        """(B, T) int64 place of each token in its document, from 0; a branch counts on from its trunk."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        within = place - (place * self.starts).cummax(dim=1).values
        if not self.branched:
            return within
        first = self.starts & self.branches
        first[:, 1:] &= ~self.branches[:, :-1]  # the branches of a trunk begin where it ends
        trunk_end = (place * first).cummax(dim=1).values
        trunk_start = (place * (self.starts & ~self.branches)).cummax(dim=1).values
        return within + (trunk_end - trunk_start) * self.branches

    @cached_property
    def lengths(self) -> list[int]:
        """The length of each document, row after row, on the host."""
        flat = self.starts.flatten().nonzero().squeeze(1).cpu()
        ends = torch.cat([flat[1:], torch.tensor([self.ids.numel()])])
        return (ends - flat).tolist()

    @cached_property
    def spans(self) -> list[tuple[int, int, int]]:
        """(row, start, end) of each document, on the host; end is exclusive."""
        time, spans, at = self.ids.shape[1], [], 0
        for length in self.lengths:
            spans.append((at // time, at % time, at % time + length))
            at += length
        return spans

    @cached_property
    def trunks(self) -> list[tuple[int, int]]:
        """(start, end) in the flattened batch of what each document goes on from; both its own start where nothing."""
        branch = self.branches.flatten()[self.borders[:-1].long()].tolist() if self.branched else [False] * self.count
        found, trunk, at = [], (0, 0), 0
        for length, goes_on in zip(self.lengths, branch, strict=True):
            if at % self.ids.shape[1] == 0:
                trunk = (at, at)
            found.append(trunk if goes_on else (at, at))
            if not goes_on:
                trunk = (at, at + length)
            at += length
        return found

    @cached_property
    def count(self) -> int:
        """N, the documents of the batch, branches and trunks each for themselves."""
        return len(self.lengths)

    @cached_property
    def seen_lengths(self) -> list[int]:
        """How many tokens each document's last token sees, itself included: its trunk's and its own."""
        return [end - start + length for (start, end), length in zip(self.trunks, self.lengths, strict=True)]

    @cached_property
    def seen_places(self) -> Tensor:
        """(K,) int64 places in the flattened batch of what each document sees, document after document."""
        places, at = [], 0
        for (start, end), length in zip(self.trunks, self.lengths, strict=True):
            places += [torch.arange(start, end), torch.arange(at, at + length)]
            at += length
        return torch.cat(places).to(self.ids.device)

    def seen(
        self,
        flat: Tensor,  # (B * T, ...) keys or values of all tokens
    ) -> Tensor:  # (K, ...); the queries of a document belong to the last of its
        """What each document's tokens look at, document after document; `flat` itself where nothing branches."""
        return flat.index_select(0, self.seen_places) if self.branched else flat

    @cached_property
    def whole_rows(self) -> bool:
        """Whether every row is one document, so that plain causal attention will do."""
        return len(self.lengths) == self.ids.shape[0]

    @cached_property
    def borders(self) -> Tensor:
        """(N + 1,) int32 offsets of the documents in the flattened batch, on the device of the ids."""
        return self._offsets(self.lengths)

    @cached_property
    def seen_borders(self) -> Tensor:
        """(N + 1,) int32 offsets of the documents in what they see."""
        return self._offsets(self.seen_lengths) if self.branched else self.borders

    def _offsets(self, lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths]).cumsum(0).to(device=self.ids.device, dtype=torch.int32)

    @cached_property
    def longest(self) -> int:
        """The most tokens that any token sees, itself included."""
        return max(self.seen_lengths)

    @cached_property
    def mean_attended(self) -> float:
        """How many positions a token attends to, itself included, on average: what causal FLOPs count."""
        pairs = zip(self.lengths, self.seen_lengths, strict=True)
        return sum(length * (seen - (length - 1) / 2) for length, seen in pairs) / self.ids.numel()

    @cached_property
    def mask(self) -> Tensor:
        """(B, 1, T, T) bool: True where a token (third axis) may attend to another (last axis)."""
        number = self.starts.cumsum(dim=1)
        seen = number.unsqueeze(2) == number.unsqueeze(1)
        if self.branched:
            trunk = (number * (self.starts & ~self.branches)).cummax(dim=1).values.masked_fill(~self.branches, 0)
            seen |= trunk.unsqueeze(2) == number.unsqueeze(1)
        return seen.tril().unsqueeze(1)

    def to(self, device: torch.device | str) -> Documents:
        """The same documents with their tensors on `device`."""
        return Documents(self.ids.to(device))
