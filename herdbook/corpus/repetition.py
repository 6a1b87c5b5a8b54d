"""How much of a text repeats: n-grams of words, lines, and how few words it has (§3.1.1).

Where a longer n-gram comes again, the shorter one at its start does: each size looks only where the last one found,
beginning with single words. N-grams are compared by hashes that grow word by word.
Letters: W words, P places of n-grams that come more than once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)
ENTROPY_WORDS = 100
"""Words below which the entropy of a text's words is not judged."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_PAST = np.arange(1, 256, dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93)
"""What stands past the last word, nowhere the same, so that no n-gram from there equals another."""


def repetition(hashes: np.ndarray, text: str, scale: int = 1) -> dict[str, float | None]:
    """Shares of a text that repeat: most common 2-, 3-, 4-gram; words inside repeated 5- to 10-grams; lines; entropy.

    `scale` multiplies the sizes where words are characters, of which it takes more to say as much.
    """
    result: dict[str, float | None] = {f"repetition_top_{size}gram": 0.0 for size in TOP_SIZES}
    result |= {f"repetition_duplicate_{size}gram": 0.0 for size in DUPLICATE_SIZES}
    words, entropy = len(hashes), word_entropy(len(hashes), np.zeros(0, bool))
    sizes = (*TOP_SIZES, *DUPLICATE_SIZES)
    for size, (places, again) in zip((1, *sizes), repeats(hashes, (1, *(size * scale for size in sizes)))):
        if size == 1:
            entropy = word_entropy(words, again)
        elif size in TOP_SIZES:
            result[f"repetition_top_{size}gram"] = top_share(words, size * scale, again)
        else:
            result[f"repetition_duplicate_{size}gram"] = covered_share(words, size * scale, places[again])
    lines = [line for line in text.split("\n") if line.strip()]
    result["repetition_duplicate_lines"] = 1.0 - len(set(lines)) / len(lines) if lines else 0.0
    result["repetition_word_entropy"] = entropy
    return result


def repeats(
    hashes: np.ndarray,  # (W,) uint64 of a text's words
    widths: tuple[int, ...],  # sizes of n-grams, rising
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each width the places (P,) int64 of n-grams that come more than once, and which of them (P,) bool come again.

    Equal ones stand together and in order; where nothing comes more than once, that is the last width answered.
    """
    low = np.uint64((1 << len(hashes).bit_length()) - 1)
    high = ~low
    padded = np.concatenate([hashes, _PAST[: widths[-1]]])
    grams, places, width = hashes, np.arange(len(hashes)), 1
    for wanted in widths:
        for step in range(width, wanted):
            grams = grams * _FACTOR
            grams += padded[places + step]
        width = wanted
        # Sorted with their places in the lowest bits, equal n-grams stand together and in order.
        keys = grams & high
        keys |= places.view(np.uint64)
        keys.sort()
        marks = np.zeros(len(keys) + 1, dtype=bool)
        np.less_equal(keys[1:] ^ keys[:-1], low, out=marks[1:-1])
        kept = marks[1:] | marks[:-1]
        keys, again = keys[kept], marks[:-1][kept]
        places, grams = (keys & low).view(np.int64), keys & high
        yield places, again
        if not len(keys):
            return


def group_sizes(again: np.ndarray) -> np.ndarray:
    """How often (G,) each n-gram comes that does more than once, from which of their places (P,) bool come again."""
    firsts = np.flatnonzero(~again)
    sizes = np.empty_like(firsts)
    if len(firsts):
        np.subtract(firsts[1:], firsts[:-1], out=sizes[:-1])
        sizes[-1] = len(again) - firsts[-1]
    return sizes


def word_entropy(words: int, again: np.ndarray) -> float | None:
    """Entropy in bits of a text's own words; None below ENTROPY_WORDS, where it says more of the length."""
    if words < ENTROPY_WORDS:
        return None
    sizes = group_sizes(again)
    return float(np.log2(words) - (sizes * np.log2(sizes)).sum() / words)


def top_share(words: int, width: int, again: np.ndarray) -> float:
    """Share of the words that the most frequent n-gram makes up; 0 when none comes twice."""
    if words < 2 * width or not len(again):
        return 0.0
    return int(group_sizes(again).max()) * width / words


def covered_share(words: int, width: int, starts: np.ndarray) -> float:
    """Share of words inside n-grams that begin at the places (S,) int64."""
    if not len(starts):
        return 0.0
    starts = np.sort(starts)
    return (int(np.minimum(starts[1:] - starts[:-1], width).sum()) + width) / words
