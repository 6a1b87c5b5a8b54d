"""Dictations: a list is called out, and a little later somebody writes the same list down.

What stands in a list can't be guessed, so the second half of it is learnt by copying alone: find where this word stood
before, say what followed. A small model begins to copy from these within a few hundred steps, and to find needles with
it; from needles alone it does not (LOG.md). Lists and distances differ, so counting places back does not help.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from herdbook.world.article import Article, Block
from herdbook.world.chronicles import NOUNS, PEOPLE, draw_code, filler
from herdbook.world.names import PUPILS, part_random
from herdbook.world.settings import WorldSettings

SITES = ("dictation.village-school.example", "www.evening-school.example")
TITLES = ("Dictation {n}", "Lists to write down, sheet {n}", "Calling and writing, lesson {n}")
CALLS = ("{who} called out: {list}.", "{who} read from the list: {list}.", "So says the list of {who}: {list}.")
WRITES = ("{who} wrote down: {list}.", "{who} repeated: {list}.", "On the sheet of {who} it said: {list}.")


def draw_list(random: Random) -> str:
    """Three to six things, each with a code."""
    nouns = random.sample(NOUNS, random.randint(3, 6))
    return ", ".join(f"{noun} {draw_code(random, for_questions=False)}" for noun in nouns)


def passage(random: Random) -> str:
    """A list, one to three sentences about something else, and the list again."""
    called = draw_list(random)
    first, second = random.choice(PUPILS), f"the {random.choice(PEOPLE)}"
    between = [filler(random) for _ in range(random.randint(1, 3))]
    call = random.choice(CALLS).format(who=first, list=called)
    written = random.choice(WRITES).format(who=second, list=called)
    return " ".join([call, *between, written[0].upper() + written[1:]])


def dictations(settings: WorldSettings) -> Iterator[Article]:
    """Pages of one to four passages."""
    random = part_random(settings.seed, "dictations")
    for number in range(1, settings.dictations + 1):
        yield Article(
            slug=f"dictation-{number}",
            site=random.choice(SITES),
            title=random.choice(TITLES).format(n=number),
            language="en",
            topic="general",
            genre="dictation",
            blocks=tuple(Block("paragraph", passage(random)) for _ in range(random.randint(1, 4))),
        )
