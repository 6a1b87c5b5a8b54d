"""The columns of Gopher's, C4's and FineWeb's rules against the same said plainly, word by word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.heuristics import COLUMNS, ENDS, heuristics, stop_words
from herdbook.corpus.words import TOKENS, cut

PIECES = [
    "the",
    "mill",
    "of",
    "River.",
    "7",
    "12,5",
    "--",
    "#tag",
    "...",
    "…",
    "\n",
    "\n",
    "- item",
    "Yes!",
    "a1",
    "{",
    "wait…",
]


def plain(prose: str) -> dict[str, float]:
    """The columns, counted in the most obvious way."""
    words, split = TOKENS.findall(prose.lower()), prose.split()
    lines = [line.strip() for line in prose.split("\n") if line.strip()]
    seen: list[str] = []
    repeated = 0
    for line in lines:
        repeated += len(line) if line in seen else 0
        seen.append(line)
    dots = sum(prose[i : i + 3] == "..." for i in range(len(prose)) if prose[i - 1 : i + 2] != "..." or i == 0)
    return {
        "heuristic_word_length": sum(len(word) for word in split) / len(split),
        "heuristic_longest_word": max(len(word) for word in split),
        "heuristic_symbols": max(prose.count("#"), dots + prose.count("…")) / len(words),
        "heuristic_lettered_words": sum(any(c.isalpha() for c in word) for word in split) / len(split),
        "heuristic_stop_words": len({word for word in words if word in stop_words()["en"]}),
        "heuristic_bullet_lines": sum(line[:2] == "- " for line in lines) / len(lines),
        "heuristic_ellipsis_lines": sum(line[-1] == "…" or line[-3:] == "..." for line in lines) / len(lines),
        "heuristic_ended_lines": sum(line[-1] in ENDS for line in lines) / len(lines),
        "heuristic_short_lines": sum(len(line) <= 30 for line in lines) / len(lines),
        "heuristic_lines_per_word": (len(lines) - 1) / len(words),
        "heuristic_repeated_line_characters": repeated / sum(len(line) for line in lines),
        "heuristic_curly_brackets": prose.count("{"),
    }


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_every_column_is_that_of_plain_counting(pieces: list[str]) -> None:
    prose = " ".join(pieces)
    words = cut(prose)
    found = heuristics(prose, words, "en", True)
    assert tuple(found) == COLUMNS
    if not words.flat:
        assert not any(value is not None for value in found.values())
        return
    wanted = plain(prose)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("prose", "count"),
    [
        ("One. Two! Three?", 3),
        ("It cost 3.50 at 10.30 today. Yes.", 2),
        ("我来了。你看见了吗？", 2),
        ("هل جئت؟ نعم۔ لا", 2),
        ("No end", 0),
    ],
)
def test_sentences_are_counted_in_any_script(prose: str, count: int) -> None:
    assert heuristics(prose, cut(prose), "en", True)["heuristic_sentences"] == count


def test_what_needs_spaces_or_stop_words_is_not_measured_without_them() -> None:
    found = heuristics("これは本です。", cut("これは本です。"), "ja", False)
    assert [found[f"heuristic_{name}"] for name in ("word_length", "lettered_words", "stop_words")] == [None] * 3
    assert heuristics("abc def", cut("abc def"), "xx", True)["heuristic_stop_words"] is None
    assert all(len(words) >= 10 and all(w == w.lower() for w in words) for words in stop_words().values())
