"""Which pieces of documents lie in which row of which epoch, found from lengths alone.

Best fit (after "Fewer Truncations Improve Language Modeling", Ding et al. 2024) sees only lengths, so it is solved
once per set: every epoch has the same row shapes, and reshuffling swaps documents of equal length and permutes the
rows. Thus the rows of an epoch are known without any epoch before it. Concatenating permutes the documents of each
epoch and cuts the stream. Letters: D documents, P pieces, R rows, T tokens of a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xxhash

CACHED_EPOCHS = 2


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `end` of the flat token array, all of one document; `more` if that document goes on."""

    start: int
    end: int
    more: bool


def shuffled(count: int, *key: int | str) -> np.ndarray:
    """A permutation of `count` that depends on `key` only: not on the machine, nor on the version of any library."""
    seed = xxhash.xxh3_64_intdigest("\0".join(map(str, key)).encode())
    # SplitMix64 of seed + index; overflow is wanted.
    state = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(seed)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(state ^ (state >> np.uint64(31)), kind="stable")


def best_fit(
    lengths: np.ndarray,  # (P,) falling, each from 1 to `capacity`
    capacity: int,
) -> np.ndarray:  # (P,) the row of each piece
    """Best-fit decreasing: each piece goes where the least room is left that holds it, else to a new row.

    All pieces of a length are placed together, so it takes a step per length and room met, not per row.
    """
    rows = np.empty(len(lengths), np.int64)
    room: dict[int, list[np.ndarray]] = {}  # room left -> the rows that have it
    rooms: list[int] = []  # the keys of `room`, rising
    made = 0

    def keep(left: int, which: np.ndarray) -> None:
        if left and len(which):
            if left not in room:
                insort(rooms, left)
                room[left] = []
            room[left].append(which)

    starts = np.flatnonzero(np.r_[True, lengths[1:] != lengths[:-1]]) if len(lengths) else np.empty(0, np.int64)
    for first, last in zip(starts, np.r_[starts[1:], len(lengths)]):
        length, place = int(lengths[first]), int(first)
        while place < last:
            at = bisect_left(rooms, length)
            if at < len(rooms):
                space = rooms.pop(at)
                which = np.concatenate(room.pop(space))
            else:
                space = capacity
                needed = -(-(int(last) - place) // (capacity // length))
                which = np.arange(made, made + needed)
                made += needed
            each = space // length
            full = min(len(which), (int(last) - place) // each)
            rows[place : place + full * each] = np.repeat(which[:full], each)
            place += full * each
            keep(space - each * length, which[:full])
            rest = int(last) - place
            if full < len(which) and rest:
                rows[place:last] = which[full]
                place += rest
                keep(space - rest * length, which[full : full + 1])
                full += 1
            keep(space, which[full:])
    return rows


class BestFitRows:
    """Rows that hold whole documents; a document longer than T is cut into pieces of T and a rest."""

    cuts = True

    def __init__(self, offsets: np.ndarray, length: int, seed: int, name: str) -> None:
        self.seed, self.name = seed, name
        sizes = np.diff(offsets)
        pieces = -(-sizes // length) if self.cuts else (sizes <= length).astype(np.int64)
        document = np.repeat(np.arange(len(sizes)), pieces)
        nth = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = offsets[document] + nth * length
        lengths = np.minimum(length, offsets[document + 1] - starts)
        order = np.argsort(-lengths, kind="stable")
        self.starts, self.lengths = starts[order], lengths[order]
        self.more = (nth + 1 < pieces[document])[order]
        rows = best_fit(self.lengths, length)
        self.slots = np.argsort(rows, kind="stable")  # (P,) pieces by their row
        self.count = int(rows.max(initial=-1)) + 1
        self.borders = np.searchsorted(rows[self.slots], np.arange(self.count + 1))
        self.fill = float(self.lengths.sum() / max(self.count * length, 1))
        self.order = lru_cache(CACHED_EPOCHS)(self.find_order)

    def find_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of an epoch: which row shape stands at each place (R,), and which piece takes each slot (P,)."""
        shuffle = shuffled(len(self.lengths), self.seed, self.name, epoch, "pieces")
        # Sorting the shuffled pieces by length, stably, leaves a shuffle within each length.
        pieces = shuffle[np.argsort(-self.lengths[shuffle], kind="stable")]
        return shuffled(self.count, self.seed, self.name, epoch, "rows"), pieces

    def row(self, epoch: int, index: int) -> list[Span]:
        """The spans of row `index` of an epoch."""
        shapes, pieces = self.order(epoch)
        shape = shapes[index]
        taken = pieces[self.slots[self.borders[shape] : self.borders[shape + 1]]]
        starts, ends = self.starts[taken], self.starts[taken] + self.lengths[taken]
        return [Span(int(a), int(b), bool(m)) for a, b, m in zip(starts, ends, self.more[taken])]


class WholeRows(BestFitRows):
    """Best fit without the documents longer than T, whose ends would ask for what a cut has taken from them."""

    cuts = False


class ConcatenatedRows:
    """Rows cut from one stream of all documents, permuted; only the last row of an epoch has padding."""

    def __init__(self, offsets: np.ndarray, length: int, seed: int, name: str) -> None:
        self.offsets, self.length, self.seed, self.name = offsets, length, seed, name
        tokens = int(offsets[-1])
        self.count = -(-tokens // length)
        self.fill = tokens / max(self.count * length, 1)
        self.order = lru_cache(CACHED_EPOCHS)(self.find_order)

    def find_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of an epoch: the documents in their order (D,), and where each begins in the stream (D + 1,)."""
        documents = shuffled(len(self.offsets) - 1, self.seed, self.name, epoch, "documents")
        sizes = np.diff(self.offsets)[documents]
        return documents, np.concatenate([[0], np.cumsum(sizes)])

    def row(self, epoch: int, index: int) -> list[Span]:
        """The spans of row `index` of an epoch."""
        documents, stream = self.order(epoch)
        begin = index * self.length
        end = min(begin + self.length, int(stream[-1]))
        first = int(np.searchsorted(stream, begin, side="right")) - 1
        spans = []
        for place in range(first, int(np.searchsorted(stream, end, side="left"))):
            start, stop = max(begin, int(stream[place])), min(end, int(stream[place + 1]))
            base = int(self.offsets[documents[place]]) - int(stream[place])
            spans.append(Span(base + start, base + stop, stop < stream[place + 1]))
        return spans


Rows = BestFitRows | ConcatenatedRows
PACKINGS: dict[str, type[BestFitRows] | type[ConcatenatedRows]] = {
    "best_fit": BestFitRows,
    "concatenate": ConcatenatedRows,
    "whole": WholeRows,
}
