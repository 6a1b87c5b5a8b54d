"""Batches as a pure function of (seed, step): any step, in any order, on any machine, after any restart.

How many rows of each set a step has follows from its mix weights and its number; how many a set gave before is a
running sum; that sum says epoch and row (see `rows`). Over a run each set's share strays from its weight by a few
rows only. Letters: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from herdbook.settings import UserError
from herdbook.tokens.rows import PACKINGS, BestFitRows, Rows, Span, shuffled
from herdbook.tokens.shards import TokenSet, TokenSets

NOT_COUNTED = -100
PADDING = -1
BLOCK = 4096
GOLDEN = (math.sqrt(5) - 1) / 2
Mix = Mapping[str, float]
Packing = Literal["best_fit", "concatenate", "whole"]


@dataclass
class Batch:
    """Packed rows: `targets[b, t]` follows `tokens[b, t]` in its document, or is -100 where nothing does."""

    tokens: Tensor  # (B, T) int64; 0 where there is padding
    targets: Tensor  # (B, T) int64; -100 at a document's last token and where there is padding
    document_ids: Tensor  # (B, T) int32, from 0 in each row; padding is -1

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int | None = None) -> Batch:
        """Rows `start` to `stop`, not copied."""
        part = slice(start, stop)
        return Batch(self.tokens[part], self.targets[part], self.document_ids[part])

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device; from pinned memory the copy goes on beside what the device is doing."""
        return Batch(
            *(t.to(device, non_blocking=t.is_pinned()) for t in (self.tokens, self.targets, self.document_ids))
        )

    def pin_memory(self) -> Batch:
        """The batch in memory that an accelerator copies from by itself."""
        return Batch(self.tokens.pin_memory(), self.targets.pin_memory(), self.document_ids.pin_memory())

    @property
    def count(self) -> int:
        """How many targets are counted."""
        return int((self.targets != NOT_COUNTED).sum())


class PackedBatches:
    """The batches of a run over token sets.

    `mix` gives each set's share of the rows (made to sum to 1; sets not named have none; without a mix, shares are
    by tokens), or is a schedule: a list of (first step, shares), the first at step 0. A schedule changes nothing
    of the steps before it. `rows` of a batch may be a schedule as well: (first step, rows). Raises `UserError` for
    unknown sets, weights that are no shares, and empty sets.
    """

    def __init__(
        self,
        sets: TokenSets,
        *,
        mix: Mix | Sequence[tuple[int, Mix]] | None = None,
        length: int,
        rows: int | Sequence[tuple[int, int]],
        seed: int,
        packing: Packing = "best_fit",
    ) -> None:
        ramp = [(0, rows)] if isinstance(rows, int) else list(rows)
        self.row_starts = np.array([start for start, _ in ramp])
        self.row_counts = np.array([count for _, count in ramp])
        if length < 2 or self.row_counts.min() < 1:
            raise UserError(f"batches of {rows} rows of {length} tokens cannot be; rows ≥ 1 and length ≥ 2")
        if packing not in PACKINGS:
            raise UserError(f"packing is {packing!r}; it is one of {', '.join(PACKINGS)}")
        self.sets, self.length, self.rows, self.seed = sets, length, int(self.row_counts[-1]), seed
        self.starts, shares = read_mix(sets, mix)
        self.shares = np.cumsum(shares, axis=1)  # (schedule, sets) where each set's share ends, up to 1
        # Exactly 1 from the last set that has a share, or rounding could hand a row to one that has none.
        self.shares[np.flip(np.cumsum(np.flip(shares, 1), axis=1), 1) - shares == 0] = 1.0
        self.names = [name for name, share in zip(sets.names, np.any(shares > 0, axis=0)) if share]
        make = PACKINGS[packing]
        self.tables: dict[str, Rows] = {
            name: make(np.asarray(sets.sets[name]["train"].offsets), length, seed, name) for name in self.names
        }
        self.blocks = [np.zeros(len(sets.names), np.int64)]  # rows that each set gave before each block of steps
        for name, table in self.tables.items():
            if not table.count:
                raise UserError(f"the set {name!r} has no document of at most {length} tokens for packing=whole")
        self.phase = float(shuffled(1 << 16, seed, "mix")[0]) / (1 << 16)

    def counts(self, first: int, last: int) -> np.ndarray:
        """(steps, sets) int64: how many rows of each set the steps from `first` to before `last` have.

        A point that walks the unit circle by the golden ratio rounds each share up or down: the mean is exact, a
        step is within one row of its share, and shortfalls never gather.
        """
        steps = np.arange(first, last)
        shares = self.shares[np.searchsorted(self.starts, steps, side="right") - 1]
        rows = self.row_counts[np.searchsorted(self.row_starts, steps, side="right") - 1][:, None]
        point = (self.phase + steps * GOLDEN) % 1.0
        ends = np.floor(shares * rows + point[:, None]).astype(np.int64)
        return np.diff(np.minimum(ends, rows), axis=1, prepend=0)

    def given(self, step: int) -> dict[str, int]:
        """How many rows each set gave before `step`."""
        block, rest = divmod(step, BLOCK)
        while len(self.blocks) <= block:
            at = (len(self.blocks) - 1) * BLOCK
            self.blocks.append(self.blocks[-1] + self.counts(at, at + BLOCK).sum(axis=0))
        total = self.blocks[block] + self.counts(step - rest, step).sum(axis=0)
        return {name: int(value) for name, value in zip(self.sets.names, total)}

    def epochs(self, step: int) -> dict[str, float]:
        """How many times each set has been gone through before `step`."""
        given = self.given(step)
        return {name: given[name] / table.count for name, table in self.tables.items()}

    def places(self, step: int) -> list[tuple[str, int, int]]:
        """The (set, epoch, row) of each row of a step."""
        if step < 0:
            raise ValueError(f"step is {step}; steps count from 0")
        given = self.given(step)
        places = []
        for name, count in zip(self.sets.names, self.counts(step, step + 1)[0]):
            for row in range(given[name], given[name] + int(count)):
                places.append((name, *divmod(row, self.tables[name].count)))
        # Sets alternate within the batch, so that parts of it, for accumulation or ranks, have the mix as well.
        return [places[i] for i in shuffled(len(places), self.seed, step, "order")]

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """The batch of a step, or only its rows `start` to `stop`."""
        places = self.places(step)[start:stop]
        return assemble(
            [(self.sets.sets[name]["train"], self.tables[name].row(epoch, row)) for name, epoch, row in places],
            self.length,
        )

    def size(self, step: int) -> int:
        """Rows of a step's batch."""
        return int(self.row_counts[np.searchsorted(self.row_starts, step, side="right") - 1])

    def heldout(self, name: str | None = None, max_tokens: int | None = None, rows: int | None = None) -> HeldOut:
        """The held-out documents of one set, or of all that the mix names; see `HeldOut`."""
        chosen = self.names if name is None else [name]
        for one in chosen:
            check_name(one, self.sets, "held-out set")
        splits = [self.sets.sets[one]["heldout"] for one in chosen]
        return HeldOut(splits, self.length, rows or self.rows, max_tokens)


class HeldOut:
    """Batches over held-out documents: every token after a document's first is a target exactly once.

    `bytes` is the text of these documents, so bits per byte is the summed loss / ln 2 / `bytes`. With `max_tokens`
    only as many whole documents, spread evenly over the sets, as have about that many tokens. Goes round again
    each time it is iterated.
    """

    def __init__(self, splits: list[TokenSet], length: int, rows: int, max_tokens: int | None = None) -> None:
        self.length, self.rows = length, rows
        total = sum(len(split.tokens) for split in splits)
        share = 1.0 if max_tokens is None else min(1.0, max_tokens / max(total, 1))
        self.bytes = self.documents = self.tokens = 0
        self.spans: list[tuple[TokenSet, list[Span]]] = []
        for split in splits:
            chosen = spread(len(split), share)
            sizes = np.diff(split.offsets)[chosen]
            # Packing sees the chosen documents as if they lay side by side; `moved` finds them in the file again.
            side_by_side = np.concatenate([[0], np.cumsum(sizes)])
            table = BestFitRows(side_by_side, length, 0, "heldout")
            for row in range(table.count):
                spans = [moved(span, side_by_side, split.offsets, chosen) for span in table.row(0, row)]
                self.spans.append((split, spans))
            self.bytes += int(split.bytes[chosen].sum())
            self.documents += len(chosen)
            self.tokens += int(sizes.sum())

    def __len__(self) -> int:
        return -(-len(self.spans) // self.rows)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self.spans), self.rows):
            yield assemble(self.spans[first : first + self.rows], self.length)


def spread(count: int, share: float) -> np.ndarray:
    """About `share` of the numbers below `count`, evenly spread; at least one where there is any."""
    taken = min(count, max(1, round(count * share)))
    return np.arange(taken) * count // max(taken, 1)


def moved(span: Span, side_by_side: np.ndarray, offsets: np.ndarray, chosen: np.ndarray) -> Span:
    """A span among the chosen documents as a span of the token file."""
    nth = int(np.searchsorted(side_by_side, span.start, side="right")) - 1
    shift = int(offsets[chosen[nth]]) - int(side_by_side[nth])
    return Span(span.start + shift, span.end + shift, span.more)


def assemble(rows: list[tuple[TokenSet, list[Span]]], length: int) -> Batch:
    """Rows of spans as tensors."""
    tokens = np.zeros((len(rows), length), np.int64)
    targets = np.full((len(rows), length), NOT_COUNTED, np.int64)
    ids = np.full((len(rows), length), PADDING, np.int32)
    for row, (source, spans) in enumerate(rows):
        place = 0
        for number, span in enumerate(spans):
            size = span.end - span.start
            # A piece that is not its document's last still predicts the next piece's first token.
            known = size if span.more else size - 1
            tokens[row, place : place + size] = source.tokens[span.start : span.end]
            following = slice(span.start + 1, span.start + 1 + known)
            targets[row, place : place + known] = source.tokens[following]
            if source.counted is not None:
                targets[row, place : place + known][~source.counted[following]] = NOT_COUNTED
            ids[row, place : place + size] = number
            place += size
    return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(ids))


def check_name(name: str, sets: TokenSets, what: str) -> None:
    """Raise `UserError` unless there is a set of this name."""
    if name not in sets.sets:
        raise UserError(f"{what} {name!r} is not among the token sets of {sets.folder}: {', '.join(sets.names)}")


def read_mix(sets: TokenSets, mix: Mix | Sequence[tuple[int, Mix]] | None) -> tuple[np.ndarray, np.ndarray]:
    """Where each part of the schedule starts (S,), and the share of each set in it (S, sets)."""
    sizes = {name: len(splits["train"].tokens) for name, splits in sets.sets.items()}
    if mix is None:
        mix = {name: float(size) for name, size in sizes.items()}
    schedule = [(0, mix)] if isinstance(mix, Mapping) else sorted(mix, key=lambda part: part[0])
    starts = [start for start, _ in schedule]
    if not schedule or starts[0] != 0 or len(set(starts)) != len(starts):
        raise UserError(f"the mix's schedule starts at steps {starts}; it must start at 0, and each step once")
    shares = np.zeros((len(schedule), len(sets.names)))
    for part, (_, weights) in enumerate(schedule):
        for name, weight in weights.items():
            check_name(name, sets, "mix: set")
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"mix: the weight of {name!r} is {weight}; a weight is a number of at least 0")
            if weight > 0 and not sizes[name]:
                raise UserError(f"mix: the set {name!r} has no documents to train on; leave it out, or give it some")
            shares[part, sets.names.index(name)] = weight
        if not shares[part].sum() > 0:
            raise UserError("mix: all weights are 0, so there is nothing to train on")
    return np.array(starts), shares / shares.sum(axis=1, keepdims=True)
