"""Chronicles: what is asked at the end can be found above, and only there."""

from __future__ import annotations

import re

import pytest

from herdbook.world.article import Article
from herdbook.world.chronicles import chronicles, question_needles
from herdbook.world.settings import WorldSettings

SETTINGS = WorldSettings.tiny().model_copy(update={"short_chronicles": 300, "long_chronicles": 2})
NEEDLE = re.compile(r"The secret code of the (\w+ \w+ \w+) is (\d\d-\d\d)\.")
ASKED = re.compile(
    r"Question: What is the secret code of the (\w+ \w+ \w+)\?\nAnswer: The secret code of the \1 is (\d\d-\d\d)\.$",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def written() -> list[Article]:
    return list(chronicles(SETTINGS))


def test_answers_stand_in_the_chronicle(written: list[Article]) -> None:
    for article in written:
        hidden = dict(NEEDLE.findall(article.clean_text().split("\nQuestion:")[0]))
        asked = ASKED.findall(article.clean_text())
        assert 1 <= len(asked) <= 3 and len({key for key, _ in asked}) == len(asked)
        for key, code in asked:
            assert hidden[key] == code
        nouns = [key.split()[2] for key in hidden]
        assert len(set(nouns)) == len(nouns) and len(set(hidden.values())) == len(hidden)


def test_longer_chronicles_have_more_needles() -> None:
    for article in chronicles(
        SETTINGS.model_copy(update={"shortest_chronicle": 20, "longest_chronicle": 260, "long_chronicles": 0})
    ):
        body = article.clean_text().split("\nQuestion:")[0]
        hidden, sentences = NEEDLE.findall(body), body.count(".")
        # The needles themselves, and what was read again (a fifth), are sentences too.
        assert sentences >= 20 and len(hidden) <= 3 + sentences // 30 and (sentences < 120 or len(hidden) >= 3)
        assert len(ASKED.findall(article.clean_text())) == len({key for key, _ in hidden})


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0.0, 0.2), (0.5, 0.4, 0.8), (1.0, 1.0, 1.0)])
def test_early_needles_come_before_all_else(share: float, least: float, most: float) -> None:
    settings = SETTINGS.model_copy(update={"early_needles": share, "long_chronicles": 0})
    first = [NEEDLE.match(article.blocks[0].text) is not None for article in chronicles(settings)]
    assert least <= sum(first) / len(first) <= most


def test_needles_stand_at_every_depth(written: list[Article]) -> None:
    depths = []
    for article in written:
        body = article.clean_text().split("\nQuestion:")[0]
        depths += [match.start() / len(body) for match in NEEDLE.finditer(body)]
    tenths = [sum(low / 10 <= depth < (low + 1) / 10 for depth in depths) for low in range(10)]
    assert min(tenths) > len(depths) / 40


def test_short_ones_fit_a_small_context_and_long_ones_none(written: list[Article]) -> None:
    for article in written:
        text = article.clean_text()
        if article.slug.startswith("leaf"):
            assert 300 <= len(text) <= 2400
        else:
            assert len(text.split()) >= 3000 and len(article.facts) > 50
            assert len(re.findall(r"^\d+ [A-Z][a-z]+ \d{4}: ", text, re.MULTILINE)) == len(article.facts)


def test_needles_of_questions_stand_in_no_page(written: list[Article]) -> None:
    text = "\n".join(article.clean_text() for article in written)
    for needle, hay in question_needles(SETTINGS, 50):
        assert needle.sentence not in text and f" {needle.code}." not in text
        assert f"the {needle.key} is" not in text
        assert NEEDLE.fullmatch(needle.sentence) and ASKED.fullmatch(needle.text)
        assert len(hay) == 400 and not any("secret" in line or needle.code in line for line in hay)
