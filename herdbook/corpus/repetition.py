"""How much of a text repeats: n-grams of words, lines, and how few words it has (§3.1.1).

N-grams are compared by hashes that are mixed word by word, so that a longer one costs one step more than a shorter.
"""

from __future__ import annotations

import numpy as np

DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)
ENTROPY_WORDS = 100
"""Words below which the entropy of a text's words is not judged."""


def repetition(hashes: np.ndarray, text: str, scale: int = 1) -> dict[str, float | None]:
    """Shares of a text that repeat: most common 2-, 3-, 4-gram; words inside repeated 5- to 10-grams; lines; entropy.

    `scale` multiplies the sizes where words are characters, of which it takes more to say as much.
    """
    result: dict[str, float | None] = {}
    for size in (2, 3, 4):
        result[f"repetition_top_{size}gram"] = top_share(hashes, size * scale)
    for size, share in covered_shares(hashes, DUPLICATE_SIZES, scale).items():
        result[f"repetition_duplicate_{size}gram"] = share
    lines = [line for line in text.split("\n") if line.strip()]
    result["repetition_duplicate_lines"] = 1.0 - len(set(lines)) / len(lines) if lines else 0.0
    result["repetition_word_entropy"] = word_entropy(hashes)
    return result


def word_entropy(hashes: np.ndarray) -> float | None:
    """Entropy in bits of a text's own words (W,); None below ENTROPY_WORDS, where it says more of the length."""
    if len(hashes) < ENTROPY_WORDS:
        return None
    share = np.unique(hashes, return_counts=True)[1] / len(hashes)
    return float(-(share * np.log2(share)).sum())


def _grams(hashes: np.ndarray, size: int) -> np.ndarray:
    count = len(hashes) - size + 1
    mixed = hashes[:count].copy()
    for step in range(1, size):
        mixed = _mix(mixed, hashes[step : step + count])
    return mixed


def top_share(hashes: np.ndarray, size: int) -> float:
    """Share of the words (W,) that the most frequent n-gram makes up; 0 when none comes twice."""
    if len(hashes) < 2 * size:
        return 0.0
    ordered = np.sort(_grams(hashes, size))
    ends = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))
    most = int(np.diff(ends, prepend=-1).max())
    return most * size / len(hashes) if most > 1 else 0.0


def covered_shares(hashes: np.ndarray, sizes: tuple[int, ...], scale: int = 1) -> dict[int, float]:
    """Share of words (W,) inside an n-gram seen earlier, for each size in rising order.

    Where a longer n-gram comes again, the shorter one at its start does: each size looks only where the last one found.
    """
    shares = dict.fromkeys(sizes, 0.0)
    if len(hashes) <= sizes[0] * scale:
        return shares
    grams = _grams(hashes, sizes[0] * scale)
    places = np.arange(len(grams))
    for number, size in enumerate(sizes):
        width = size * scale
        if number:
            places = places[places <= len(hashes) - width]
            for step in range(sizes[number - 1] * scale, width):
                grams = _mix(grams[: len(places)], hashes[places + step])
        # Sorted with their places in the lowest bits, equal n-grams stand together and in order.
        bits = np.uint64(len(grams).bit_length())
        keys = np.sort(grams >> bits << bits | np.arange(len(grams), dtype=np.uint64))
        order = (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        keys >>= bits
        same = np.zeros(len(order) + 1, dtype=bool)
        np.equal(keys[1:], keys[:-1], out=same[1:-1])
        if not same.any():
            break
        starts, length = places[order[same[:-1]]], len(hashes) + 1
        edges = np.bincount(starts, minlength=length) - np.bincount(starts + width, minlength=length)
        shares[size] = float(np.count_nonzero(np.cumsum(edges[:-1]))) / len(hashes)
        again = np.sort(order[same[:-1] | same[1:]])
        places, grams = places[again], grams[again]
    return shares


def _mix(grams: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    mixed = grams * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(31)
    return mixed + hashes
