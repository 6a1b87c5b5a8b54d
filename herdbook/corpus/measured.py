"""What is measured of a crawl, read shard by shard: no column of texts or signatures is ever held of all documents.

A row's number is its place when the shards are read in order. Whole columns of plain numbers may be asked for; they are
eight bytes a document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_HIDDEN = "text duplicate_signature divergence_tokens divergence_counts lines_hashes lines_words"
HIDDEN = frozenset([*_HIDDEN.split(), "duplicate_url_key", "duplicate_exact_key"])
"""Columns that only deciding reads; they stay with the measured shards."""


@dataclass(frozen=True)
class Codes:
    """A column of few different words, as numbers."""

    names: list[str]
    """The words, sorted."""
    codes: np.ndarray
    """Index into `names` of each document (N,) int32."""

    def counts(self, chosen: np.ndarray) -> np.ndarray:
        """How many of the chosen documents (N,) bool each word has (L,) int64."""
        return np.bincount(self.codes[chosen], minlength=len(self.names))


class Measured:
    """The measured shards of a crawl as one table that is read in parts."""

    def __init__(self, shards: Iterable[Path]) -> None:
        self.shards = sorted(shards)
        metadata = [pq.read_metadata(shard) for shard in self.shards]
        self.starts = np.concatenate([[0], np.cumsum([part.num_rows for part in metadata])]).astype(np.int64)
        self.count = int(self.starts[-1])
        self.schema = metadata[0].schema.to_arrow_schema() if metadata else pa.schema([])

    @cached_property
    def identity(self) -> str:
        """Changes when any shard does."""
        state = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in self.shards]
        return hashlib.sha256(repr(state).encode()).hexdigest()

    def numeric(self) -> list[str]:
        """Columns of numbers that rules may read."""
        return [field.name for field in self.schema if field.name not in HIDDEN and _is_number(field.type)]

    def parts(self, *names: str) -> Iterator[tuple[slice, pa.Table]]:
        """Every shard's rows and the columns named, one shard at a time."""
        for number in range(len(self.shards)):
            yield self.rows(number), self.table(number, names)

    def rows(self, number: int) -> slice:
        """The rows of a shard."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def table(self, number: int, names: Iterable[str] | None = None) -> pa.Table:
        """A shard's columns, all of them unless named."""
        return read_shard(self.shards[number], None if names is None else list(names))

    def numbers(self, name: str) -> np.ndarray:
        """A whole column of numbers (N,)."""
        found = [table[name].to_numpy() for _, table in self.parts(name)]
        return np.concatenate(found) if found else np.zeros(0)

    def moments(self, name: str = "date") -> np.ndarray:
        """Dates as numbers (N,) int64 in the order of time: their first 14 digits, 0 where there are none."""
        found = [_moments(table[name]) for _, table in self.parts(name)]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    @cached_property
    def languages(self) -> Codes:
        """The language of each document."""
        return self.codes("language")

    def codes(self, name: str) -> Codes:
        """A column of few different words."""
        seen: dict[str, int] = {}
        found = []
        for _, table in self.parts(name):
            coded = pc.fill_null(table[name], "").combine_chunks().dictionary_encode()
            words = [seen.setdefault(word, len(seen)) for word in coded.dictionary.to_pylist()]
            found.append(np.array(words, dtype=np.int32)[coded.indices.to_numpy()] if words else np.zeros(0, np.int32))
        names = sorted(seen)
        places = np.zeros(len(seen), dtype=np.int32)
        places[[seen[word] for word in names]] = np.arange(len(names))
        return Codes(names, places[np.concatenate(found)] if found else np.zeros(0, dtype=np.int32))

    def pick(self, name: str, wanted: np.ndarray) -> pa.Array:
        """A column's values at the sorted rows `wanted` (W,)."""
        found = []
        for rows, table in self.parts(name):
            inside = wanted[np.searchsorted(wanted, rows.start) : np.searchsorted(wanted, rows.stop)]
            if len(inside):
                found.append(table[name].combine_chunks().take(pa.array(inside - rows.start)))
        return pa.concat_arrays(found) if found else pa.array([], pa.string())


def read_shard(shard: Path, names: list[str] | None = None) -> pa.Table:
    """Columns of a measured shard."""
    with pq.ParquetFile(shard) as file:
        return file.read(columns=names, use_threads=False)


def lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column of n lists as all values (V,) and where each list begins and the last one ends (n + 1,)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    offsets = array.offsets.to_numpy()
    return array.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]


def signatures(column: pa.ChunkedArray) -> np.ndarray:
    """A column of signatures as (n, K) uint32."""
    array = column.combine_chunks()
    width = array.type.byte_width
    packed = np.frombuffer(array.buffers()[1], dtype=np.uint8) if len(array) else np.zeros(0, np.uint8)
    start = array.offset * width
    return packed[start : start + len(array) * width].view("<u4").reshape(len(array), width // 4)


def _moments(column: pa.ChunkedArray) -> np.ndarray:
    digits = pc.replace_substring_regex(pc.fill_null(column.cast(pa.string()), ""), r"[^0-9]", "")
    padded = pc.utf8_rpad(pc.utf8_slice_codeunits(digits, 0, 14), 14, "0")
    return pc.cast(padded, pa.int64()).to_numpy()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
