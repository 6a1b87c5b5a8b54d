"""Markers of markdown go, and what only looks like one stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.extract import extract
from herdbook.corpus.markdown import without_markers


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("## How to feed a goat", "How to feed a goat"),
        ("# Größe der Herde #", "Größe der Herde"),
        ("It is **very** old, ***indeed***.", "It is very old, indeed."),
        (
            'See [the book](https://example.org/a_(b) and [here](/x "t").',
            "See [the book](https://example.org/a_(b) and here.",
        ),
        ("![A goat](/goat.png) in [spring](#may)", "A goat in spring"),
        ("Call `run` or `make test` first.", "Call run or make test first."),
        ("```python", ""),
        ("~~~", ""),
        ("=======", ""),
        ("* * *", ""),
    ],
)
def test_a_marker_goes(line: str, wanted: str) -> None:
    assert without_markers(line) == wanted


@pytest.mark.parametrize(
    "line",
    [
        "2**10 is 1024 and 2 ** 3 ** 2 is 512",
        "f(*args, **kwargs) calls g(**kwargs)",
        "__init__ and __name__ are names",
        "The `old' quotes and ``new'' ones",
        "# apt-get install goat",
        "issue #12 and C# and F#",
        "a[0](1) is called, [sic] (and more)",
        "a well-known half-day - nothing more",
        "x == y, a ~ b",
        "* a point of a list",
    ],
)
def test_what_only_looks_like_a_marker_stays(line: str) -> None:
    assert without_markers(line) == line


@given(st.text(st.characters(exclude_characters="*#[`~=-_")))
def test_text_without_marks_stays_as_it_is(line: str) -> None:
    assert without_markers(line) == line


@given(st.text("ab *#[]()`~=-_/", max_size=60))
def test_only_markers_go_and_letters_stay_in_order(line: str) -> None:
    letters = "".join(c for c in line if c in "ab")
    left = "".join(c for c in without_markers(line) if c in "ab")
    assert left == letters or "](" in line or line.startswith(("```", "~~~"))


def test_on_a_page_markers_go_from_prose_and_stay_in_code() -> None:
    code = "## a comment\nx = 2**3**2  # **bold**\nprint(f'`{x}`')"
    found = extract(f"<body><main><p>## About goats</p><p>They are **strong**.</p><pre>{code}</pre></main></body>")
    assert found.lines == ["About goats", "They are strong.", *code.split("\n")]
