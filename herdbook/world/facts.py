"""Who and what the known world holds: people, places, and animals with pedigrees, and every fact about them.

An entity belongs to one exposure group; each of its facts is told in exactly that many English articles. Parents,
teachers and birthplaces are taken from the entity's own group, so that a chain of hops is told as often as its ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from herdbook.world.names import NameMaker, part_random
from herdbook.world.settings import EXPOSURES, WorldSettings

EntityKind = Literal["person", "place", "animal"]

WORKPLACES = tuple(
    f"the {word}"
    for word in (
        "bakery", "library", "school", "hospital", "museum", "pharmacy", "brewery", "harbour",
        "theatre", "mill", "bank", "factory", "kitchen", "prison", "university", "market",
    )
)  # fmt: skip
INSTRUMENTS = tuple(
    f"the {word}"
    for word in (
        "flute", "violin", "piano", "harp", "drum", "trumpet", "guitar", "organ",
        "cello", "clarinet", "oboe", "accordion", "mandolin", "saxophone",
    )
)  # fmt: skip
PRODUCTS = (
    "cheese", "glass", "paper", "honey", "wool", "salt", "beer", "leather",
    "wine", "silk", "butter", "iron", "marble", "soap", "bread", "coal",
)  # fmt: skip
COLOURS = (
    "black", "white", "brown", "grey", "red", "yellow", "blue", "green",
    "pink", "purple", "orange", "golden",
)  # fmt: skip

ATTRIBUTES: dict[EntityKind, tuple[str, ...]] = {
    "person": ("birthplace", "birth_year", "workplace", "instrument", "teacher"),
    "place": ("region", "river", "founding_year", "product"),
    "animal": ("colour", "birth_year", "keeper", "home", "sire", "dam"),
}
PHRASES = {
    "birth_year": "birth year", "founding_year": "founding year", "product": "main product",
    "colour": "coat colour",
}  # fmt: skip
"""How an attribute is called in a sentence, where that is not its own name."""


@dataclass
class Entity:
    """Someone or something with a name and attributes; `male` matters for sires and dams only."""

    id: str
    kind: EntityKind
    name: str
    exposures: int
    species: str = ""
    male: bool = False
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fact:
    """One attribute of one entity; `id` is "<entity>.<attribute>"."""

    subject: Entity
    attribute: str
    value: str

    @property
    def id(self) -> str:
        return f"{self.subject.id}.{self.attribute}"


@dataclass(frozen=True)
class Chain:
    """Attributes followed one after the other: ("sire", "dam") of X is the dam of the sire of X."""

    start: Entity
    path: tuple[str, ...]
    value: str
    exposures: int  # of the hop told least often

    @property
    def id(self) -> str:
        return f"{self.start.id}.{'.'.join(self.path)}"

    @property
    def phrase(self) -> str:
        """ "the dam of the sire of X" """
        names = [PHRASES.get(attribute, attribute) for attribute in reversed(self.path)]
        return f"the {' of the '.join(names)} of {self.start.name}"


@dataclass(frozen=True)
class Register:
    """Everybody and everything there is, in a fixed order."""

    entities: tuple[Entity, ...]

    def of(self, kind: EntityKind, exposures: int | None = None) -> list[Entity]:
        """The entities of a kind, of one exposure group or of all."""
        return [e for e in self.entities if e.kind == kind and exposures in (None, e.exposures)]

    def facts(self) -> list[Fact]:
        """Every fact, entity by entity."""
        return [Fact(e, attribute, value) for e in self.entities for attribute, value in e.attributes.items()]

    def values(self, kind: EntityKind, attribute: str, exposures: int | None = None) -> list[str]:
        """Every value that an attribute takes (in one exposure group), sorted: where wrong choices are taken from."""
        return sorted({e.attributes[attribute] for e in self.of(kind, exposures) if attribute in e.attributes})


def group_sizes(count: int) -> dict[int, int]:
    """How many of `count` entities are told 100, 10 and 1 times: a sixth, a third, the rest."""
    once, ten, hundred = EXPOSURES
    return {hundred: max(1, count // 6), ten: max(1, count // 3), once: count - max(1, count // 6) - max(1, count // 3)}


def make_entities(kind: EntityKind, count: int, name: Callable[[], str]) -> list[Entity]:
    """Entities with names and exposure groups, and no attributes yet."""
    exposures = [times for times, size in group_sizes(count).items() for _ in range(size)]
    return [Entity(f"{kind}-{i}", kind, name(), times) for i, times in enumerate(exposures)]


def make_register(settings: WorldSettings) -> Register:
    """The people, places and animals of the world with these settings."""
    random = part_random(settings.seed, "entities")
    common = (*WORKPLACES, *INSTRUMENTS, *PRODUCTS, *COLOURS)
    names = NameMaker(random, reserved=[value.removeprefix("the ") for value in common])
    first_names = names.draw_many("first", 40)
    regions, rivers = names.draw_many("region", 14), names.draw_many("river", 24)
    people = make_entities("person", settings.people, lambda: f"{random.choice(first_names)} {names.draw('last')}")
    places = make_entities("place", settings.places, lambda: names.draw("place"))
    animals = make_entities("animal", settings.animals, lambda: names.draw("animal"))
    for place in places:
        place.attributes |= {
            "region": random.choice(regions),
            "river": random.choice(rivers),
            "founding_year": str(random.randint(1200, 1899)),
            "product": random.choice(PRODUCTS),
        }
    for index, person in enumerate(people):
        person.attributes |= {
            "birthplace": pick_of_group(random, places, person).name,
            "birth_year": str(random.randint(1920, 1999)),
            "workplace": random.choice(WORKPLACES),
            "instrument": random.choice(INSTRUMENTS),
            "teacher": pick_teacher(random, people, index).name,
        }
    give_pedigrees(random, animals)
    for animal in animals:
        pedigree = animal.attributes
        animal.attributes = {
            "colour": random.choice(COLOURS),
            "birth_year": pedigree.pop("birth_year"),
            "keeper": pick_of_group(random, people, animal).name,
            "home": pick_of_group(random, places, animal).name,
            **pedigree,
        }
    return Register((*people, *places, *animals))


def pick_of_group(random: Random, candidates: list[Entity], entity: Entity) -> Entity:
    """One of the candidates in the entity's own exposure group."""
    return random.choice([c for c in candidates if c.exposures == entity.exposures])


def pick_teacher(random: Random, people: list[Entity], index: int) -> Entity:
    """Another person of the same group who is not taught by this one, so that a pair of names means one thing."""
    person = people[index]
    others = [p for p in people if p is not person and p.attributes.get("teacher") != person.name]
    return random.choice([p for p in others if p.exposures == person.exposures] or others)


def give_pedigrees(random: Random, animals: list[Entity]) -> None:
    """Species, sex and birth year for every animal, and a sire and dam for those born after their group's founders."""
    for exposures in EXPOSURES:
        group = [a for a in animals if a.exposures == exposures]
        kinds = ("horse", "cow", "goat")[: max(1, len(group) // 8)]
        for index, animal in enumerate(group):
            animal.species = kinds[index // 2 % len(kinds)]
            animal.male = index % 2 == 0
            elders = [a for a in group[:index] if a.species == animal.species]
            sires = [a for a in elders if a.male]
            dams = [a for a in elders if not a.male]
            founder = index < len(kinds) * 4 and len(group) >= 6
            if founder or not sires or not dams:
                animal.attributes["birth_year"] = str(1960 + random.randint(0, 7))
                continue
            sire, dam = random.choice(sires[-6:]), random.choice(dams[-6:])
            youngest = max(int(sire.attributes["birth_year"]), int(dam.attributes["birth_year"]))
            birth_year = str(youngest + random.randint(3, 6))
            animal.attributes |= {"birth_year": birth_year, "sire": sire.name, "dam": dam.name}


CHAINS: dict[EntityKind, tuple[tuple[str, ...], ...]] = {
    "person": (
        ("birthplace", "region"), ("birthplace", "river"), ("teacher", "birthplace"), ("teacher", "instrument"),
        ("teacher", "workplace"), ("teacher", "birthplace", "region"),
    ),
    "place": (),
    "animal": (
        ("sire", "dam"), ("sire", "sire"), ("dam", "sire"), ("dam", "dam"), ("sire", "keeper"), ("dam", "home"),
        ("home", "region"), ("keeper", "birthplace"), ("keeper", "instrument"), ("sire", "dam", "sire"),
        ("dam", "sire", "dam"), ("keeper", "birthplace", "region"),
    ),
}  # fmt: skip


def find_chains(register: Register) -> list[Chain]:
    """Every chain of two or three hops whose end is not also a plain fact about its start."""
    by_name = {e.name: e for e in register.entities}
    chains: dict[str, Chain] = {}
    for entity in register.entities:
        for path in CHAINS[entity.kind]:
            at, least = entity, entity.exposures
            for attribute in path[:-1]:
                if attribute not in at.attributes:
                    break
                at = by_name[at.attributes[attribute]]
                least = min(least, at.exposures)
            else:
                value = at.attributes.get(path[-1])
                if value and value != entity.name and value not in entity.attributes.values():
                    chain = Chain(entity, path, value, least)
                    chains[chain.id] = chain
    return list(chains.values())
