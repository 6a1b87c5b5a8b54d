"""What is wrong with some pages of the known world: the kinds, how many of each, and what becomes of them.

Every page has at most one kind of defect. Some defective pages are still good pages (a wrong charset can be undone, a
repeated line removed): curation ought to keep those. All others ought to be dropped, so what they say counts for
nothing: copies repeat an article that stays, and the rest have a text of their own (texts.py).
"""

from __future__ import annotations

import random

from pydantic import Field

from herdbook.settings import Settings

EXPECTED = {
    "": "kept",
    "url_duplicate": "deduplicated",
    "exact_duplicate": "deduplicated",
    "near_duplicate": "deduplicated",
    "mirrored_site": "deduplicated",
    "repeated_lines": "kept",
    "ngram_spam": "dropped",
    "adult": "dropped",
    "personal_data": "dropped",
    "gibberish": "dropped",
    "wrong_charset": "kept",
    "broken_encoding": "dropped",
    "lying_language": "kept",
    "truncated_record": "quarantined",
    "thin": "dropped",
}
"""Kind of defect (empty for none) → what curation ought to do with such a page."""

EDIT_RATES = (0.01, 0.03, 0.05)
"""Shares of words changed in near duplicates, in turn."""


class DefectSettings(Settings):
    """How many pages of each kind of defect, as a share of the number of articles; never fewer than `least`."""

    least: int = Field(default=4, ge=1)
    """Fewest pages of every kind, however small the world."""

    url_duplicate: float = Field(default=0.02, ge=0, le=0.2)
    """Pages crawled once before, at the same address with an older date; half of the older ones have an older text."""

    exact_duplicate: float = Field(default=0.02, ge=0, le=0.2)
    """Pages whose text stands at another address too, half of them on another site with other surroundings."""

    near_duplicate: float = Field(default=0.045, ge=0, le=0.2)
    """Copies with 1, 3 or 5 % of their words substituted, inserted or deleted, in equal parts."""

    mirrored_site: float = Field(default=0.02, ge=0, le=0.2)
    """Pages of the one site which stands whole on another host, in other surroundings."""

    repeated_lines: float = Field(default=0.02, ge=0, le=0.2)
    """Good pages with two sentences of the site set between their paragraphs, the same on many pages."""

    ngram_spam: float = Field(default=0.015, ge=0, le=0.2)
    """Pages that repeat a few phrases over and over."""

    adult: float = Field(default=0.015, ge=0, le=0.2)
    """Pages full of adult words."""

    personal_data: float = Field(default=0.015, ge=0, le=0.2)
    """Lists of (invented) people's e-mail and postal addresses, telephone, account and card numbers."""

    gibberish: float = Field(default=0.015, ge=0, le=0.2)
    """Random letters, random words, few words drawn over and over, or encoded bytes."""

    wrong_charset: float = Field(default=0.015, ge=0, le=0.2)
    """Good pages whose charset is declared wrong, or UTF-16 without a mark; the bytes tell what is right."""

    broken_encoding: float = Field(default=0.015, ge=0, le=0.2)
    """Pages whose characters were lost in conversions and can't be had back."""

    lying_language: float = Field(default=0.015, ge=0, le=0.2)
    """Good pages that declare another language than they are written in."""

    truncated_record: float = Field(default=0.015, ge=0, le=0.2)
    """Records that are cut or overwritten in the middle, or promise more bytes than they hold."""

    thin: float = Field(default=0.015, ge=0, le=0.2)
    """Pages of navigation without content."""

    def pages(self, kind: str, articles: int) -> int:
        """Pages of one kind in a world of so many articles; a share of 0 means none."""
        share = float(getattr(self, kind))
        least = self.least * 3 if kind in ("near_duplicate", "repeated_lines") else self.least
        return max(least, round(share * articles)) if share else 0


def edit_words(draw: random.Random, text: str, edits: int, vocabulary: list[str]) -> str:
    """`text` with exactly `edits` words substituted, inserted or deleted at different places; lines stay lines.

    No two neighbouring words are changed, so that edits don't melt into one. Raises ValueError for too short a text.
    """
    lines = [line.split(" ") for line in text.split("\n")]
    places = [(row, column) for row, line in enumerate(lines) for column in range(len(line))][draw.randrange(2) :: 2]
    if len(places) < edits:
        raise ValueError(f"{len(text.split())} words are too few for {edits} edits")
    # Going from the end to the start keeps earlier places valid.
    for row, column in sorted(draw.sample(places, edits), reverse=True):
        line = lines[row]
        deed = draw.choice(("substitute", "insert", "delete"))
        if deed == "delete" and len(line) > 1:
            del line[column]
        elif deed == "insert":
            line.insert(column, draw.choice(vocabulary))
        else:
            old = line[column]
            line[column] = next(word for word in iter(lambda: draw.choice(vocabulary), None) if word != old)
    return "\n".join(" ".join(line) for line in lines)


def misdeclare(draw: random.Random, page: str, variant: int) -> tuple[bytes, str, str]:
    """A page's bytes whose charset is not the declared one, but can be told from the bytes: (bytes, declared, what
    happened).

    Variants: 0 UTF-8 declared ISO-8859-1, 1 Windows-1252 declared UTF-8, 2 UTF-16 without mark and declaration.
    """
    if variant % 3 == 0:
        return page.encode("utf-8"), "iso-8859-1", "utf-8 declared iso-8859-1"
    if variant % 3 == 1:
        return page.encode("windows-1252", "xmlcharrefreplace"), "utf-8", "windows-1252 declared utf-8"
    return page.encode(draw.choice(("utf-16-le", "utf-16-be"))), "", "utf-16 without mark"


def lose_characters(draw: random.Random, text: str, variant: int) -> str:
    """Text after conversions that lost characters for good.

    Variants: 0 every seventh letter or so became U+FFFD; 1 read twice as Windows-1252, bytes without a meaning there
    lost; 2 whole stretches read as UTF-16 one byte off; 3 all characters beyond ASCII and some within turned to
    question marks and control characters.
    """
    if variant % 4 == 0:
        return "".join("�" if letter.isalpha() and draw.random() < 0.15 else letter for letter in text)
    if variant % 4 == 1:
        for _ in range(2):
            text = text.encode("utf-8").decode("windows-1252", "replace")
        return text
    if variant % 4 == 2:
        words = text.split(" ")
        for start in range(0, len(words), 12):
            stretch = " ".join(words[start : start + 8])
            shifted = (b"\x20" + stretch.encode("utf-16-le")[:-1]).decode("utf-16-le", "replace")
            words[start : start + 8] = [shifted, *[""] * (len(words[start : start + 8]) - 1)]
        return " ".join(word for word in words if word)
    lost = [
        draw.choice("?\x80\x8f\x9d�") if ord(letter) > 127 or (letter.isalpha() and draw.random() < 0.1) else letter
        for letter in text
    ]
    return "".join(lost)


def cut_characters(page: bytes) -> bytes:
    """UTF-8 with the second byte of every two-byte character cut off, as a length counted in characters does."""
    return bytes(byte for index, byte in enumerate(page) if not (0x80 <= byte < 0xC0 and page[index - 1] >= 0xC0))
