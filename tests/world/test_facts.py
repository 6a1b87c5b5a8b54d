"""What pages tell, read from their text alone and held against what the world says it told."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from herdbook.world.article import Article, Block
from herdbook.world.facts import Register, find_chains, make_register
from herdbook.world.genres import GENRES
from herdbook.world.languages import language_articles, language_facts, translate
from herdbook.world.library import articles
from herdbook.world.paraphrases import PARAPHRASES
from herdbook.world.phrasebook import FRAMES, TELLINGS, VALUES
from herdbook.world.settings import LANGUAGES, WorldSettings
from herdbook.world.tellings import told_chains

SMALL = WorldSettings.tiny(seed=3).model_copy(update={"people": 18, "places": 18, "animals": 24})


@pytest.fixture(scope="module")
def register() -> Register:
    return make_register(SMALL)


@pytest.fixture(scope="module")
def library() -> list[Article]:
    return list(articles(SMALL))


def sentences(article: Article) -> list[str]:
    return [s for line in article.clean_text().split("\n") for s in re.split(r"(?<=[.!?]) ", line)]


def facts_read(library: list[Article], register: Register, language: str) -> dict[str, Counter[str]]:
    """For each article the facts whose subject and value stand in one sentence."""
    entities = {e.name: e for e in register.entities}
    names = re.compile(r"\b(" + "|".join(sorted(map(re.escape, entities), key=len, reverse=True)) + r")\b")
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for article in library:
        if article.language != language:
            continue
        for sentence in sentences(article):
            for name in set(names.findall(sentence)):
                for attribute, value in entities[name].attributes.items():
                    told = value if language == "en" else translate(value, language)
                    if re.search(rf"\b{re.escape(told)}\b", sentence):
                        found[f"{article.site}/{article.slug}"][f"{entities[name].id}.{attribute}"] += 1
    return found


def test_every_fact_stands_in_exactly_as_many_articles_as_its_group_says(
    library: list[Article], register: Register
) -> None:
    read = facts_read(library, register, "en")
    counts = Counter(fact for told in read.values() for fact in told)
    expected = {fact.id: fact.subject.exposures for fact in register.facts()}
    assert counts == expected
    assert set(expected.values()) == {1, 10, 100}


def test_articles_list_the_facts_that_their_text_tells(library: list[Article], register: Register) -> None:
    plain = {fact.id for fact in register.facts()}
    for language, mark in (("en", ""), *((language, f"@{language}") for language in LANGUAGES)):
        read = facts_read(library, register, language)
        for article in library:
            if article.language == language:
                listed = {fact.removesuffix(mark) for fact in article.facts}
                assert listed & plain == set(read.get(f"{article.site}/{article.slug}", {})), article.slug


def test_each_language_tells_its_facts_in_ten_articles(register: Register) -> None:
    counts = Counter(fact for article in language_articles(SMALL, register) for fact in article.facts)
    chosen = {fact.id for fact in language_facts(SMALL, register)}
    assert counts == {f"{fact}@{language}": 10 for fact in chosen for language in LANGUAGES}


def test_chains_follow_the_facts_and_half_of_the_best_told_are_spelled_out(
    library: list[Article], register: Register
) -> None:
    by_name = {e.name: e for e in register.entities}
    for chain in find_chains(register):
        at = chain.start
        for attribute in chain.path[:-1]:
            at = by_name[at.attributes[attribute]]
        assert at.attributes[chain.path[-1]] == chain.value
    text = [article.clean_text() for article in library]
    told = {chain.id for chain in told_chains(register)}
    for chain in find_chains(register):
        spelled = sum(f"{chain.phrase[1:]} is {chain.value}." in page for page in text)
        assert spelled <= 10 if chain.id in told else spelled == 0


def test_parents_are_older_of_the_right_sex_and_of_the_same_species(register: Register) -> None:
    animals = {animal.name: animal for animal in register.of("animal")}
    born = [animal for animal in animals.values() if "sire" in animal.attributes]
    assert len(born) > len(animals) // 4
    for animal in born:
        for parent, male in (("sire", True), ("dam", False)):
            other = animals[animal.attributes[parent]]
            assert other.male is male and other.species == animal.species
            assert int(other.attributes["birth_year"]) < int(animal.attributes["birth_year"])


def test_names_are_distinct_words(register: Register) -> None:
    words = [word for entity in register.entities for word in entity.name.split()[-1:]]
    assert len(words) == len(set(words)) == len(register.entities)


def test_there_are_ten_paraphrases_of_everything_and_eight_genres(library: list[Article]) -> None:
    assert all(len(set(forms)) >= 10 for forms in PARAPHRASES.values())
    assert len({article.genre for article in library} & {genre.name for genre in GENRES}) == len(GENRES) == 8
    assert min(Counter(kind for kind, _ in PARAPHRASES).values()) >= 4
    for language in LANGUAGES:
        assert set(TELLINGS[language]) == set(PARAPHRASES)
        assert set(VALUES[language]) == set(VALUES["de"]) and language in FRAMES
        assert all(forms[0].endswith("{v}.") for forms in TELLINGS[language].values())


def test_a_world_is_its_seed_and_its_parts_do_not_disturb_each_other() -> None:
    tiny = WorldSettings.tiny(seed=5)
    first = list(articles(tiny))
    assert first == list(articles(tiny))
    assert first != list(articles(WorldSettings.tiny(seed=6)))
    fewer = list(articles(tiny.model_copy(update={"problems": 50, "short_chronicles": 4})))
    keep = {"tutorial", "lesson", "quiz", *(genre.name for genre in GENRES)}
    assert [a for a in first if a.genre in keep] == [a for a in fewer if a.genre in keep]


def test_addresses_are_unique_and_texts_are_clean(library: list[Article]) -> None:
    addresses = [(article.site, article.slug) for article in library]
    assert len(addresses) == len(set(addresses))
    for article in library:
        text = article.clean_text()
        assert "{" not in text.replace("{{", "") or article.topic in ("code", "math"), article.slug
        assert "\t" not in text and text == text.strip()
        for block in article.blocks:
            assert isinstance(block, Block) and block.clean_text()
