"""Duplicates: signatures against brute-force Jaccard, components against brute force, survivors as promised."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from herdbook.corpus import dedup, spill
from herdbook.corpus.daft_engine import Dataframes, here
from herdbook.corpus.engine import Engine, Native
from herdbook.corpus.likeness import Signatures
from herdbook.corpus.minhash import band_keys, shingles, signature, similarity
from herdbook.corpus.words import TOKENS, hash_words

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


def near(folder: Path, signatures: np.ndarray, rank: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """For each document the one it nearly repeats, itself if none, and how similar they are by estimates."""
    engine, count, row = Native(folder), len(rank), np.argsort(rank)
    signatures.astype("<u4").tofile(folder / "signatures")
    held = Signatures(folder / "signatures", signatures.shape[1], threshold)
    keys = band_keys(signatures, 4)
    made = [(keys[rows].reshape(-1), np.repeat(rank[rows], keys.shape[1])) for rows in np.array_split(row, 3)]
    pairs = engine.hub_pairs([lambda part=part: part for part in made], count, keys.size)
    gone, keeper, likeness = dedup.near(pairs, row, held, None, engine)
    of, alike = np.arange(count), np.zeros(count)
    of[row[gone]], alike[row[gone]] = row[keeper], likeness
    return of, alike


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


def test_copies_with_up_to_five_percent_of_words_edited_are_caught_and_others_are_not(tmp_path: Path) -> None:
    draw = random.Random(3)
    originals = [text(draw, draw.randint(80, 400)) for _ in range(150)]
    copies = [edited(draw, words, draw.choice((0.01, 0.03, 0.05))) for words in originals]
    signatures = np.stack([sketch(words) for words in originals + copies])
    rank = np.arange(300)[::-1].copy()
    keeper, alike = near(tmp_path, signatures, rank, 0.6)
    caught = sum(keeper[150 + i] == i for i in range(150))
    assert caught >= 148
    assert (keeper[:150] == np.arange(150)).all() and (alike[150:] > 0.6).sum() == caught


def test_a_chain_does_not_swallow_its_far_end(tmp_path: Path) -> None:
    draw = random.Random(4)
    words = text(draw, 200)
    chain = [words]
    for step in range(4):
        chain.append(chain[-1][: 200 - 40 * step - 40] + text(draw, 40) + chain[-1][200 - 40 * step :])
    signatures = np.stack([sketch(item) for item in chain])
    keeper, _ = near(tmp_path, signatures, np.arange(5)[::-1].copy(), 0.55)
    assert keeper[1] == 0 and jaccard(chain[0], chain[4]) < 0.3 and keeper[4] != 0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_components_equal_scipys(edges: list[tuple[int, int]]) -> None:
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    found = Native(Path("nowhere")).components(pairs, 20)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(20, 20))
    label = connected_components(graph, directed=False)[1]
    assert found.tolist() == [int(np.flatnonzero(label == label[node])[0]) for node in range(20)]


def test_components_by_joins_alone_equal_native_ones(tmp_path: Path) -> None:
    draw = np.random.default_rng(9)
    engine = Dataframes(tmp_path, 0, here)
    path = draw.permutation(40)
    for pairs in (draw.integers(0, 60, (45, 2)), np.stack([path[1:], path[:-1]], axis=1), np.zeros((0, 2), np.int64)):
        assert (engine.components(pairs, 60) == Native(tmp_path).components(pairs, 60)).all()


@pytest.mark.parametrize("rows", [7, 100, 1 << 20, "dataframes"])
def test_group_bys_equal_brute_force(tmp_path: Path, rows: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(rows, int):
        monkeypatch.setattr(spill, "ROWS", rows)
    draw = np.random.default_rng(5)
    engine: Engine = Native(tmp_path) if isinstance(rows, int) else Dataframes(tmp_path, 0, here)
    keys = draw.integers(-40, 40, 300)
    groups = draw.integers(0, 2, 300)
    both = {key: groups[keys == key].tolist() for key in sorted(set(keys.tolist()))}
    wanted = [key for key, of in both.items() if len(of) > 9 or (len(of) > 2 and len(set(of)) == 1)]
    assert any(len(both[key]) <= 9 for key in wanted)
    parts = [lambda a=a, b=b: (keys[a:b], groups[a:b]) for a, b in pairwise((0, 9, 9, 300))]
    assert engine.keys_in_many(parts, 9, 2, 300).tolist() == wanted
    bands = draw.integers(0, 30, (60, 3)) + np.array([0, 100, 200])
    rank = draw.permutation(60)
    made = [(bands[part].reshape(-1), np.repeat(rank[part], 3)) for part in np.array_split(np.arange(60), 5)]
    pairs = np.concatenate(list(engine.hub_pairs([lambda part=part: part for part in made], 60, 180)))
    brute = set()
    for key in range(300):
        sharing = rank[(bands == key).any(axis=1)].tolist()
        brute |= {(max(sharing), other) for other in sharing if other != max(sharing)}
    assert sorted(map(tuple, pairs.tolist())) == sorted(brute)
    assert not list(engine.hub_pairs([], 60, 0)) and not list(tmp_path.iterdir())


def test_records_are_gathered_from_a_file(tmp_path: Path) -> None:
    table = np.random.default_rng(6).integers(0, 2**32, (500, 9), dtype=np.uint32)
    table.tofile(tmp_path / "table")
    rows = np.array([499, 3, 4, 5, 3, 0, 77, 78])
    assert (spill.gather(tmp_path / "table", rows, 9) == table[rows]).all()
    assert spill.gather(tmp_path / "table", rows[:0], 9).shape == (0, 9)
    with pytest.raises(OSError, match="ended before row 500"):
        spill.gather(tmp_path / "table", np.array([499, 500]), 9)


def test_of_duplicates_the_best_stays_then_the_newest_the_longest_the_first() -> None:
    dates, lengths = np.array([20240101, 20240601, 20240601, 20240601]), np.array([900, 10, 50, 50])
    assert dedup.preference(dates, lengths).tolist() == [0, 1, 3, 2]
    quality = np.array([0.7, np.nan, 0.2, 0.2])
    assert dedup.preference(dates, lengths, quality).tolist() == [3, 0, 2, 1]


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
