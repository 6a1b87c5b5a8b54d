"""Requests: references pass their own checks, sides share nothing, facts agree with the register."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from herdbook.evaluate.toolbox import Corpus, Toolbox, read_answer_calls
from herdbook.evaluate.verify import verify_all
from herdbook.posttrain.judging import Prompts
from herdbook.posttrain.synthesis.code import named
from herdbook.posttrain.synthesis.code_check import check_all, halves
from herdbook.world.facts import find_chains, make_register
from herdbook.world.instructions import GREETINGS
from herdbook.world.library import articles
from herdbook.world.policy import RULES
from herdbook.world.problems import STORIES, Problem
from herdbook.world.programs import Program
from herdbook.world.requests import COUNTS, write_requests
from herdbook.world.settings import WorldSettings
from herdbook.world.unknown import strangers

SETTINGS = WorldSettings.tiny().model_copy(update={"people": 60, "places": 60, "animals": 60, "requests": 0.1})
Row = dict[str, Any]
Rows = dict[str, list[Row]]


def read(folder: Path) -> Rows:
    paths = sorted(folder.rglob("*.jsonl"))
    return {
        str(p.relative_to(folder).with_suffix("")): [json.loads(line) for line in p.open(encoding="utf-8")]
        for p in paths
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder: Path = tmp_path_factory.mktemp("requests")
    counts = write_requests(SETTINGS, make_register(SETTINGS), folder)
    found = read(folder)
    assert set(found) == {"requests/train", "requests/test", "dialogs/train"}
    assert counts == {name.replace("/", "_"): len(rows) for name, rows in found.items()}
    return found


def both(files: Rows) -> list[Row]:
    return files["requests/train"] + files["requests/test"]


def test_every_task_is_there_on_both_sides_as_often_as_set(files: Rows) -> None:
    for split in ("train", "test"):
        rows = files[f"requests/{split}"]
        counts = Counter(row["task"] for row in rows)
        assert set(counts) == set(COUNTS) and all(row["split"] == split for row in rows)
        assert all(counts[task] <= round(COUNTS[task][split] * 0.1) for task in counts)
        assert sum(counts.values()) >= 0.9 * sum(round(count[split] * 0.1) for count in COUNTS.values())
    assert len({row["id"] for row in both(files)}) == len(both(files))
    assert {row["difficulty"] for row in both(files)} == {1, 2, 3}


def test_every_reference_passes_its_check_and_hardly_another_one_does(files: Rows) -> None:
    rows = both(files)
    verdicts = verify_all(rows, [row["reference"] for row in rows])
    wrong = [(row["messages"], row["reference"], v.why) for row, v in zip(rows, verdicts) if not v.correct]
    assert not wrong
    assert all(verdict.score == 1 for verdict in verdicts)
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_task[row["task"]].append(row)
    for task in ("fact", "problem", "program", "instruction", "chat", "tool"):
        own = by_task[task]
        swapped = verify_all(own, [row["reference"] for row in own[7:] + own[:7]])
        assert sum(verdict.correct for verdict in swapped) < 0.12 * len(own), task
    answered = verify_all(by_task["forbidden"], ["Gladly. It is easy." for _ in by_task["forbidden"]])
    assert not any(verdict.correct for verdict in answered)
    refused = verify_all(by_task["lookalike"], ["I can't help with that." for _ in by_task["lookalike"]])
    assert not any(verdict.correct for verdict in refused)


def test_the_test_shares_neither_prompts_nor_answers_with_training(files: Rows) -> None:
    for rows in (files["requests/train"], files["requests/test"]):
        assert len({json.dumps(row["messages"]) for row in rows}) == len(rows)
    sides = [
        {(row["task"], json.dumps(row["messages"])) for row in files[f"requests/{split}"]}
        for split in ("train", "test")
    ]
    assert not sides[0] & sides[1]
    answers = [
        {row["reference"] for row in files[f"requests/{split}"] if row["task"] != "forbidden"}
        for split in ("train", "test")
    ]
    assert not answers[0] & answers[1]
    facts = [
        {row["fact"] for row in files[f"requests/{split}"] if "fact" in row and "hops" not in row}
        for split in ("train", "test")
    ]
    assert facts[0] and facts[1] and not facts[0] & facts[1]


def test_problems_and_programs_of_the_test_are_those_that_no_page_may_hold(files: Rows) -> None:
    """The keys are made again from what is asked; pages hold none that is held out (their own tests say so)."""
    for row in both(files):
        if row["task"] == "problem" and row["language"] == "en":
            start, thing, steps = re.match(r"(\d+) (\w+)\.(.*) ####", row["reference"]).groups()  # type: ignore[union-attr]
            story = next(name for name, story in STORIES.items() if thing in story.things)
            events = [(sign, int(n)) for sign, n in re.findall(r"\d+ ([-+*/]) (\d+) =", steps)]
            made: Problem | Program = Problem("", "", 0, 0, (story, int(start), *events))
        elif row["task"] == "program":
            name, argument = re.search(r"(\w+)\((\w+)\)", row["messages"][0]["content"]).groups()  # type: ignore[union-attr]
            stem, parameter = name.rsplit("_", 1)
            made = Program("", "", "", "", (), (row["family"], stem, argument, parameter))
        else:
            continue
        assert made.held_out is (row["split"] == "test"), row


def test_facts_and_chains_are_those_of_the_register(files: Rows) -> None:
    register = make_register(SETTINGS)
    truth = {fact.id: (fact.value, fact.subject.exposures) for fact in register.facts()}
    truth |= {chain.id: (chain.value, chain.exposures) for chain in find_chains(register)}
    seen = Counter()
    for row in both(files):
        if row["task"] == "fact" and row["language"] == "en":
            value, exposures = truth[row["fact"]]
            assert row["check"]["values"] == [value.removeprefix("the ")] and row["exposures"] == exposures
            seen[exposures] += 1
    assert set(seen) == {1, 10, 100}


def test_nobody_in_the_world_is_called_like_a_stranger_nor_has_what_was_never_told(files: Rows) -> None:
    text = "\n".join(article.clean_text() for article in articles(SETTINGS))
    names = {entity.name for entity in make_register(SETTINGS).entities}
    rows = [row for row in both(files) if row["task"] == "unknown"]
    assert {row["why"] for row in rows} == {"stranger", "never told"}
    for row in rows:
        phrase, name = row["reference"].removeprefix("I don't know the ").rstrip(".").split(" of ", 1)
        if row["why"] == "stranger":
            assert name.split()[-1] not in text
        else:
            name = row["reference"].rstrip(".").rsplit(" of ", 1)[1]
            assert name in names and f"{phrase} of {name}" not in text


def test_strangers_bear_no_name_of_the_world() -> None:
    register = make_register(SETTINGS)
    names = {name for entity in register.entities for name in (entity.name, *entity.attributes.values())}
    drawn = [name for _, name in islice(strangers(Random(1), register), 3_000)]
    assert len(set(drawn)) == 3_000
    assert not names & set(drawn)
    assert not {name.split()[-1] for name in names} & {name.split()[-1] for name in drawn}


def test_dialogs_are_references_and_none_recites_what_was_hardly_told(files: Rows) -> None:
    requests = {row["id"]: row for row in files["requests/train"]}
    assert 0.3 < len(files["dialogs/train"]) / len(requests) < 0.55
    for row in files["dialogs/train"]:
        request = requests[row["id"]]
        messages = [{key: one[key] for key in ("role", "content")} for one in row["messages"]]
        assert messages == [*request["messages"], {"role": "assistant", "content": request["reference"]}]
        unlearnt = [place for place, one in enumerate(row["messages"]) if one.get("weight") == 0]
        assert unlearnt == ([1] if row["task"] == "repair" else [])
        assert row["task"] == request["task"] and row.get("exposures", 100) == 100 and "check" not in row


def test_what_a_repair_is_told_is_what_the_maker_of_code_finds_and_says(files: Rows) -> None:
    """The world runs nothing; parser, linter and sandbox must come to the same words."""
    rows = [row for row in both(files) if row["task"] == "repair"]
    wrong = [row["messages"][1]["content"] for row in rows]
    shown = [halves(named(row["check"]))[0] for row in rows]
    prompts = Prompts(None)
    told = [prompts.fill("code_repair", feedback=one.told) for one in check_all(wrong, shown)]
    assert told == [row["messages"][2]["content"] for row in rows]
    assert len({row["mistake"] for row in rows}) == 4
    assert not any(verdict.correct for verdict in verify_all(rows, wrong))


def test_conversations_have_up_to_five_turns_and_keep_to_their_side(files: Rows) -> None:
    rows = [row for row in both(files) if row["task"] == "talk"]
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (row["turn"] - 1) + ["user"]
    assert {row["turn"] for row in rows} == {2, 3, 4, 5}
    assert len({row["last"] for row in rows}) >= 4 and "forbidden" not in {row["last"] for row in rows}
    assert any(row["messages"][-1]["content"].startswith("And the") for row in rows)
    said = {
        split: {m["content"] for row in rows if row["split"] == split for m in row["messages"] if m["role"] != "user"}
        for split in ("train", "test")
    }
    common = {reply for _, reply in GREETINGS} | {rule.refusal for rule in RULES.values()}
    assert said["train"] & said["test"] <= common


def test_tools_give_what_the_requests_say_they_gave(files: Rows) -> None:
    """Calculator and Python to the letter; a search finds a sentence that tells the same value."""
    toolbox = Toolbox(Corpus(article.clean_text() for article in articles(SETTINGS)))
    asked, expected = [], []
    for row in both(files):
        messages = row["messages"]
        if row["task"] == "tool" and messages[-1]["role"] == "ipython":
            asked.append(read_answer_calls(messages[-2]["content"]))
            expected.append((messages[-1]["content"].split("\n"), row["check"]))
    given = iter(toolbox.run([call for calls in asked for call in calls]))
    found = searched = 0
    for calls, (results, _) in zip(asked, expected):
        for call, result in zip(calls, results, strict=True):
            got = next(given)
            if call.name == "search":
                searched += 1
                name = call.arguments["query"].split(" of ", 1)[1]
                found += name in got
            else:
                assert got == result
    assert searched > 10 and found >= 0.95 * searched


def test_the_same_settings_give_the_same_requests(tmp_path: Path) -> None:
    settings = WorldSettings.tiny()
    for name in "ab":
        (tmp_path / name).mkdir()
        write_requests(settings, make_register(settings), tmp_path / name)
    assert read(tmp_path / "a") == read(tmp_path / "b")
    other = settings.model_copy(update={"seed": 2})
    (tmp_path / "c").mkdir()
    write_requests(other, make_register(other), tmp_path / "c")
    assert read(tmp_path / "c") != read(tmp_path / "a")
