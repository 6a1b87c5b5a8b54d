"""Measurements against brute force and against texts whose answer is plain."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.corpus.divergence import bits_of, divergence, language_evidence, standard_excess
from herdbook.corpus.engine import Native
from herdbook.corpus.language import identify
from herdbook.corpus.lines import Buckets, line_keys, once_per_document, removed_lines
from herdbook.corpus.measure import (
    BUCKETS,
    bucket_counts,
    line_hashes,
    measure,
    schema,
)
from herdbook.corpus.read import RawPage
from herdbook.corpus.repetition import covered_share, repeats, repetition, top_share
from herdbook.corpus.settings import MeasureSettings
from herdbook.corpus.words import cut, hash_words
from tests.corpus.crawls import html

WORDS = st.lists(st.sampled_from("abcd"), max_size=40)


@settings(deadline=None)
@given(WORDS, st.integers(2, 4))
def test_the_most_frequent_ngram_is_that_of_brute_force(words: list[str], size: int) -> None:
    grams = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
    most = max(grams.values(), default=0)
    wanted = most * size / len(words) if most > 1 and len(words) >= 2 * size else 0.0
    for _, again in repeats(hash_words(words), (1, size)):
        found = top_share(len(words), size, again)
    assert found == pytest.approx(wanted)


@settings(deadline=None)
@given(WORDS, st.sampled_from([(2, 3, 4), (2, 5), (5, 6, 7, 8, 9, 10)]), st.integers(1, 2))
def test_covered_words_are_those_of_brute_force(words: list[str], sizes: tuple[int, ...], scale: int) -> None:
    wanted = {}
    for size in sizes:
        width, seen, covered = size * scale, set(), set()
        for i in range(len(words) - width + 1):
            gram = tuple(words[i : i + width])
            if gram in seen:
                covered.update(range(i, i + width))
            seen.add(gram)
        wanted[size] = len(covered) / len(words) if words else 0.0
    found = dict.fromkeys(sizes, 0.0)
    for size, (places, again) in zip(sizes, repeats(hash_words(words), tuple(size * scale for size in sizes))):
        found[size] = covered_share(len(words), size * scale, places[again])
    assert found == pytest.approx(wanted)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=30))
def test_words_are_counted_by_bucket(hashes: list[int]) -> None:
    tokens, counts = bucket_counts(np.array(hashes, dtype=np.uint64))
    assert (tokens.dtype, counts.dtype) == (np.uint16, np.int32)
    assert dict(zip(tokens.tolist(), counts.tolist())) == Counter(value % BUCKETS for value in hashes)


def test_a_page_becomes_a_row_with_every_column() -> None:
    settings = MeasureSettings()
    body = html("The old mill stands by the river and its wheel has turned for two hundred years.", title="The mill")
    row = measure(RawPage("https://a.example/x", "2024", "f:0:0", "html", body), "web", settings)
    assert set(row) == set(schema(settings).names)
    assert (row["language"], row["title"], row["kind"], row["encoding_name"]) == ("en", "The mill", "html", "utf-8")
    assert row["length_words"] == 18 and row["text"].startswith("The mill\nThe old mill")


def test_code_is_not_prose() -> None:
    code = "import os\n" + "x = x + 1\n" * 60
    row = measure(RawPage("a.py", "", "a.py", "code", code.encode()), "library", MeasureSettings())
    assert (row["language"], row["language_probability"], row["code_share"]) == ("code", 1.0, 1.0)
    assert row["repetition_duplicate_10gram"] == 0.0 and not any(row["lines_hashes"])
    assert row["text"] == code.rstrip()


def test_a_page_without_text_is_measured_too() -> None:
    row = measure(RawPage("https://a.example/", "", "k", "html", b""), "web", MeasureSettings())
    assert (row["text"], row["length_words"], row["language"], row["language_probability"]) == ("", 0, "", 0.0)


def test_the_language_of_a_text_is_found_and_of_nothing_is_none() -> None:
    assert identify("Der schnelle braune Fuchs springt über den faulen Hund und läuft davon.")[0] == "de"
    assert identify("素早い茶色の狐がのろまな犬を飛び越えて走っていきました。")[0] == "ja"
    assert identify("12 34 |") == ("", 0.0)


def test_a_rare_language_needs_more_evidence() -> None:
    codes = np.array([1] * 40 + [2] * 3 + [0])
    probability = np.full(44, 0.9)
    evidence = language_evidence(probability, ["code", "en", "pl"], codes)
    assert (evidence[:40] == 0.9).all() and np.allclose(evidence[40:43], 0.3) and evidence[43] == 0.9
    assert np.allclose(language_evidence(probability / 3, ["code", "en", "pl"], codes)[:40], 0.1)  # none is clear


def test_divergence_is_that_of_the_closed_form() -> None:
    tokens = np.array([1, 1, 2, 3], dtype=np.uint16)
    totals = np.bincount(tokens, minlength=BUCKETS).astype(float)
    totals[[1, 2, 7]] += [4, 3, 9]
    rest = {1: 5, 2: 4, 3: 1}
    wanted = sum(p * np.log2(p / (rest[b] / (16 + BUCKETS))) for b, p in ((1, 0.5), (2, 0.25), (3, 0.25)))
    distinct, counts = np.unique(tokens, return_counts=True)
    beside = [np.array([9]), distinct, np.array([8, 9])]  # documents beside it change nothing
    cross, own = bits_of(
        np.concatenate(beside),
        np.concatenate([[3], counts, [1, 1]]),
        np.array([0, 1, 4, 6]),
        np.zeros(3, int),
        totals[None],
        totals.sum()[None],
    )
    assert (cross - own)[1] == pytest.approx(wanted) and own[1] == pytest.approx(1.5)


def test_noise_diverges_from_the_corpus_and_the_corpus_does_not_from_itself() -> None:
    draw = np.random.default_rng(1)
    weights = 1 / np.arange(1, 2001)
    ordinary = [
        draw.choice(2000, draw.integers(60, 400), p=weights / weights.sum()).astype(np.uint16) for _ in range(400)
    ]
    noise = [draw.integers(3000, 9000, 150).astype(np.uint16) for _ in range(8)]
    even = [draw.integers(0, 2000, 150).astype(np.uint16) for _ in range(8)]
    parts = []
    for rows in (slice(0, 90), slice(90, 416)):
        some, counts = zip(*(np.unique(item, return_counts=True) for item in [*ordinary, *noise, *even][rows]))
        parts.append((rows, np.concatenate(some), np.concatenate(counts), np.cumsum([0, *map(len, some)])))
    _, excess = divergence(lambda: parts, np.ones(416, bool), ["en"], np.zeros(416, dtype=np.int32))
    assert (excess[:400] < 4.5).all() and (excess[400:] > 4.5).all()


def test_a_mould_of_many_pages_makes_no_sound_page_stand_out() -> None:
    draw = np.random.default_rng(2)
    mould = draw.normal(8.0, 0.1, 1400)  # most pages as long as these come from one mould
    others, noise = draw.normal(9.6, 0.2, 600), np.full(10, 12.0)
    lengths = np.concatenate([draw.integers(100, 130, 1400), draw.integers(60, 600, 610)])
    excess = standard_excess(np.concatenate([mould, others, noise]), lengths)
    assert (excess[:2000] < 4.5).all() and (excess[2000:] > 4.5).all()


def test_the_entropy_of_a_texts_words_is_that_of_the_closed_form() -> None:
    def entropy(words: list[str]) -> float | None:
        return repetition(hash_words(words), "")["repetition_word_entropy"]

    assert entropy(["a", "b", "c", "d"] * 30) == pytest.approx(2.0)
    assert entropy(["a"] * 50 + ["b"] * 50) == pytest.approx(1.0)
    assert entropy([f"{number}" for number in range(128)]) == pytest.approx(7.0)
    assert entropy(["a"] * 64 + [f"{number}" for number in range(64)]) == pytest.approx(0.5 + 0.5 * 7)
    assert entropy(["a"] * 99) is None


def test_lines_that_are_data_or_code_are_never_boilerplate() -> None:
    lines = [
        "We use cookies to make this site better.",
        "x = compute(value, other_value)",
        "Answer: 3 + 4 = 7. #### 7",
        "Menu",
        "The heading of it all",
    ]
    found = line_hashes(lines, ["t", "c", "t", "t", "h"], cut("\n".join(lines[:1] + lines[2:])))
    assert found[0] != 0 and not found[1:].any()
    numbers = "الجدول ١٢ والصف ٣٤ والعمود ٥٦"
    assert not line_hashes([numbers], ["t"], cut(numbers)).any()
    shouted = "WE USE cookies, to make this site better"
    assert line_hashes([shouted], ["t"], cut(shouted))[0] == found[0]
    for line in (lines[0], "Nous utilisons des « témoins » ici.", "Debian的未來、発展は続きます。安定版"):
        assert (
            line_hashes([line, ""], ["t", "t"], cut(f"{line}\n"))[0]
            == xxhash.xxh3_64_intdigest(" ".join(re.findall(r"[^\W_]+", line.lower())).encode()) - 2**63
        )


def test_lines_are_counted_once_per_document_and_within_a_language(tmp_path: Path) -> None:
    lists = [[5, 5, 9]] * 7 + [[9, 0]] * 3 + [[5]] * 7
    alive = np.ones(17, dtype=bool)
    alive[0] = False
    numbers = Buckets(2, 10**6).next(np.array([1] * 10 + [0] * 7), alive)
    values, offsets = np.concatenate(lists), np.cumsum([0, *map(len, lists)])
    keys, documents = line_keys(values, offsets, numbers)
    repeated = Native(tmp_path).keys_in_many([lambda: once_per_document(keys, documents, alive)], 6, 6, 17)
    hit = {(int(documents[i]), int(values[i])) for i in np.flatnonzero(removed_lines(keys, repeated))}
    assert hit == {(d, 9) for d in range(10)} | {(d, 5) for d in range(10, 17)}
