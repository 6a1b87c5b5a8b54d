"""Invented names: pronounceable, distinct, short, and not words of any language told here.

Each name is two or three syllables, so a byte-level BPE trained on the world learns the frequent ones as
one or two tokens.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from random import Random


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for writing word lists down without quotes."""
    return tuple(text.split())


ONSETS = words("b br d dr f fl g gr h j k kl l m n p pr r s sk st t tr v w z")
VOWELS = words("a e i o u")
MIDDLES = words("b d l ld m mm n nd r rn rv s st t v z")
ENDINGS = {
    "first": words("a e i o an en in on us ia el is"),
    "last": words("ak ard er ett ing old orn und wick son berg low"),
    "place": words("burg by dale field ford ham holm mere stad ton vik wold"),
    "animal": words("a o ix ax y ora una ello esk ou"),
    "region": words("ia land mark shire ora"),
    "river": words("e a ava une ir"),
}

PUPILS = words(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Lucy Max Mia Nina Noah Olga Oscar Paul "
    "Rosa Sam Sara Tom Vera Will Zoe Adam Eva Lily Hugo Ella Theo Iris Finn Alma Otto Jane Karl Ruth"
)
"""Ordinary first names for word problems, where a name is only there to be copied."""


def part_random(seed: int, part: str) -> Random:
    """A generator of its own for one part of the world, so that a change in one part leaves the others as they were."""
    digest = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    return Random(int.from_bytes(digest[:8], "big"))


class NameMaker:
    """Draws names that were not drawn before; no two of a kind share their stem."""

    def __init__(self, random: Random, reserved: Iterable[str] = ()) -> None:
        self.random = random
        self.taken: set[str] = {word.lower() for word in (*PUPILS, *reserved)}
        self.stems: set[tuple[str, str]] = set()

    def draw(self, kind: str) -> str:
        """One new name; `kind` is a key of ENDINGS and gives the name its sound."""
        for attempt in itertools.count():
            stem = self.random.choice(ONSETS) + self.random.choice(VOWELS) + self.random.choice(MIDDLES)
            if attempt >= 50:  # a large world has used up the short names that begin differently
                stem += self.random.choice(VOWELS) + self.random.choice(MIDDLES)
            name = stem + self.random.choice(ENDINGS[kind])
            if (kind, stem) in self.stems or name in self.taken:
                continue
            self.stems.add((kind, stem))
            self.taken.add(name)
            return name.capitalize()
        raise AssertionError("unreachable")

    def draw_many(self, kind: str, count: int) -> list[str]:
        """`count` new names of one kind."""
        return [self.draw(kind) for _ in range(count)]
