"""Lines that too many documents share are boilerplate and removed (§3.1.1, after ccNet).

Lines are counted among the documents that are still kept, per language and in buckets of a fixed number of
documents; a line counts once per document. Code, table rows and short labels are never looked at (measure.py).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from herdbook.corpus.engine import keys_in_many


def repeated_keys(
    hashes: pa.ChunkedArray,  # N lists of int64, 0 for lines never removed
    alive: np.ndarray,  # (N,) bool
    numbers: np.ndarray,  # (N,) int64 bucket of each document
    least: int,
) -> np.ndarray:  # (R,) int64, sorted: line hashes mixed with their bucket's number
    """Keys of the lines that stand in more than `least` kept documents of their bucket."""
    keys, documents = line_keys(hashes, numbers)
    chosen = (keys != 0) & alive[documents]
    keys, documents = keys[chosen], documents[chosen]
    order = np.lexsort((documents, keys))
    keys, documents = keys[order], documents[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = (keys[1:] != keys[:-1]) | (documents[1:] != documents[:-1])
    return keys_in_many(keys[first], least)[0]


def buckets(alive: np.ndarray, languages: np.ndarray, size: int) -> np.ndarray:
    """Bucket number (N,) int64 of each document: its language's, then a new one every `size` kept documents."""
    numbers = np.zeros(len(alive), dtype=np.int64)
    for index, language in enumerate(np.unique(languages)):
        rows = languages == language
        numbers[rows] = index * 100_003 + np.maximum(np.cumsum(alive[rows]) - 1, 0) // size
    return numbers


def line_keys(hashes: pa.ChunkedArray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All lines' keys (L,) int64 (hash mixed with bucket; 0 stays 0) and the document (L,) each belongs to."""
    array = hashes.combine_chunks() if isinstance(hashes, pa.ChunkedArray) else hashes
    offsets = array.offsets.to_numpy()
    values = array.values.to_numpy()[offsets[0] : offsets[-1]]
    documents = np.repeat(np.arange(len(numbers)), np.diff(offsets))
    mixed = values ^ (numbers[documents] * np.int64(0x5851F42D4C957F2D))
    return np.where(values == 0, 0, np.where(mixed == 0, 1, mixed)), documents


def removed_lines(keys: np.ndarray, repeated: np.ndarray) -> np.ndarray:
    """Which lines (L,) bool are among the sorted repeated keys."""
    if not len(repeated):
        return np.zeros(len(keys), dtype=bool)
    place = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    return (repeated[place] == keys) & (keys != 0)
