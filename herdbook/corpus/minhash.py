"""MinHash signatures of word shingles, and the documents they make candidates (§3.1.1).

Letters: S shingles of a document, K minima kept, N documents, B bands.
"""

from __future__ import annotations

from functools import cache

import numpy as np

BLOCK = 512
"""Shingles hashed at a time, so that the table of hashes stays in the processor's cache."""


@cache
def coefficients(permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd multipliers and addends (K,) uint64 of the hash functions, the same on every machine."""
    generator = np.random.default_rng(20240731)
    a = generator.integers(0, 2**63, permutations, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    b = generator.integers(0, 2**63, permutations, dtype=np.uint64) * np.uint64(2)
    return a, b


def shingles(words: np.ndarray, size: int) -> np.ndarray:
    """Distinct hashes (S,) uint64 of `size` words in a row, from word hashes (W,) uint64; a short text is one."""
    if len(words) == 0:
        return words
    size = min(size, len(words))
    count = len(words) - size + 1
    mixed = words[:count].copy()
    for step in range(1, size):
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        mixed += words[step : step + count]
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    mixed ^= mixed >> np.uint64(32)
    return np.unique(mixed)


def signature(items: np.ndarray, permutations: int) -> np.ndarray:
    """The K minima (K,) uint32 of a set of hashes (S,) uint64; all ones for an empty set."""
    a, b = coefficients(permutations)
    least = np.full(permutations, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(items), BLOCK):
        table = items[start : start + BLOCK, None] * a
        table += b
        np.minimum(least, table.min(axis=0), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


def band_keys(signatures: np.ndarray, rows: int) -> np.ndarray:
    """One int64 key per document and band (N, B) from signatures (N, K) uint32; equal rows give equal keys."""
    count, permutations = signatures.shape
    bands = permutations // rows
    cells = signatures[:, : bands * rows].astype(np.uint64).reshape(count, bands, rows)
    keys = np.tile(np.arange(bands, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15), (count, 1))
    for row in range(rows):
        keys = (keys ^ cells[:, :, row]) * np.uint64(0xFF51AFD7ED558CCD)
        keys ^= keys >> np.uint64(32)
    return keys.view(np.int64)


def similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity (P,) of pairs of signatures (P, K)."""
    return (left == right).mean(axis=1) if len(left) else np.zeros(0)
