"""MinHash signatures of word shingles, and the documents they make candidates (§3.1.1).

The minima are rensa's, given our hashes, so a document is cut into words only once. Its hash functions spread a
set's minima more evenly than independent ones, which makes the estimate of small sets' similarity sharper.
Letters: S shingles of a document, K minima kept, N documents, B bands.
"""

from __future__ import annotations

import numpy as np
from rensa import RMinHash

SEED = 20240731
"""Of rensa's hash functions; with another seed, or another version of its algorithm, signatures do not compare."""


def shingles(words: np.ndarray, size: int) -> np.ndarray:
    """Hashes (S,) uint64 of `size` words in a row, from word hashes (W,) uint64; a short text is one.

    Shingles that come again are not sorted out: that would take longer than a signature, whose minima are the same.
    """
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
    return mixed


def signature(items: np.ndarray, permutations: int) -> np.ndarray:
    """The K minima (K,) uint32 of a set of hashes (S,) uint64; all ones for an empty set."""
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.ascontiguousarray(items, dtype=np.uint64), [0, len(items)], permutations, SEED
    )
    return np.array(matrix.to_rows()[0], dtype=np.uint32)


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


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Jaccard similarity of two sets of shingles given as hashes, exactly."""
    left, right = np.unique(left), np.unique(right)
    both = len(left) + len(right)
    if not both:
        return 1.0
    merged = np.sort(np.concatenate([left, right]))
    common = int((merged[1:] == merged[:-1]).sum())
    return common / (both - common)
