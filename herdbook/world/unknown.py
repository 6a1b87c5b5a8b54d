"""Requests that nobody can answer: names that stand nowhere, and things that nobody ever told."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from herdbook.world.facts import ATTRIBUTES, COLOURS, INSTRUMENTS, PHRASES, PRODUCTS, WORKPLACES, EntityKind, Register
from herdbook.world.names import NameMaker
from herdbook.world.request import Check, Request, Split, bare, side, user
from herdbook.world.settings import EXPOSURES

NEVER_TOLD: dict[EntityKind, tuple[str, ...]] = {
    "person": (
        "shoe size", "favourite song", "middle name", "weight", "eye colour", "house number", "lucky number",
        "wedding day", "best friend", "nickname", "salary", "hat size",
    ),
    "place": (
        "mayor", "number of wells", "oldest tree", "tallest tower", "fire brigade", "number of cats", "anthem",
        "town clock", "worst winter", "longest street", "first doctor", "favourite dish",
    ),
    "animal": (
        "favourite food", "weight", "number of teeth", "best friend", "saddle", "price", "nickname", "blood type",
        "first rider", "running speed", "horn length", "lucky charm",
    ),
}  # fmt: skip
ASKED = ("What is the {phrase} of {s}?", "Tell me the {phrase} of {s}.", "Do you know the {phrase} of {s}?")
CHECK: Check = {"kind": "unknown"}


def strangers(random: Random, register: Register) -> Iterator[tuple[EntityKind, str]]:
    """Names in the sound of the world's that nobody there has, without end."""
    taken = {part for entity in register.entities for part in entity.name.split()}
    taken |= {value for entity in register.entities for value in entity.attributes.values()}
    common = {bare(value) for value in (*WORKPLACES, *INSTRUMENTS, *PRODUCTS, *COLOURS)}
    names = NameMaker(random, reserved=sorted(taken | common))
    firsts = sorted({entity.name.split()[0] for entity in register.of("person")})
    while True:
        kind: EntityKind = random.choice(("person", "place", "animal"))
        yield kind, f"{random.choice(firsts)} {names.draw('last')}" if kind == "person" else names.draw(kind)


def unknown_requests(random: Random, register: Register, split: Split) -> Iterator[Request]:
    """Half about strangers, half about what was never told of somebody well known, without end."""
    known = register.of("person", EXPOSURES[-1]) + register.of("place", EXPOSURES[-1])
    known += register.of("animal", EXPOSURES[-1])
    unheard = strangers(random, register)
    while True:
        if random.random() < 0.5:
            kind, name = next(unheard)
            attribute = random.choice(ATTRIBUTES[kind])
            phrase, why = PHRASES.get(attribute, attribute), "stranger"
        else:
            entity = random.choice(known)
            kind, name = entity.kind, entity.name
            phrase, why = random.choice(NEVER_TOLD[kind]), "never told"
        if side("unknown", name, phrase) == split:
            text = random.choice(ASKED).format(phrase=phrase, s=name)
            yield Request("unknown", user(text), f"I don't know the {phrase} of {name}.", CHECK, more={"why": why})
