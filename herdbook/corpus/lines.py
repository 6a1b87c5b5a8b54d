"""Lines that too many documents share are boilerplate and removed (§3.1.1, after ccNet).

How many documents carry a line grows with the crawl; one that names its site never gets beyond the pages of that site,
so fewer are enough where all are of one site. Lines are counted among the documents that are still kept, per language
and in buckets of a fixed number of documents; a line counts once per document. Code, table rows and short labels are
never looked at (measure.py).
"""

from __future__ import annotations

import numpy as np
import xxhash

from herdbook.corpus.urls import host_of


class Buckets:
    """Gives documents their bucket, in the order they come: a language's first, then a new one every `size` kept."""

    def __init__(self, languages: int, size: int) -> None:
        self.seen, self.size = np.zeros(languages, dtype=np.int64), size

    def next(self, codes: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """Bucket number (n,) int64 of the next documents, by their languages' numbers and whether they are kept."""
        numbers = np.empty(len(codes), dtype=np.int64)
        for code in np.unique(codes):
            rows = codes == code
            place = self.seen[code] + np.cumsum(alive[rows])
            numbers[rows] = int(code) * 100_003 + np.maximum(place - 1, 0) // self.size
            self.seen[code] = place[-1]
        return numbers


def line_keys(
    values: np.ndarray,  # (V,) int64 hashes of all lines, 0 for lines never removed
    offsets: np.ndarray,  # (n + 1,) where each document's begin
    numbers: np.ndarray,  # (n,) int64 bucket of each document
) -> tuple[np.ndarray, np.ndarray]:
    """All lines' keys (V,) int64 (hash mixed with bucket; 0 stays 0) and the document (V,) each belongs to."""
    documents = np.repeat(np.arange(len(numbers)), np.diff(offsets))
    mixed = values ^ (numbers[documents] * np.int64(0x5851F42D4C957F2D))
    return np.where(values == 0, 0, np.where(mixed == 0, 1, mixed)), documents


def once_per_document(
    keys: np.ndarray, documents: np.ndarray, alive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # (R,) int64 each
    """Keys of the kept documents' lines, each once per document, and these; lines never removed are left out."""
    chosen = (keys != 0) & alive[documents]
    keys, documents = keys[chosen], documents[chosen]
    order = np.argsort(keys, kind="stable")  # documents come in order, and stay so within a key
    keys, documents = keys[order], documents[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = (keys[1:] != keys[:-1]) | (documents[1:] != documents[:-1])
    return keys[first], documents[first]


def sites(urls: list[str | None], first: int) -> np.ndarray:
    """A number (n,) int64 per document that those of one host share; `first` is the row of the first of them."""
    numbers = -1 - np.arange(first, first + len(urls), dtype=np.int64)  # without a host, each by itself
    for place, url in enumerate(urls):
        if host := host_of(url or ""):
            numbers[place] = xxhash.xxh3_64_intdigest(host.encode("utf-8", "replace")) >> 1
    return numbers


def removed_lines(keys: np.ndarray, repeated: np.ndarray) -> np.ndarray:
    """Which lines (L,) bool are among the sorted repeated keys."""
    if not len(repeated):
        return np.zeros(len(keys), dtype=bool)
    place = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    return (repeated[place] == keys) & (keys != 0)
