"""Words cut by tables and replacements against the pattern that says what a word is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.corpus.words import FEW, TOKENS, cut

PIECES = [
    "The Mill",
    "naïve",
    "e\u0301",
    "İSTANBUL",
    "ΟΔΟΣ",
    "–",
    "“x”",
    "_",
    "٣٤",
    "1st",
    "½",
    "東京",
    "กิน",
    "・",
    "Debian的未來",
]
SPACES = [" ", "\n", "\t", "\xa0", "\u2028", "\x1c", "\x85", "", "", "/"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES + SPACES) | st.characters(codec="utf-8"), max_size=40).map("".join))
@pytest.mark.parametrize("many", ["", "".join(map(chr, range(0x4E00, 0x4E01 + FEW)))], ids=["few", "many"])
def test_words_are_those_of_the_pattern(many: str, text: str) -> None:
    text += many
    found = cut(text)
    lines = text.lower().split("\n")
    assert found.lines == [TOKENS.findall(line) for line in lines]
    assert found.flat == TOKENS.findall(text.lower())
    assert found.lowered == text.lower()
    assert found.lettered == sum(bool(re.search(r"[^\W\d_]", piece)) for piece in text.split())


def test_a_script_without_spaces_is_cut_by_the_character_beside_latin_letters_too() -> None:
    assert cut("Debian的未來 11").flat == ["debian", "的", "未", "來", "11"]
