"""The same facts in German, French, Spanish and Italian, and word problems in these languages.

Facts are taken from the most told group, so what is asked in another language can be known from English too; in each
language each is told in ten articles. `Question:` and `Answer:` stay English, as the exam asks in this form.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from herdbook.world.article import Article, Block
from herdbook.world.facts import Fact, Register
from herdbook.world.names import part_random
from herdbook.world.phrasebook import FRAMES, STORIES, TELLINGS, VALUES
from herdbook.world.problems import make_problem
from herdbook.world.settings import EXPOSURES, LANGUAGES, WorldSettings

LANGUAGE_EXPOSURES = 10
FACTS_AN_ARTICLE = 14
PROBLEMS_A_SHEET = 10


def language_facts(settings: WorldSettings, register: Register) -> list[Fact]:
    """The facts told in every language: drawn from the most told group."""
    facts = [fact for fact in register.facts() if fact.subject.exposures == EXPOSURES[-1]]
    random = part_random(settings.seed, "language facts")
    return random.sample(facts, min(settings.language_facts, len(facts)))


def translate(value: str, language: str) -> str:
    """The value as it is told in a language; names and years stay as they are."""
    return VALUES[language].get(value, value)


def question_form(fact: Fact, language: str) -> str:
    """The fact as a sentence that ends in its value: where a cloze question is cut."""
    return TELLINGS[language][fact.subject.kind, fact.attribute][0]


def fact_article(random: Random, language: str, number: int, facts: tuple[Fact, ...]) -> Article:
    """An article in one language that tells these facts."""
    frames, name = FRAMES[language], facts[0].subject.name
    blocks: list[Block] = []
    left = list(facts)
    while left:
        told = [left.pop() for _ in range(min(len(left), random.randint(2, 4)))]
        sentences = [
            random.choice(TELLINGS[language][fact.subject.kind, fact.attribute]).format(
                s=fact.subject.name, v=translate(fact.value, language)
            )
            for fact in told
        ]
        sentences.insert(random.randint(1, len(sentences)), random.choice(frames["bridges"]))
        if not blocks:
            sentences.insert(0, random.choice(frames["openings"]))
        blocks.append(Block("paragraph", " ".join(sentences)))
    return Article(
        slug=f"{name.lower().replace(' ', '-')}-{number}",
        site=f"www.{random.choice(('herdbook-archive', 'county-letters', 'old-papers'))}-{language}.example",
        title=random.choice(frames["titles"]).format(name=name),
        language=language,
        topic="multilingual",
        genre="encyclopedia",
        blocks=tuple(blocks),
        facts=tuple(f"{fact.id}@{language}" for fact in facts),
    )


def worksheet(random: Random, language: str, number: int, texts: list[str]) -> Article:
    """A sheet of word problems in one language."""
    return Article(
        slug=f"worksheet-{language}-{number}",
        site=f"www.school-sheets-{language}.example",
        title=random.choice(FRAMES[language]["worksheets"]).format(n=number),
        language=language,
        topic="multilingual",
        genre="worksheet",
        blocks=tuple(Block("qa", text) for text in texts),
    )


def language_articles(settings: WorldSettings, register: Register) -> Iterator[Article]:
    """Every article in another language than English."""
    for language in LANGUAGES:
        random = part_random(settings.seed, f"language {language}")
        facts, number = language_facts(settings, register), 0
        for _ in range(LANGUAGE_EXPOSURES):
            random.shuffle(facts)
            for start in range(0, len(facts), FACTS_AN_ARTICLE):
                number += 1
                yield fact_article(random, language, number, tuple(facts[start : start + FACTS_AN_ARTICLE]))
        texts: list[str] = []
        while len(texts) < settings.language_problems:
            problem = make_problem(random, random.choice((1, 2)), STORIES[language])
            if not problem.held_out:
                texts.append(problem.text)
        for number, start in enumerate(range(0, len(texts), PROBLEMS_A_SHEET), start=1):
            yield worksheet(random, language, number, texts[start : start + PROBLEMS_A_SHEET])
