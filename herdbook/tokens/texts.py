"""Reading the texts of `documents` entries, a few megabytes at a time, always in the same order.

Which documents are held out is decided by a hash of their id, so a page stays on its side of the split however
the corpus around it changes, whole pages are held out, and the tokenizer is not trained on them either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from herdbook.settings import UserError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class Texts:
    """Some documents: ids, texts, and the length of each text in bytes of UTF-8."""

    ids: list[str]
    texts: list[str]
    bytes: list[int]


def document_files(entry: Path) -> list[Path]:
    """The Parquet files of a `documents` entry in their order; `UserError` where there are none."""
    folder = entry / "documents" if (entry / "documents").is_dir() else entry
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"{folder}: no *.parquet here; give a documents entry, as a curate stage leaves it")
    return files


def read_texts(entry: Path) -> Iterator[Texts]:
    """The documents of an entry by file name and row, in batches of about 8 MB; those without text are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in document_files(entry):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=["id", "text"]):
                    yield from split_batch(batch)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{path}: not a whole documents file with columns id and text ({error})") from None


def split_batch(batch: pa.RecordBatch) -> Iterator[Texts]:
    """Parts of a record batch whose texts are small enough to be held as Python strings together."""
    import pyarrow.compute as pc

    batch = batch.filter(pc.fill_null(pc.greater(pc.binary_length(batch["text"]), 0), False))
    lengths = pc.binary_length(batch["text"]).to_pylist()
    start, size = 0, 0
    for row, length in enumerate(lengths):
        if size and size + length > BATCH_BYTES:
            yield to_texts(batch.slice(start, row - start), lengths[start:row])
            start, size = row, 0
        size += length
    if start < len(lengths):
        yield to_texts(batch.slice(start), lengths[start:])


def to_texts(batch: pa.RecordBatch, lengths: list[int]) -> Texts:
    """A record batch as Python values."""
    return Texts([str(id) for id in batch["id"].to_pylist()], batch["text"].to_pylist(), lengths)


def count_documents(entry: Path) -> int:
    """How many rows an entry's Parquet files say they have (nothing but their footers is read)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    for path in document_files(entry):
        try:
            total += pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a whole Parquet file ({error})") from None
    return total


def draw(id: str, purpose: str) -> float:
    """A number in [0, 1) that is the same whenever a document's id is drawn for the same purpose."""
    return xxhash.xxh3_64_intdigest(f"{purpose}\0{id}".encode()) / 2.0**64


def is_heldout(id: str, fraction: float) -> bool:
    """Whether a document is held out; a larger fraction holds out a superset."""
    return draw(id, "heldout") < fraction
