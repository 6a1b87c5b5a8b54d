"""All that the known world has to say, as articles in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator

from herdbook.world.article import Article
from herdbook.world.chronicles import chronicles
from herdbook.world.facts import make_register
from herdbook.world.languages import language_articles
from herdbook.world.lessons import lessons, quizzes
from herdbook.world.problems import worksheets
from herdbook.world.programs import tutorials
from herdbook.world.settings import WorldSettings
from herdbook.world.tellings import fact_articles


def articles(settings: WorldSettings) -> Iterator[Article]:
    """Every article of the world with these settings, part by part; the same settings give the same articles."""
    register = make_register(settings)
    yield from fact_articles(settings, register)
    yield from worksheets(settings)
    yield from tutorials(settings)
    yield from chronicles(settings)
    yield from language_articles(settings, register)
    yield from lessons(settings)
    yield from quizzes(settings)
