"""How similar documents are: by their signatures, and where these leave a doubt, counted from their texts (§3.1.1).

With 112 minima an estimate near .8 is off by .04 (one standard error), so many a pair beside the threshold would fall
on its wrong side. Only such pairs are counted. Their documents' texts are read once, shard by shard, and their distinct
shingles left in files; counting a pair then holds two documents. Documents go by their rows among all measured ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from herdbook.corpus.engine import Engine
from herdbook.corpus.measured import Measured, read_shard, signatures
from herdbook.corpus.minhash import shingles, similarity
from herdbook.corpus.spill import gather
from herdbook.corpus.words import TOKENS, hash_words

COUNTED = 1 << 12
"""Pairs counted by one call."""


@dataclass(frozen=True)
class Signatures:
    """A file of signatures (N, width) uint32, and the threshold that similarities are held against."""

    path: Path
    width: int
    threshold: float
    errors: float = 0.0
    """Standard errors within which of the threshold an estimate leaves a doubt; 0 where there are no texts to count."""

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The signatures (R, width) of rows (R,)."""
        return gather(self.path, rows, self.width)

    def doubtful(self, estimates: np.ndarray) -> np.ndarray:
        """Which estimates (P,) do not say on which side of the threshold a pair lies."""
        margin = self.errors * float(np.sqrt(self.threshold * (1 - self.threshold) / self.width))
        return np.abs(estimates - self.threshold) < margin


def compare(held: Signatures, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pairs (P, 2) of rows the clearly similar ones (C, 2), how similar they are (C,), and the doubtful (D, 2)."""
    estimates = similarity(held.of(pairs[:, 0]), held.of(pairs[:, 1]))
    doubt = held.doubtful(estimates)
    close = ~doubt & (estimates > held.threshold)
    return pairs[close], estimates[close], pairs[doubt]


def write_signatures(shard: Path, target: Path, first: int) -> None:
    """Put a shard's signatures into a file of those of all documents, from row `first` on."""
    found = np.ascontiguousarray(signatures(read_shard(shard, ["duplicate_signature"])["duplicate_signature"]))
    with open(target, "r+b") as file:
        file.seek(first * found.shape[1] * 4)
        file.write(memoryview(found))  # type: ignore[arg-type]


def text_shingles(text: str, size: int) -> np.ndarray:
    """The distinct shingles (S,) uint64 of a text, sorted; its words in the order in which they stand."""
    return np.unique(shingles(hash_words(TOKENS.findall(text.lower())), size))


def shared(left: np.ndarray, right: np.ndarray) -> float:
    """Jaccard similarity of two sets given as sorted arrays of distinct items; of two empty ones 1."""
    both = np.concatenate([left, right])
    both.sort(kind="stable")
    common = int((both[1:] == both[:-1]).sum())
    return common / (len(both) - common) if len(both) else 1.0


class Shingles:
    """The distinct shingles of those documents that were asked for, in one file per shard and time of asking."""

    def __init__(self, measured: Measured, size: int, folder: Path, engine: Engine) -> None:
        self.measured, self.size, self.folder, self.engine = measured, size, folder, engine
        self.files = 0
        self.rows = np.zeros(0, dtype=np.int64)  # sorted
        self.where = np.zeros((0, 3), dtype=np.int64)  # of each of `rows`: number of its file, first item, items

    def add(self, rows: np.ndarray) -> None:
        """Make the shingles of these rows, where they are not there yet."""
        rows = np.setdiff1d(rows, self.rows)
        self.folder.mkdir(exist_ok=True)
        bounds = np.searchsorted(rows, self.measured.starts)
        parts = [(number, rows[a:b]) for number, (a, b) in enumerate(pairwise(bounds.tolist())) if b > a]
        calls = (
            (self.measured.shards[number], some - self.measured.starts[number], self.size, self._file(self.files + n))
            for n, (number, some) in enumerate(parts)
        )
        new = [np.zeros((0, 3), dtype=np.int64)]
        for file, lengths in enumerate(self.engine.each(write_shingles, calls), self.files):
            new.append(np.stack([np.full(len(lengths), file), np.cumsum(lengths) - lengths, lengths], axis=1))
        self.files += len(parts)
        joined = np.concatenate([self.rows, rows])
        order = np.argsort(joined)
        self.rows, self.where = joined[order], np.concatenate([self.where, *new])[order]

    def _file(self, number: int) -> Path:
        return self.folder / str(number)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where the shingles of rows (R,) that were added lie: (R, 3) for `read`."""
        return self.where[np.searchsorted(self.rows, rows)]

    def similarity(self, pairs: np.ndarray) -> np.ndarray:
        """Jaccard similarity (P,) of pairs of rows (P, 2), counted."""
        self.add(np.unique(pairs))
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        left, right = (self.places(pairs[order, side]) for side in (0, 1))
        calls = ((self.folder, left[n : n + COUNTED], right[n : n + COUNTED]) for n in range(0, len(pairs), COUNTED))
        found = np.zeros(len(pairs))
        found[order] = np.concatenate([np.zeros(0), *self.engine.each(count, calls)])
        return found


def write_shingles(shard: Path, rows: np.ndarray, size: int, target: Path) -> np.ndarray:
    """Write the shingles of some rows (R,) of a shard one after the other; how many each has (R,)."""
    texts = read_shard(shard, ["text"])["text"].combine_chunks().take(pa.array(rows))
    lengths = []
    with open(target, "wb") as file:
        for text in texts:
            items = text_shingles(text.as_py() or "", size)
            items.astype("<u8", copy=False).tofile(file)
            lengths.append(len(items))
    return np.array(lengths, dtype=np.int64)


def read(folder: Path, place: list[int]) -> np.ndarray:
    """The shingles that lie at one of `Shingles.places`."""
    file, first, items = place
    return np.fromfile(folder / str(file), "<u8", items, offset=8 * first)


def count(folder: Path, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Jaccard similarity (P,) of documents whose shingles lie at these places (P, 3); equal neighbours read once."""
    found: list[float] = []
    before, items = None, np.zeros(0, dtype="<u8")
    for one, other in zip(left.tolist(), right.tolist()):
        if one != before:
            before, items = one, read(folder, one)
        found.append(shared(items, read(folder, other)))
    return np.array(found)


@dataclass(frozen=True)
class Component:
    """Documents that hang together by similar pairs, the best first."""

    rows: np.ndarray
    places: np.ndarray | None = None
    """Where their shingles lie (M, 3), for pairs in doubt."""
    folder: Path | None = None


def alike(
    held: Signatures,
    component: Component,
    member: int,  # place in the component
    stay: list[int],  # places of those it is compared with
    estimates: np.ndarray,  # (len(stay),) by signatures
) -> tuple[int, float]:
    """Which of `stay` a member resembles most, and how much; counts only where no estimate is clear."""
    doubt = held.doubtful(estimates)
    if (~doubt & (estimates > held.threshold)).any() or component.places is None or component.folder is None:
        estimates = np.where(doubt, 0.0, estimates) if held.errors else estimates
    elif doubt.any():
        estimates = estimates.copy()
        items = read(component.folder, component.places[member].tolist())
        for place in np.flatnonzero(doubt).tolist():
            other = read(component.folder, component.places[stay[place]].tolist())
            estimates[place] = shared(items, other)
    best = int(estimates.argmax())
    return best, float(estimates[best])


def blocks(components: list[Component], size: int) -> Iterator[list[Component]]:
    """Components together until they have `size` documents."""
    some: list[Component] = []
    for component in components:
        some.append(component)
        if sum(len(each.rows) for each in some) >= size:
            yield some
            some = []
    if some:
        yield some
