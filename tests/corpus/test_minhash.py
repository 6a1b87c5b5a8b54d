"""Signatures: their estimate and the pairs they find against brute-force Jaccard; the same on every machine."""

from __future__ import annotations

import itertools
import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.corpus.minhash import band_keys, shingles, signature, similarity

PERMUTATIONS, ROWS, NEAR = 112, 4, 0.8


def hashed(values: list[int]) -> np.ndarray:
    return np.array([v * 0x9E3779B97F4A7C15 % 2**64 for v in values], dtype=np.uint64)


def edited(draw: random.Random, words: list[int], rate: float) -> list[int]:
    out = list(words)
    for place in draw.sample(range(len(words)), round(rate * len(words))):
        out[place] = draw.randrange(5000)
    return out


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    a, b = set(left.tolist()), set(right.tolist())
    return len(a & b) / len(a | b)


def family(seed: int, count: int) -> list[np.ndarray]:
    """Shingles of documents in families: an original and five copies with ever more words changed."""
    draw = random.Random(seed)
    documents = []
    for _ in range(count):
        words = [draw.randrange(5000) for _ in range(draw.randint(40, 900))]
        documents += [words] + [edited(draw, words, rate) for rate in (0.0, 0.01, 0.03, 0.15, 0.4)]
    return [shingles(hashed(words), 3) for words in documents]


def sixes(sets: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [sets[start : start + 6] for start in range(0, len(sets), 6)]


def test_the_estimate_is_sharp_and_leans_to_no_side() -> None:
    errors = []
    for sets in sixes(family(1, 120)):
        signatures = np.stack([signature(s, PERMUTATIONS) for s in sets])
        for copy in range(1, 6):
            estimate = similarity(signatures[:1], signatures[copy : copy + 1])[0]
            errors.append(estimate - jaccard(sets[0], sets[copy]))
    assert np.sqrt(np.mean(np.square(errors))) <= 0.034
    assert abs(np.mean(errors)) < 0.004


def test_bands_bring_near_duplicates_together() -> None:
    sets = family(2, 40)
    keys = band_keys(np.stack([signature(s, PERMUTATIONS) for s in sets]), ROWS)
    pairs = np.array([(a, b) for a, b in itertools.combinations(range(len(sets)), 2) if a // 6 == b // 6])
    near = np.array([jaccard(sets[a], sets[b]) >= NEAR for a, b in pairs])
    together = (keys[pairs[:, 0]] == keys[pairs[:, 1]]).any(axis=1)
    assert near.sum() > 150 and together[near].mean() >= 0.98


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.randoms())
def test_order_and_repetition_make_no_difference(values: list[int], draw: random.Random) -> None:
    again = values + draw.choices(values, k=7)
    draw.shuffle(again)
    first = signature(np.array(values, dtype=np.uint64), PERMUTATIONS)
    assert (first == signature(np.array(again, dtype=np.uint64), PERMUTATIONS)).all()


@pytest.mark.parametrize("permutations", [16, 112, 256])
def test_an_empty_set_resembles_nothing_but_another(permutations: int) -> None:
    empty = signature(np.zeros(0, dtype=np.uint64), permutations)
    assert empty.shape == (permutations,) and empty.dtype == np.uint32 and (empty == 2**32 - 1).all()
    assert (empty != signature(hashed([1]), permutations)).mean() > 0.99


def test_signatures_are_the_same_on_every_machine() -> None:
    # A change here means that measurements already written no longer compare: raise measure.VERSION with it.
    assert zlib.crc32(signature(hashed(list(range(100))), PERMUTATIONS).tobytes()) == 3501585400
