"""Duplicates: signatures against brute-force Jaccard, components against brute force, survivors as promised."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.corpus import dedup
from herdbook.corpus.engine import best_per_key, candidate_pairs, keys_in_many
from herdbook.corpus.measure import TOKENS, hash_words
from herdbook.corpus.minhash import band_keys, shingles, signature, similarity

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "klmnrst"]


def text(draw: random.Random, words: int) -> list[str]:
    return draw.choices(WORDS, k=words)


def edited(draw: random.Random, words: list[str], rate: float) -> list[str]:
    out = list(words)
    for place in draw.sample(range(len(words)), round(rate * len(words))):
        out[place] = draw.choice(WORDS)
    return out


def sketch(words: list[str]) -> np.ndarray:
    return signature(shingles(hash_words(words), 3), 112)


def jaccard(left: list[str], right: list[str], size: int = 3) -> float:
    a, b = (set(zip(*(w[start:] for start in range(size)))) for w in (left, right))
    return len(a & b) / len(a | b)


def test_estimates_are_those_of_brute_force_jaccard() -> None:
    draw = random.Random(1)
    errors = []
    for rate in (0.0, 0.01, 0.03, 0.05, 0.1, 0.2, 0.4, 0.8):
        for _ in range(25):
            words = text(draw, 300)
            other = edited(draw, words, rate)
            estimate = similarity(sketch(words)[None], sketch(other)[None])[0]
            errors.append(estimate - jaccard(words, other))
    assert np.sqrt(np.mean(np.square(errors))) < 0.04
    assert abs(np.mean(errors)) < 0.01


def test_distinct_shingles_are_counted_as_brute_force_counts_them() -> None:
    draw = random.Random(2)
    for words in (1, 2, 3, 4, 50, 1500):
        found = text(draw, words)
        size = min(3, words)
        assert len(np.unique(shingles(hash_words(found), 3))) == len(
            set(zip(*(found[start:] for start in range(size))))
        )


def test_copies_with_up_to_five_percent_of_words_edited_are_caught_and_others_are_not() -> None:
    draw = random.Random(3)
    originals = [text(draw, draw.randint(80, 400)) for _ in range(150)]
    copies = [edited(draw, words, draw.choice((0.01, 0.03, 0.05))) for words in originals]
    signatures = np.stack([sketch(words) for words in originals + copies])
    rank = np.arange(300)[::-1].copy()
    keeper, alike = dedup.near(signatures, rank, 4, 0.6)
    caught = sum(keeper[150 + i] == i for i in range(150))
    assert caught >= 148
    assert (keeper[:150] == np.arange(150)).all() and (alike[150:] > 0.6).sum() == caught


def test_a_chain_does_not_swallow_its_far_end() -> None:
    draw = random.Random(4)
    words = text(draw, 200)
    chain = [words]
    for step in range(4):
        chain.append(chain[-1][: 200 - 40 * step - 40] + text(draw, 40) + chain[-1][200 - 40 * step :])
    signatures = np.stack([sketch(item) for item in chain])
    keeper, _ = dedup.near(signatures, np.arange(5)[::-1].copy(), 4, 0.55)
    assert keeper[1] == 0 and jaccard(chain[0], chain[4]) < 0.3 and keeper[4] != 0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_components_equal_brute_force(edges: list[tuple[int, int]]) -> None:
    group = {node: {node} for node in range(20)}
    for a, b in edges:
        joined = group[a] | group[b]
        for node in joined:
            group[node] = joined
    wanted = {frozenset(members) for members in group.values() if len(members) > 1}
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    assert {frozenset(part.tolist()) for part in dedup.components(pairs, 20)} - {
        frozenset({n}) for n in range(20)
    } == wanted


def test_group_bys_equal_brute_force() -> None:
    draw = np.random.default_rng(5)
    keys, rank = draw.integers(0, 40, 200), draw.permutation(200)
    assert best_per_key(keys, rank).tolist() == [max(rank[keys == key]) for key in keys]
    found, counts = keys_in_many(keys, 6)
    wanted = {key: (keys == key).sum() for key in set(keys.tolist()) if (keys == key).sum() > 6}
    assert dict(zip(found.tolist(), counts.tolist())) == wanted
    bands = draw.integers(0, 30, (60, 3)) + np.array([0, 100, 200])
    order = draw.permutation(60)
    pairs = {(int(a), int(b)) for a, b in candidate_pairs(bands, order)}
    brute = set()
    for column in bands.T:
        for key in set(column.tolist()):
            rows = np.flatnonzero(column == key)
            hub = rows[order[rows].argmax()]
            brute |= {(int(hub), int(row)) for row in rows if row != hub}
    assert pairs == brute


def test_the_newest_stays_then_the_longest_then_the_first() -> None:
    dates = np.array(["2024-01-01", "2024-06-01", "2024-06-01", "2024-06-01"])
    rank = dedup.preference(dates, np.array([900, 10, 50, 50]))
    assert dedup.by_key(np.zeros(4, dtype=np.int64), rank).tolist() == [2, 2, 2, 2]
    assert len(dedup.by_key(np.zeros(0, dtype=np.int64), rank[:0])) == 0


def test_band_keys_are_equal_exactly_where_bands_are() -> None:
    draw = np.random.default_rng(6)
    signatures = draw.integers(0, 3, (50, 12)).astype(np.uint32)
    keys = band_keys(signatures, 4)
    for a in range(50):
        for b in range(a):
            for band in range(3):
                same = (signatures[a, band * 4 : band * 4 + 4] == signatures[b, band * 4 : band * 4 + 4]).all()
                assert (keys[a, band] == keys[b, band]) == same


def test_words_of_languages_without_spaces_are_characters() -> None:
    assert TOKENS.findall("the 2 fast_foxes 狐が走る") == ["the", "2", "fast", "foxes", "狐", "が", "走", "る"]
