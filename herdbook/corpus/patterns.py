"""Adult words: a small list in a dozen languages, of which a page's share is measured (§3.1.1)."""

from __future__ import annotations

from importlib import resources


def _words(name: str) -> frozenset[str]:
    lines = resources.files("herdbook.corpus").joinpath(name).read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip().lower() for line in lines if line.strip() and not line.startswith("#"))


ADULT = _words("adult_words.txt")
"""Words of adult sites in a dozen languages; a page is judged by their share, never by one of them."""


def count_adult(words: list[str]) -> int:
    """How many of the lower-case words are adult words."""
    return 0 if ADULT.isdisjoint(words) else sum(map(ADULT.__contains__, words))
