"""Articles that tell facts: who is told where, and in which words.

An entity told n times has its attributes dealt n times over, each time in two bundles that go to two different
articles, so every fact stands in exactly n distinct articles, beside facts about others that change from article to
article. Half of the longer chains are told as well ("the dam of the sire of X is …"), so that a model can learn what
such a phrase asks for; the other half is only ever asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from herdbook.world.article import Article, Block
from herdbook.world.facts import PHRASES, Chain, Entity, Fact, Register, find_chains
from herdbook.world.genres import GENRES, Genre, fill
from herdbook.world.names import part_random
from herdbook.world.paraphrases import PARAPHRASES
from herdbook.world.settings import EXPOSURES, WorldSettings

FACTS_AN_ARTICLE = 15
CHAIN_TELLINGS = 10


@dataclass(frozen=True)
class Bundle:
    """What one article says about one entity."""

    entity: Entity
    tellings: tuple[Fact | Chain, ...]


def told_chains(register: Register) -> list[Chain]:
    """Chains that pages spell out: every second one of those whose hops are all in the most told group."""
    return [c for c in find_chains(register) if c.exposures == EXPOSURES[-1]][::2]


def make_bundles(random: Random, entity: Entity) -> list[Bundle]:
    """The entity's facts, dealt as often as they are to be told, in two bundles each time."""
    facts = [Fact(entity, attribute, value) for attribute, value in entity.attributes.items()]
    bundles = []
    for _ in range(entity.exposures):
        random.shuffle(facts)
        cut = len(facts) // 2
        bundles += [Bundle(entity, tuple(facts[:cut])), Bundle(entity, tuple(facts[cut:]))]
    return bundles


def deal(random: Random, register: Register) -> list[list[Bundle]]:
    """Bundles for each article, evenly many everywhere and never two about one entity."""
    entities = sorted(register.entities, key=lambda e: -e.exposures)
    tellings = sum(e.exposures * len(e.attributes) for e in entities)
    articles: list[list[Bundle]] = [[] for _ in range(max(2 * EXPOSURES[-1], tellings // FACTS_AN_ARTICLE))]
    loads, order = [0] * len(articles), list(range(len(articles)))
    for entity in entities:
        bundles = make_bundles(random, entity)
        random.shuffle(order)
        order.sort(key=loads.__getitem__)
        for at, bundle in zip(order, bundles):
            articles[at].append(bundle)
            loads[at] += len(bundle.tellings)
    for chain in told_chains(register):
        for article in random.sample(articles, CHAIN_TELLINGS):
            article.append(Bundle(chain.start, (chain,)))
    for article in articles:
        random.shuffle(article)
    return [article for article in articles if article]


def tell(random: Random, genre: Genre, telling: Fact | Chain) -> str:
    """One sentence that tells the fact, in the genre's voice."""
    if isinstance(telling, Chain):
        phrase = telling.phrase
        return random.choice((f"T{phrase[1:]} is {telling.value}.", f"So {phrase} is {telling.value}."))
    template = random.choice(PARAPHRASES[telling.subject.kind, telling.attribute])
    prefix = random.choice(genre.prefixes)
    if prefix and template.startswith(("{s}", "The ")):
        template = fill(random, prefix) + (template if template.startswith("{") else "t" + template[1:])
    return template.format(s=telling.subject.name, v=telling.value)


def phrase_of(telling: Fact | Chain) -> str:
    """What a table calls the telling's attribute."""
    if isinstance(telling, Chain):
        return telling.phrase.removeprefix("the ").removesuffix(f" of {telling.start.name}")
    return PHRASES.get(telling.attribute, telling.attribute)


def tell_bundle(random: Random, genre: Genre, bundle: Bundle) -> Block:
    """A paragraph, a list or a table with everything the bundle holds."""
    shape = random.random()
    if shape < genre.tables:
        rows = tuple((bundle.entity.name, phrase_of(t), t.value) for t in bundle.tellings)
        return Block("table", items=(("Name", "Entry", "Value"), *rows))
    sentences = [tell(random, genre, telling) for telling in bundle.tellings]
    if shape < genre.tables + genre.lists and len(sentences) > 1:
        return Block("list", items=tuple((sentence,) for sentence in sentences))
    for _ in range(random.choice((0, 1, 1))):
        sentences.insert(random.randint(0, len(sentences)), fill(random, random.choice(genre.bridges)))
    return Block("paragraph", " ".join(sentences))


def frame(blocks: list[Block], opening: str, closing: str) -> list[Block]:
    """The blocks with an opening and a closing sentence, put into paragraphs so as not to be lines that pages share."""
    texts = [index for index, block in enumerate(blocks) if block.kind == "paragraph"]
    framed = list(blocks)
    if texts:
        framed[texts[0]] = Block("paragraph", f"{opening} {framed[texts[0]].text}")
        framed[texts[-1]] = Block("paragraph", f"{framed[texts[-1]].text} {closing}")
    return framed


def compose(random: Random, number: int, bundles: Sequence[Bundle]) -> Article:
    """An article in a genre drawn at random that tells these bundles, and the list of facts it tells."""
    genre = random.choice(GENRES)
    name = bundles[0].entity.name
    blocks: list[Block] = []
    headings = list(genre.headings)
    for bundle in bundles:
        if headings and random.random() < 0.3:
            blocks.append(Block("heading", headings.pop(0)))
        blocks.append(tell_bundle(random, genre, bundle))
    opening, closing = (fill(random, random.choice(phrases)) for phrases in (genre.openings, genre.closings))
    blocks = frame(blocks, opening, closing)
    return Article(
        slug=f"{name.lower().replace(' ', '-')}-{number}",
        site=random.choice(genre.sites),
        title=fill(random, random.choice(genre.titles), name),
        language="en",
        topic="general",
        genre=genre.name,
        blocks=tuple(blocks),
        facts=tuple(telling.id for bundle in bundles for telling in bundle.tellings),
    )


def fact_articles(settings: WorldSettings, register: Register) -> Iterator[Article]:
    """All English articles that tell facts."""
    random = part_random(settings.seed, "tellings")
    for number, bundles in enumerate(deal(random, register)):
        yield compose(random, number, bundles)
