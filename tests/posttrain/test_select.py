"""Dialogs are measured, chosen and mixed: against brute force, closed forms and a judge whose words are known."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from herdbook.posttrain import likeness, quality, sft_mix, topics
from herdbook.posttrain.judging import Prompts, fenced, read_grade, read_intents, read_verdict
from herdbook.posttrain.memory import Memory
from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.select import select
from herdbook.posttrain.select_settings import (
    JudgeSettings,
    LikenessSettings,
    QualityRule,
    SelectSettings,
    SftGroup,
    SftMatch,
    SftMixSettings,
    TopicSettings,
)
from herdbook.settings import UserError
from herdbook.tokens.dialog import encode_dialog
from herdbook.tokens.tokenizer import Tokenizer
from tests.corpus.fake_endpoint import Answer
from tests.posttrain.scripted import dialog, scripted
from tests.posttrain.test_reward import judge as reward_model  # noqa: F401 (a fixture)

WORDS = [
    "mill",
    "river",
    "goat",
    "cheese",
    "lamp",
    "cellar",
    "ladder",
    "barrel",
    "pigeon",
    "violin",
    "market",
    "thunder",
]


def some_dialogs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    said = [" ".join(draw.choice(WORDS, 6)) for _ in range(count)]
    return [dialog(f"What of {one}?", f"It is {one}.", id=f"d{number}", task="fact") for number, one in enumerate(said)]


def test_a_classifier_learns_topics_from_the_rows_that_have_one() -> None:
    draw = np.random.default_rng(0)
    own = {"cooking": ["soup", "flour", "oven", "salt"], "sailing": ["mast", "sail", "anchor", "tide"]}
    rows = []
    for number in range(120):
        name = ("cooking", "sailing")[number % 2]
        said = " ".join([*draw.choice(own[name], 3), *draw.choice(WORDS, 4)])
        rows.append(dialog(said, "Yes.", truth=name, task=name if number < 80 else None))
    figures = topics.set_topics(rows, TopicSettings(by="linear"), None, JudgeSettings())
    assert [row["topic"] for row in rows] == [row["truth"] for row in rows]
    assert figures["learnt_from"] == 80 and figures["accuracy"] > 0.9 and figures["heldout"] > 5
    assert all("topic_probability" in row for row in rows[80:])


def test_one_topic_is_nothing_to_learn_from() -> None:
    rows = [dialog("a b", "c", task="fact"), dialog("a", "b")]
    with pytest.raises(UserError, match="two different values"):
        topics.set_topics(rows, TopicSettings(by="linear"), None, JudgeSettings())


def test_rewards_are_ranked_within_their_topic_and_the_top_quarter_is_good() -> None:
    draw = np.random.default_rng(1)
    rows = [dialog("q", "a", topic="ab"[n % 2], quality_reward=float(draw.integers(0, 30))) for n in range(57)]
    quality.set_quality(rows, QualityRule())
    for row in rows:
        others = [one["quality_reward"] for one in rows if one["topic"] == row["topic"]]
        rank = sum(value <= row["quality_reward"] for value in others) / len(others)
        assert row["quality_rank"] == pytest.approx(rank, abs=1e-4)
        above = sum(value > row["quality_reward"] for value in others)
        assert row["quality_good"] == (above < round(len(others) / 4))


def test_either_measure_makes_an_answer_good_and_no_measure_leaves_all() -> None:
    graded = [dialog("q", "a", topic="", quality_grade=3, quality_most=3, quality_reward=0.0)]
    graded += [
        dialog("q", "a", topic="", quality_grade=1, quality_most=3, quality_reward=float(n)) for n in range(1, 8)
    ]
    votes = quality.set_quality(graded, QualityRule())
    assert [row["quality_good"] for row in graded] == [True, *[False] * 5, True, True]
    assert votes == {"no reward and judge": 1, "no reward and no judge": 5, "reward and no judge": 2}
    plain = [dialog("q", "a", topic="")]
    quality.set_quality(plain, QualityRule())
    assert plain[0]["quality_good"] and plain[0]["quality_score"] is None


def test_duplicates_are_those_of_a_pairwise_search_best_first() -> None:
    rows = some_dialogs(80)
    for number in range(20):  # the same words in another order, and worth less or more
        words = rows[number]["messages"][1]["content"].rstrip(".").split()[2:]
        rows.append(dialog(f"What of {' '.join(reversed(words))}?", f"It is {' '.join(words)}.", id=f"again{number}"))
    draw = np.random.default_rng(2)
    for row in rows:
        row["quality_score"], row["difficulty_score"] = draw.random(), draw.random()
    settings = LikenessSettings(threshold=0.9, dimensions=512)
    figures = likeness.set_duplicates(rows, settings)
    vectors = likeness.vectors_of(rows, settings)
    order = sorted(range(len(rows)), key=lambda place: -rows[place]["quality_score"] * rows[place]["difficulty_score"])
    stays: list[int] = []
    for place in order:
        alike = any(vectors[place] @ vectors[other] > 0.9 for other in stays)
        assert (rows[place]["duplicate_of"] is not None) == alike
        if not alike:
            stays.append(place)
    assert figures["found"] == len(rows) - len(stays) >= 20


def test_only_likeness_of_words_counts_and_one_keeps_all() -> None:
    rows = some_dialogs(10) + some_dialogs(10)
    for number, row in enumerate(rows):
        row["id"] = str(number)
    assert likeness.set_duplicates(rows, LikenessSettings())["found"] == 10
    assert likeness.set_duplicates(rows, LikenessSettings(threshold=1))["found"] == 0
    assert all(row["duplicate_of"] is None for row in rows)


def test_groups_have_their_shares_and_the_best_are_taken() -> None:
    rows = [dialog("q", "a", id=str(n), task="program", quality_score=n / 40) for n in range(40)]
    rows += [dialog("q", "a", id=f"m{n}", task="chat", language="de") for n in range(10)]
    rows += [dialog("q", "a", id=f"g{n}", task="chat") for n in range(200)]
    groups = (
        SftGroup(name="code", share=1, match=(SftMatch(tasks=("program",)),)),
        SftGroup(name="other", share=1, epochs=3, match=(SftMatch(languages_except=("en",)),)),
        SftGroup(name="general", share=2),
    )
    mix = sft_mix.set_mix(rows, SftMixSettings(groups=groups, size=100), seed=1)
    taken = Counter[str]()
    for row in rows:
        taken[row["group"]] += row["copies"]
    assert taken == {"code": 25, "other": 25, "general": 50}
    assert [row["id"] for row in rows[:40] if row["copies"]] == [str(n) for n in range(15, 40)]
    assert {row["copies"] for row in rows[40:50]} == {2, 3} and mix["other"]["epochs"] == 2.5
    small = sft_mix.set_mix(rows, SftMixSettings(groups=groups, size=200, short="shrink"), seed=1)
    assert [small[name]["taken"] for name in ("code", "other", "general")] == [30, 30, 60]
    filled = sft_mix.set_mix(rows, SftMixSettings(groups=groups, size=200), seed=1)
    assert sum(one["taken"] for one in filled.values()) == 200 and filled["other"]["taken"] == 30


def test_the_papers_shares_are_the_default() -> None:
    shares = {group.name: group.share for group in SftMixSettings().groups}
    assert sum(shares.values()) == pytest.approx(1.0) and shares["general"] == 0.5266
    names = {"program": "code", "problem": "reasoning_and_tools", "tool": "reasoning_and_tools", "fact": "general"}
    rows = [dialog("q", "a", id=task, task=task) for task in names]
    sft_mix.set_mix(rows, SftMixSettings(), seed=0)
    assert {row["task"]: row["group"] for row in rows} == names


def judge(messages: list[dict[str, Any]], seed: int) -> Answer:
    """Likes answers with a mill, is talkative, and loses its thread over goats."""
    asked = messages[0]["content"]
    shown = asked.split("==========")[1]
    if "Intents:" in asked:
        return "Intents: " + "; ".join(sorted(set(re.findall(r"\w+", shown)) & set(WORDS)))
    if "how hard" in asked:
        return "Hm.\nGrade: 2"
    if "goat" in shown:
        return "Goats! Grade: many" if len(messages) == 1 else "still goats"
    return f"I thought about it.\nGrade: {3 if 'mill' in shown else 1}\n"


def test_the_stage_writes_what_it_measured_and_asks_nothing_twice(tmp_path: Path) -> None:
    rows = [*some_dialogs(60), {"messages": []}, {"messages": [{"role": "user", "content": "only a question"}]}]
    write_rows(tmp_path / "in" / "dialogs" / "some.jsonl", rows)
    with scripted(judge, tmp_path) as (server, endpoint):
        settings = SelectSettings(
            judge=JudgeSettings(endpoint=endpoint),
            quality=QualityRule(judge=True),
            difficulty={"by": "judge"},
            mix=None,
        )
        figures = select(settings, {"some": tmp_path / "in"}, None, tmp_path / "out")
        asked = len(server.bodies)
        again = select(settings, {"some": tmp_path / "in"}, None, tmp_path / "again")
        assert len(server.bodies) == asked
    measured = [json.loads(line) for line in (tmp_path / "out" / "measured.jsonl").read_text().splitlines()]
    good = [row for row in rows[:60] if "mill" in str(row["messages"]) and "goat" not in str(row["messages"])]
    nonsense = [row for row in rows[:60] if "goat" in str(row["messages"])]
    assert figures["funnel"] == again["funnel"] and figures["broken"] == {"no dialog": 2}
    assert figures["grades"] == {"asked": 60, "nonsense": len(nonsense)} and len(nonsense) > 5
    assert figures["funnel"]["good"] == len(good)  # what the judge gave no grade is not good
    assert len(measured) == 60 and sum("dropped" in row for row in measured) == 60 - figures["dialogs"]
    kept = [json.loads(line) for line in (tmp_path / "out" / "dialogs" / "dialogs.jsonl").read_text().splitlines()]
    assert len(kept) == figures["dialogs"]
    for row in kept:
        intents = len(set(re.findall(r"\w+", str(row["messages"]))) & set(WORDS))
        assert row["difficulty_score"] == pytest.approx((min(intents, 6) / 6 + 2 / 3) / 2, abs=1e-3)


def test_the_top_quarter_of_the_rewards_is_that_of_transformers(
    reward_model: Path,  # noqa: F811
    chat_tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    from transformers import LlamaForSequenceClassification

    rows = [*some_dialogs(24), dialog("q " * 300, "too long", id="long", task="fact")]
    write_rows(tmp_path / "in" / "dialogs" / "some.jsonl", rows)
    settings = SelectSettings(mix=None, duplicates=LikenessSettings(threshold=1))
    select(settings, {"some": tmp_path / "in"}, None, tmp_path / "out", reward=reward_model)
    peer = LlamaForSequenceClassification.from_pretrained(reward_model).eval()
    peer.config.pad_token_id = None
    theirs = {}
    with torch.no_grad():
        for row in rows[:24]:
            ids = encode_dialog(chat_tokenizer, row["messages"]).ids
            theirs[row["id"]] = float(peer(torch.tensor([ids])).logits[0, 0])
    best = sorted(theirs, key=lambda id: -theirs[id])[:6]
    kept = [json.loads(line) for line in (tmp_path / "out" / "dialogs" / "dialogs.jsonl").read_text().splitlines()]
    assert {row["id"] for row in kept} == set(best)
    assert [row["quality_reward"] for row in kept] == pytest.approx([theirs[row["id"]] for row in kept], abs=1e-3)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "dialogs" / "some.jsonl", some_dialogs(3))
    with pytest.raises(UserError, match=r"feed the stage a model, or give judge\.endpoint"):
        select(SelectSettings(quality=QualityRule(judge=True)), {"some": tmp_path / "in"}, None, tmp_path / "out")
    mix = SftMixSettings(groups=(SftGroup(name="code", share=1, match=(SftMatch(tasks=("program",)),)),))
    with pytest.raises(UserError, match=r"no dialog is left.*different 3, mixed 0"):
        select(SelectSettings(mix=mix), {"some": tmp_path / "in"}, None, tmp_path / "out")


def test_replies_are_read_strictly() -> None:
    grade, verdict = read_grade(1, 3), read_verdict("right", "wrong")
    assert [grade(text) for text in ("so\nGrade: 2", "**Grade: 3/3**", "Grade: 4", "I grade it 2 points", "", "2")] == [
        2, 3, None, None, None, None,
    ]  # fmt: skip
    assert [verdict(text) for text in ("Verdict: Right.", "verdict: WRONG", "Verdict: maybe", "right")] == [
        "right", "wrong", None, None,
    ]  # fmt: skip
    assert read_intents("Intents: write a poem; about goats; Write a poem.") == ("write a poem", "about goats")
    assert read_intents("a poem") is None and read_intents("Intents: ;") is None
    assert fenced("Here:\n```python\nx = 1\n```\nand\n```sh\nls\n```", "python") == "x = 1"
    assert fenced("x = 1\n") == "x = 1" and fenced("```python\nx = 1") is None and fenced("") is None


def test_own_prompts_stand_in_for_ours(tmp_path: Path) -> None:
    (tmp_path / "difficulty.txt").write_text("How hard is {dialog}? {keep}")
    prompts = Prompts(tmp_path)
    assert prompts.fill("difficulty", dialog="a {b} c") == "How hard is a {b} c? {keep}"
    assert "equal signs" in prompts.fill("intents", dialog="x")
    with pytest.raises(UserError, match=r"no place \{topics\}"):
        prompts.fill("difficulty", dialog="x", topics="y")
    (tmp_path / "dificulty.txt").write_text("")
    with pytest.raises(UserError, match=r"no prompt is called dificulty.txt"):
        Prompts(tmp_path)


def test_memory_survives_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "memory.jsonl"
    calls: list[int] = []

    def find(some: Any) -> list[int]:
        calls.append(len(some))
        return [one * one for one in some]

    items = {str(number): number for number in range(10)}
    Memory(path).fill(dict(list(items.items())[:6]), find, batch=3)
    path.write_bytes(path.read_bytes()[:-5])
    assert Memory(path).fill(items, find, batch=3) == {str(number): number**2 for number in range(10)}
    assert calls == [3, 3, 3, 2]
    assert Memory(path).known == {str(number): number**2 for number in range(10)}
