"""Where the documents of packed rows begin and end (§3.2: a token attends within its own document only).

Batches carry one id per token; every maximal run of equal ids in a row is a document. Everything the
model needs from that (positions, borders, the mask) is found once per batch, not once per layer.
Letters: B rows, T tokens, N documents of the whole batch.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Documents:
    """The documents of one batch of packed rows."""

    def __init__(
        self,
        ids: Tensor,  # (B, T) integers; neighbours with equal ids belong together
    ) -> None:
        if ids.ndim != 2:
            raise ValueError(f"document ids must be (rows, tokens), got shape {tuple(ids.shape)}")
        self.ids = ids

    @classmethod
    def from_ids(cls, ids: Tensor) -> Documents:
        """Documents from (B, T) ids; each maximal run of equal ids in a row is one document."""
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
    def positions(self) -> Tensor:
        """(B, T) int64 place of each token in its document, from 0."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        return place - (place * self.starts).cummax(dim=1).values

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
    def whole_rows(self) -> bool:
        """Whether every row is one document, so that plain causal attention will do."""
        return len(self.lengths) == self.ids.shape[0]

    @cached_property
    def borders(self) -> Tensor:
        """(N + 1,) int32 offsets of the documents in the flattened batch, on the device of the ids."""
        ends = torch.tensor([0, *self.lengths]).cumsum(0)
        return ends.to(device=self.ids.device, dtype=torch.int32)

    @cached_property
    def longest(self) -> int:
        """Length of the longest document."""
        return max(self.lengths)

    @cached_property
    def mean_attended(self) -> float:
        """How many positions a token attends to, itself included, on average: what causal FLOPs count."""
        return sum(length * (length + 1) / 2 for length in self.lengths) / self.ids.numel()

    @cached_property
    def mask(self) -> Tensor:
        """(B, 1, T, T) bool: True where a token (third axis) may attend to another (last axis)."""
        number = self.starts.cumsum(dim=1)
        same = number.unsqueeze(2) == number.unsqueeze(1)
        return same.tril().unsqueeze(1)

    def to(self, device: torch.device | str) -> Documents:
        """The same documents with their tensors on `device`."""
        return Documents(self.ids.to(device))
