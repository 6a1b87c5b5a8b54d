"""Chronicles: entries of small doings among which stand a few needles, and questions about the needles at the end.

A needle is "The secret code of the <adjective> <adjective> <noun> is <number>-<number>."; its question names the key in
the same words and its answer says the whole sentence again, so what has to be learnt is only to look back and copy. A
code can't be guessed (there are 8,100), and of 85,000 keys hardly one comes twice: when keys were pairs, a model learnt
which nouns never follow an adjective in the pages, and so missed the questions' keys (LOG.md). Codes are numbers
because worksheets teach a small model to copy numbers; with a colour in the code it copied the number alone. People
also read some sentences of the page again, which is copying too. Long chronicles are longer than any context. Keys and
codes of questions never stand in a page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from herdbook.world.article import Article, Block
from herdbook.world.names import PUPILS, NameMaker, part_random, words
from herdbook.world.settings import WorldSettings

ADJECTIVES = words(
    "old new small large wooden golden silver broken quiet hidden empty heavy round narrow painted forgotten crooked "
    "stone iron northern southern eastern western upper lower royal dusty frozen burning sleeping "
    "ancient modern distant nearby famous secret sunny shady windy misty noisy gentle lonely crowded wet dry tall low "
    "deep wide bright dark plain pretty ugly dirty clean rich poor warm"
)
NOUNS = words(
    "tower gate bridge well barn mill chapel cellar garden stable harbour market tunnel castle cottage lighthouse "
    "library kitchen workshop attic meadow orchard quarry forge cabin shed vault ferry station school bakery museum"
)
PEOPLE = words(
    "miller smith teacher farmer baker shepherd weaver carpenter doctor fisher hunter gardener clerk mason tailor "
    "cobbler tanner potter glazier roofer cooper brewer butcher grocer barber saddler printer painter joiner tinker "
    "pedlar sailor soldier judge priest sexton midwife nurse widow stranger traveller"
)
DEEDS = (
    *(
        f"{verb} {thing}"
        for verbs, things in (
            ("swept scrubbed painted measured", "the yard;the floor;the stairs;the loft;the porch;the hall"),
            (
                "mended repaired broke carried",
                "a fence;a cart;a ladder;a basket;a saddle;a wheel;a chair;a pump",
            ),
            ("sold bought found lost", "a goat;a shoe;a button;a rope;a lantern;a spoon;a purse;a hammer;a drum"),
            ("planted picked washed cooked", "onions;plums;beans;cabbages;turnips;cherries;leeks;mushrooms;nettles"),
            ("fed counted chased painted", "the hens;the sheep;the geese;the pigeons;the rabbits;the calves"),
            ("wrote read burned hid", "a letter;a diary;a poem;a recipe;a will;a contract;a song"),
            ("chopped stacked hauled split", "wood;stones;bricks;planks;barrels;sacks;peat"),
            ("visited fetched greeted helped", "a friend;an uncle;a cousin;the neighbours;the children;a pilgrim"),
        )
        for verb in verbs.split()
        for thing in things.split(";")
    ),
    *("slept until noon", "sang in the street", "told a story", "watched the rain", "danced all night", "fell ill"),
)
PLACES = (
    *(
        f"{where} the {place}"
        for where in ("near", "behind", "beside")
        for place in words("river church hill oak pond wall road inn bakehouse smithy ditch hedge fountain graveyard")
    ),
    *("in the village", "in the valley", "at home", "at sunrise", "without a word", "in great haste", "as always"),
)
TIMES = (
    "On Monday", "On Tuesday", "On Wednesday", "On Thursday", "On Friday", "On Saturday", "On Sunday", "In the morning",
    "At noon", "In the evening", "At night", "The next day", "A week later", "In spring", "In autumn", "After the rain",
)  # fmt: skip
MONTHS = words("January February March April May June July August September October November December")
HELD_OUT_PERCENT = 8


def held_out(*parts: object) -> bool:
    """Whether a key or a code is kept for questions."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


@dataclass(frozen=True)
class Needle:
    """A key and its code."""

    key: str
    code: str

    @property
    def sentence(self) -> str:
        return f"The secret code of the {self.key} is {self.code}."

    @property
    def question(self) -> str:
        return f"What is the secret code of the {self.key}?"

    @property
    def text(self) -> str:
        """Question and answer as they stand at the end of a chronicle."""
        return f"Question: {self.question}\nAnswer: {self.sentence}"


def draw_code(random: Random, *, for_questions: bool) -> str:
    """Two numbers, kept for questions or free for pages."""
    while True:
        code = f"{random.randint(10, 99)}-{random.randint(10, 99)}"
        if held_out(code) is for_questions:
            return code


def draw_key(random: Random, *, for_questions: bool) -> str:
    """Two adjectives and a noun, kept for questions or free for pages."""
    while True:
        key = " ".join([*random.sample(ADJECTIVES, 2), random.choice(NOUNS)])
        if held_out(key) is for_questions:
            return key


def question_needle(random: Random) -> Needle:
    """A needle whose key and code stand in no page."""
    return Needle(draw_key(random, for_questions=True), draw_code(random, for_questions=True))


def page_needles(random: Random, count: int) -> list[Needle]:
    """Needles for one page, with different nouns and different codes."""
    needles: dict[str, Needle] = {}
    while len(needles) < count:
        needle = Needle(draw_key(random, for_questions=False), draw_code(random, for_questions=False))
        if all(needle.code != other.code for other in needles.values()):
            needles.setdefault(needle.key.split()[-1], needle)
    return list(needles.values())


def filler(random: Random) -> str:
    """A sentence about some small doing; it never holds a code."""
    who = f"the {random.choice(PEOPLE)}" if random.random() < 0.7 else random.choice(PUPILS)
    where = f" {random.choice(PLACES)}" if random.random() < 0.6 else ""
    if random.random() < 0.5:
        return f"{random.choice(TIMES)} {who} {random.choice(DEEDS)}{where}."
    return f"{who[0].upper()}{who[1:]} {random.choice(DEEDS)}{where}."


SITES = ("chronicle.old-village.example", "www.parish-chronicles.example", "archive.town-annals.example")
TITLES = (
    "Village chronicle, leaf {n}", "Chronicle {n}", "From the old chronicle, page {n}", "Parish annals, sheet {n}",
)  # fmt: skip


READERS = ("{Who} read again:", "{Who} read it once more:", "And {who} said again:", "{Who} copied this into the book:")


def read_again(random: Random, sentences: list[str]) -> None:
    """Put in a sentence that says a fifth of the sentences again, word for word, anywhere after them."""
    count = max(2, len(sentences) // 5)
    first = random.randint(0, len(sentences) - count)
    who = f"the {random.choice(PEOPLE)}"
    opening = random.choice(READERS).format(who=who, Who=who[0].upper() + who[1:])
    again = " ".join([opening, *sentences[first : first + count]])
    sentences.insert(random.randint(first + count, len(sentences)), again)


def short_chronicle(random: Random, number: int, shortest: int = 4, longest: int = 28, early: float = 0.1) -> Article:
    """A chronicle of `shortest` to `longest` sentences, shorter ones more often, with needles, all asked for.

    A share `early` of the needles is put at the very beginning.

    One to three needles, and one more for every 30 sentences: a long page with a single needle teaches little for its
    tokens, and nothing about telling one key from another.
    """
    few = random.choice((1, 1, 1, 1, 2, 3))
    sentences = [filler(random) for _ in range(round(shortest * (longest / shortest) ** random.random()))]
    needles = page_needles(random, few + min(len(sentences) // 30, 8))
    read_again(random, sentences)
    for needle in needles:
        # The very beginning is where a long page's needles are missed, and where chance would put few.
        sentences.insert(0 if random.random() < early else random.randint(0, len(sentences)), needle.sentence)
    blocks = []
    while sentences:
        cut = random.randint(4, 8)
        blocks.append(Block("paragraph", " ".join(sentences[:cut])))
        sentences = sentences[cut:]
    asked = random.sample(needles, len(needles))
    return Article(
        slug=f"leaf-{number}",
        site=random.choice(SITES),
        title=random.choice(TITLES).format(n=number),
        language="en",
        topic="general",
        genre="chronicle",
        blocks=(*blocks, *(Block("qa", needle.text) for needle in asked)),
    )


EVENTS = (
    "a bell for {town} was cast, and it weighed {n} pounds",
    "the bridge of {town} was opened by {who}",
    "a fire in {town} burned {n} houses",
    "{who} was made mayor of {town}",
    "{n} travellers were snowed in at {town}",
    "the market of {town} was moved to the square, as {who} had asked",
    "the school of {town} was given {n} books by {who}",
    "a flood took the mill of {town}, and {who} saved {n} sheep",
    "{who} came to {town} with {n} wagons of salt",
    "the harvest of {town} filled {n} barns",
)


def long_chronicle(random: Random, number: int) -> Article:
    """Dated entries about towns that stand nowhere else, 3,000 words or more, with needles and questions about them."""
    names = NameMaker(random)
    towns, people = names.draw_many("place", 6), names.draw_many("last", 8)
    needles = page_needles(random, 6)
    entries: list[str] = []
    year, length, facts = random.randint(1400, 1700), 0, []
    while length < 3_000:
        year += random.randint(1, 2)
        who = f"{random.choice(PUPILS)} {random.choice(people)}"
        event = random.choice(EVENTS).format(town=random.choice(towns), who=who, n=random.randint(2, 99))
        date = f"{random.randint(1, 28)} {random.choice(MONTHS)} {year}"
        facts.append(f"chronicle-{number}.entry-{len(entries)}")
        entries.append(" ".join([f"{date}: {event}.", *(filler(random) for _ in range(random.randint(2, 5)))]))
        length += len(entries[-1].split())
    for needle, entry in zip(needles, sorted(random.sample(range(len(entries)), len(needles)))):
        entries[entry] += f" {needle.sentence}"
    return Article(
        slug=f"annals-{number}",
        site=random.choice(SITES),
        title=f"The annals of {towns[0]} and its neighbours, volume {number}",
        language="en",
        topic="general",
        genre="chronicle",
        blocks=(
            *(Block("paragraph", entry) for entry in entries),
            *(Block("qa", needle.text) for needle in random.sample(needles, 3)),
        ),
        facts=tuple(facts),
    )


def chronicles(settings: WorldSettings) -> Iterator[Article]:
    """All short chronicles, then the long ones."""
    random = part_random(settings.seed, "short chronicles")
    for number in range(1, settings.short_chronicles + 1):
        shape = (settings.shortest_chronicle, settings.longest_chronicle, settings.early_needles)
        yield short_chronicle(random, number, *shape)
    random = part_random(settings.seed, "long chronicles")
    for number in range(1, settings.long_chronicles + 1):
        yield long_chronicle(random, number)


def question_needles(settings: WorldSettings, count: int) -> Iterator[tuple[Needle, list[str]]]:
    """Held-out needles, each with 400 sentences of filler to hide it in."""
    random = part_random(settings.seed, "needle questions")
    for _ in range(count):
        yield question_needle(random), [filler(random) for _ in range(400)]
