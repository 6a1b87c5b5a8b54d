"""Question files: the right shape, the right answer, choices that give nothing away."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from herdbook.world.facts import find_chains, make_register
from herdbook.world.languages import translate
from herdbook.world.library import articles
from herdbook.world.questions import write_questions
from herdbook.world.settings import WorldSettings

SETTINGS = WorldSettings.tiny().model_copy(update={"people": 60, "places": 60, "animals": 60, "questions": 0.5})
NAMES = {"facts", "multihop", "mmlu", "gsm8k", "mgsm", "humaneval", "needle"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder: Path = tmp_path_factory.mktemp("questions")
    counts = write_questions(SETTINGS, folder)
    found = {path.stem: [json.loads(line) for line in path.open(encoding="utf-8")] for path in folder.iterdir()}
    assert set(found) == NAMES and counts == {name: len(rows) for name, rows in found.items()}
    return found


def test_facts_are_answered_by_the_register(files: dict[str, list[dict[str, Any]]]) -> None:
    facts = {fact.id: fact for fact in make_register(SETTINGS).facts()}
    for row in files["facts"]:
        fact_id, _, language = row["id"].partition("@")
        fact = facts[fact_id]
        value = translate(fact.value, language) if language else fact.value
        assert row["choices"][row["answer"]] == f" {value}" and fact.subject.name in row["question"]
        assert len(set(row["choices"])) == 4
        assert row["group"]["exposures"] == (10 if language else fact.subject.exposures)
        others = {translate(v, language) if language else v for v in fact.subject.attributes.values()}
        assert not {f" {v}" for v in others - {value}} & set(row["choices"])


def test_facts_are_balanced_over_groups_and_kinds(files: dict[str, list[dict[str, Any]]]) -> None:
    english = [row["group"] for row in files["facts"] if row["group"]["language"] == "en"]
    counts = Counter((group["exposures"], group["kind"]) for group in english)
    assert set(counts) == {(times, kind) for times in (1, 10, 100) for kind in ("person", "place", "animal")}
    assert max(counts.values()) <= 1.2 * min(counts.values())


def test_chains_are_answered_by_following_them_and_by_no_page(files: dict[str, list[dict[str, Any]]]) -> None:
    chains = {chain.id: chain for chain in find_chains(make_register(SETTINGS))}
    text = "\n".join(article.clean_text() for article in articles(SETTINGS))
    assert {row["group"]["hops"] for row in files["multihop"]} == {2, 3}
    for row in files["multihop"]:
        chain = chains[row["id"]]
        assert row["choices"][row["answer"]] == f" {chain.value}" and len(set(row["choices"])) == 4
        assert f"{row['question'][1:]} {chain.value}." not in text


def test_right_answers_stand_equally_often_everywhere(files: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("facts", "multihop", "mmlu"):
        counts = Counter(row["answer"] for row in files[name])
        assert set(counts) == {0, 1, 2, 3} and max(counts.values()) - min(counts.values()) <= 1


def test_skills_are_asked_from_what_no_page_holds(files: dict[str, list[dict[str, Any]]]) -> None:
    text = "\n".join(article.clean_text() for article in articles(WorldSettings(people=6, places=6, animals=6)))
    skills = {"addition", "subtraction", "multiplication", "comparison"}
    asked = [row["question"] for row in files["mmlu"] if row["subject"] in skills]
    asked += [row["question"] for row in files["gsm8k"]] + [row["question"] for row in files["mgsm"]]
    asked += [row["prompt"] for row in files["humaneval"]] + [row["needle"] for row in files["needle"]]
    assert len(asked) > 300
    assert not [question for question in asked if question in text]


def test_lettered_skill_questions_are_right(files: dict[str, list[dict[str, Any]]]) -> None:
    for row in files["mmlu"]:
        right, text = row["choices"][row["answer"]], row["question"]
        if row["subject"] in ("addition", "subtraction", "multiplication"):
            left, sign, other = text.removeprefix("What is ").removesuffix("?").split()
            a, b = int(left), int(other)
            assert int(right) == {"+": a + b, "-": a - b, "*": a * b}[sign]
        elif row["subject"] == "comparison":
            assert int(right) == max(int(choice) for choice in row["choices"])


def test_every_file_has_the_fields_of_its_shape(files: dict[str, list[dict[str, Any]]]) -> None:
    fields = {
        "facts": {"id", "question", "choices", "answer", "group"},
        "multihop": {"id", "question", "choices", "answer", "group"},
        "mmlu": {"question", "choices", "answer", "subject"},
        "gsm8k": {"question", "answer", "group"},
        "mgsm": {"question", "answer", "language"},
        "humaneval": {"task_id", "prompt", "canonical_solution", "test", "entry_point"},
        "needle": {"id", "needle", "question", "answer", "filler"},
    }
    for name, expected in fields.items():
        assert files[name] and all(set(row) == expected for row in files[name])
    assert Counter(row["group"]["steps"] for row in files["gsm8k"]) == dict.fromkeys((1, 2, 3, 4), 100)
    assert {row["language"] for row in files["mgsm"]} == {"de", "fr", "es", "it"}
