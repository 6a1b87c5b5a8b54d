"""A text as lower-case words, cut once, line by line, for everything that looks at words (§3.1.1).

Splitting at spaces takes a fifth of the time of a pattern, so a text is first brought to where spaces alone part its
words: signs within ASCII by one table over its bytes, the few different ones beyond by a replacement each.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import NamedTuple

import numpy as np
import xxhash

# Languages written without spaces are counted by the character.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f\u1000-\u109f\u1780-\u17ff"
TOKENS = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+")
SINGLE = re.compile(f"[{UNSPACED}]")
LETTER = re.compile(r"[^\W\d_]")
FEW = 60
"""Different characters up to which each is replaced by itself; a pattern is quicker for more."""

_ASCII = bytes(range(128))
_SPACES = bytes(code for code in range(128) if chr(code).isspace())
_SIGNS = bytes(code for code in range(128) if not chr(code).isalnum() and code != ord("\n"))
PARTED = bytes.maketrans(_SIGNS, b" " * len(_SIGNS))
"""ASCII's signs, and spaces but line ends, as spaces."""
_LETTERS = bytes(code for code in range(256) if code > 127 or chr(code).isalpha())
LETTERS = bytes.maketrans(_LETTERS + _SPACES, b"a" * len(_LETTERS) + b" " * len(_SPACES))
NO_LETTERS = bytes(set(_ASCII) - set(_LETTERS) - set(_SPACES))


class Words(NamedTuple):
    """The words of a text without case, and what came to light while they were cut."""

    lines: list[list[str]]
    """Words of each line: runs of letters and digits, or single characters of a script without spaces."""

    flat: list[str]
    """All of them in a row."""

    vocabulary: frozenset[str]
    """The different ones."""

    pieces: list[str]
    """What stands between white space, as it is written."""

    lowered: str
    """The text in small letters."""

    lettered: int
    """How many pieces between white space have a letter."""

    beyond: frozenset[str]
    """The different characters of the text beyond ASCII."""

    digits: list[str]
    """The decimal digits among them."""

    unspaced: bool
    """Whether there is any character of a script without spaces."""


def beyond_ascii(text: str) -> frozenset[str]:
    """The different characters of a text beyond ASCII."""
    return frozenset(text.encode("utf-8", "replace").translate(None, _ASCII).decode())


def cut(text: str) -> Words:
    """The words of a text: what TOKENS finds in it in small letters, line by line."""
    lowered = plain = text.lower()
    pieces = text.split()
    beyond = small = frozenset[str]()
    if not text.isascii():
        beyond = beyond_ascii(text)
        small = frozenset("".join(beyond).lower())  # "İ" becomes two
    singles = set(SINGLE.findall("".join(small)))
    digits = [sign for sign in small if sign.isdecimal()]
    if len(singles) > FEW:
        lettered = sum(LETTER.search(piece) is not None for piece in pieces)
        lines = [TOKENS.findall(line) for line in plain.split("\n")]
    else:
        for sign in small - singles:
            if not sign.isalnum():
                plain = plain.replace(sign, " " if sign.isspace() else "_")
        lettered = _lettered(plain, digits + [sign for sign in singles if not sign.isalnum()])
        for single in singles:
            plain = plain.replace(single, f" {single} ")
        lines = list(map(str.split, plain.encode("utf-8", "replace").translate(PARTED).decode().split("\n")))
    flat = list(chain.from_iterable(lines))
    return Words(lines, flat, frozenset(flat), pieces, lowered, lettered, beyond, digits, bool(singles))


def _lettered(plain: str, others: list[str]) -> int:
    """Pieces with a letter of a text whose characters beyond ASCII are all letters, but for the others given."""
    for sign in others:
        plain = plain.replace(sign, "_")
    shapes = plain.encode("utf-8", "replace").translate(LETTERS, NO_LETTERS)
    return shapes.count(b" a") + shapes.startswith(b"a")


class WordHashes(dict[str, int]):
    """A word's 64-bit hash, remembered; most words of a shard have been seen before."""

    def __missing__(self, word: str) -> int:
        value = xxhash.xxh3_64_intdigest(word.encode())
        if len(self) > 500_000:
            self.clear()
        self[word] = value
        return value


HASHES = WordHashes()


def hash_words(words: list[str]) -> np.ndarray:
    """Hashes (W,) uint64 of words."""
    return np.fromiter(map(HASHES.__getitem__, words), np.uint64, len(words))
