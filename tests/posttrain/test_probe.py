"""Knowledge probing: what a model knows is told apart from what it does not; figures are those of brute force."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.evaluate.refusals import does_not_know
from herdbook.posttrain import probing
from herdbook.posttrain.probe import at_random, probe
from herdbook.posttrain.probe_questions import by_templates, excerpts, from_requests, read_question
from herdbook.posttrain.probe_settings import REFUSALS, ProbeSettings, QuestionTemplate
from herdbook.posttrain.probing import Probed
from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.sft import sft
from herdbook.settings import UserError
from tests.corpus.fake_endpoint import Answer
from tests.posttrain.scripted import dialog, scripted
from tests.posttrain.test_sft import options

TOLD = {"Ada": "oboe", "Bo": "harp", "Cid": "drum", "Dan": "lute"}
NEVER = {"Eve": "lyre", "Fay": "horn"}


def request(name: str, instrument: str, exposures: int) -> dict[str, Any]:
    return {
        "id": name,
        "task": "fact",
        "messages": [{"role": "user", "content": f"{name}?"}],
        "reference": f"{instrument}.",
        "check": {"kind": "text", "values": [instrument]},
        "exposures": exposures,
        "split": "train",
    }


@pytest.fixture(scope="module")
def taught(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that was told what four people play, and of two others nothing."""
    folder = tmp_path_factory.mktemp("taught")
    rows = [dialog(f"{name}?", f"{instrument}.") for name, instrument in TOLD.items()]
    write_rows(folder / "in" / "dialogs" / "told.jsonl", rows * 16)
    sft(options(steps=60, peak_lr=0.02, length=128), {"told": folder / "in"}, base, folder)
    return folder


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    rows = [request(name, instrument, 100) for name, instrument in TOLD.items()]
    rows += [request(name, instrument, 1) for name, instrument in NEVER.items()]
    other = [{**rows[0], "id": "test", "split": "test"}, {**rows[0], "id": "sum", "task": "problem"}]
    write_rows(tmp_path / "requests" / "train.jsonl", [*rows, *other])
    return tmp_path / "requests"


def quick(**changes: Any) -> ProbeSettings:
    return ProbeSettings(**{"questions": "requests", "max_tokens": 8, "temperature": 0.5, "answers": 6} | changes)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_told_is_known_and_what_was_not_is_declined(taught: Path, requests: Path, tmp_path: Path) -> None:
    figures = probe(quick(known_per_refusal=None), taught, [], requests, None, tmp_path / "out")
    verdicts = {row["id"]: row["verdict"] for row in rows_of(tmp_path / "out" / "probes.jsonl")}
    assert verdicts == dict.fromkeys(TOLD, "known") | dict.fromkeys(NEVER, "refuse")
    assert figures["groups"]["100"]["known"] == 1 and figures["groups"]["1"]["refused"] == 1
    dialogs = {row["id"]: row for row in rows_of(tmp_path / "out" / "dialogs" / "probed.jsonl")}
    assert all(row["request"] == name.removeprefix("probe/") for name, row in dialogs.items())
    for name, instrument in TOLD.items():
        assert dialogs[f"probe/{name}"]["messages"][1]["content"] == f"{instrument}."
    for name in NEVER:
        assert does_not_know(dialogs[f"probe/{name}"]["messages"][1]["content"])
    few = probe(quick(known_per_refusal=0.5), taught, [], requests, None, tmp_path / "few")
    assert few["dialogs"] == 3 and few["refuse"] == 2


def test_a_killed_probe_goes_on_without_asking_again(taught: Path, requests: Path, tmp_path: Path) -> None:
    first = probe(quick(), taught, [], requests, None, tmp_path / "out")
    kept = (tmp_path / "out" / "kept" / "answers.jsonl").read_bytes()
    (tmp_path / "out" / "probes.jsonl").unlink()
    assert probe(quick(), taught, [], requests, None, tmp_path / "out") == first
    assert (tmp_path / "out" / "kept" / "answers.jsonl").read_bytes() == kept


def test_a_judge_makes_questions_and_judges_by_the_excerpt(taught: Path, tmp_path: Path) -> None:
    people = list((TOLD | NEVER).items())
    texts = [f"{name} plays the {instrument} at the fair." for name, instrument in people] + ["Goats are nice."]
    documents = pa.table({"id": [str(number) for number in range(len(texts))], "text": texts})
    (tmp_path / "in" / "documents").mkdir(parents=True)
    pq.write_table(documents, tmp_path / "in" / "documents" / "0.parquet")

    def judge(messages: list[dict[str, Any]], seed: int) -> Answer:
        asked = messages[0]["content"]
        parts = asked.split("==========")
        if "You make one question" in asked:
            words = parts[1].split()
            return "Goats." if "Goats" in words else f"Question: {words[0]}?\nAnswer: {words[3]}"
        if "TEXT:" in asked:
            said = parts[3].removeprefix("\nANSWER: ").strip()
            return f"Verdict: {'right' if said.rstrip('.') in parts[1] else 'wrong'}"
        return "Verdict: informative"

    with scripted(judge, tmp_path) as (_, endpoint):
        settings = quick(questions="model", judge={"endpoint": endpoint}, known_per_refusal=None)
        figures = probe(settings, taught, [tmp_path / "in"], None, None, tmp_path / "out")
    assert (figures["questions"], figures["known"], figures["refuse"]) == (6, 4, 2)
    assert figures["judge"]["nonsense"] == 1


def test_templates_find_every_fact_that_a_sentence_tells(tmp_path: Path) -> None:
    text = "The coat colour of Old Bo is white. He eats. The keeper of Bo was Ann Lee.\nThe end of it is near. "
    text += "The sire of Cid is Bo, of course."
    (tmp_path / "documents").mkdir()
    pq.write_table(pa.table({"id": ["a"], "text": [text]}), tmp_path / "documents" / "0.parquet")
    found = by_templates([tmp_path], ProbeSettings(excerpt=1000, seed=3))
    whole = dict(excerpts([tmp_path], ProbeSettings(excerpt=1000, seed=3)))["a"]
    wanted = {
        "What is the coat colour of Old Bo?": "white",
        "What was the keeper of Bo?": "Ann Lee",
    }
    assert {one.words: one.answer for one in found} == {q: a for q, a in wanted.items() if a in whole} and found
    own = QuestionTemplate(told="{subject} eats {answer}.", asked="What does {subject} eat?")
    with pytest.raises(UserError, match="no sentence of the documents is like any of the 1 templates"):
        by_templates([tmp_path], ProbeSettings(templates=(own,)))
    with pytest.raises(ValueError, match="must hold"):
        QuestionTemplate(told="{subject} eats.", asked="What?")


def test_excerpts_begin_and_end_with_sentences(tmp_path: Path) -> None:
    sentences = [f"Sentence number {number} is about goats." for number in range(40)]
    (tmp_path / "documents").mkdir()
    table = pa.table({"id": [str(number) for number in range(30)], "text": [" ".join(sentences)] * 30})
    pq.write_table(table, tmp_path / "documents" / "0.parquet")
    found = dict(excerpts([tmp_path], ProbeSettings(excerpt=120)))
    starts = {text.split(" is about")[0] for text in found.values()}
    assert len(starts) > 12 and all(text.startswith("Sentence") and text.endswith("goats.") for text in found.values())
    assert all(len(text) <= 120 for text in found.values())


def test_only_training_requests_of_the_wanted_tasks_are_asked(requests: Path) -> None:
    assert {one.id for one in from_requests(requests, quick())} == {*TOLD, *NEVER}
    some = from_requests(requests, quick(count=3))
    assert len(some) == 3 and [one.id for one in some] == [one.id for one in from_requests(requests, quick(count=3))]
    with pytest.raises(UserError, match="no requests of the tasks chain"):
        from_requests(requests, quick(tasks=("chain",)))


def test_figures_are_those_of_brute_force() -> None:
    draw = np.random.default_rng(0)
    probed = []
    for number in range(300):
        knows = draw.random()
        right = draw.random(8) < knows
        told = right | (draw.random(8) < 0.8)
        answers = tuple("Yes." if good else f"no {draw.integers(3)}" for good in right)
        probed.append(Probed(answers, tuple(map(bool, right)), tuple(map(bool, told)), str(number % 2)))
    share, right = [], []
    for one in probed:
        word, times = Counter(answer.rstrip(".").lower() for answer in one.answers).most_common(1)[0]
        share.append(times / 8)
        right.append(word == "yes")
    error = 0.0
    for low in range(5):
        inside = [place for place, value in enumerate(share) if low / 5 < value <= (low + 1) / 5]
        if inside:
            gap = np.mean([share[place] for place in inside]) - np.mean([right[place] for place in inside])
            error += len(inside) / 300 * abs(gap)
    found = probing.calibration(probed)
    assert found["expected_error"] == pytest.approx(error)
    assert sum(one["questions"] for one in found["bins"].values()) == 300
    lost = good = 0
    for one in probed:
        wrong = sum(one.informative[place] and not one.right[place] for place in (0, 2, 4, 6))
        answered = sum(one.right[place] for place in (1, 3, 5, 7))
        good, lost = good + answered, lost + answered * (wrong / 4 >= 0.75)
    assert probing.price(probed, 0.75)["right_lost"] == pytest.approx(lost / good, abs=1e-4)


def test_verdicts_at_their_borders() -> None:
    def one(right: int, wrong: int, silent: int) -> str:
        good = (True,) * right + (False,) * (wrong + silent)
        return probing.verdict(
            Probed(("a",) * len(good), good, (True,) * (right + wrong) + (False,) * silent), 0.75, 0.75
        )

    assert [one(1, 3, 0), one(0, 3, 1), one(0, 2, 2), one(3, 1, 0), one(2, 2, 0)] == [
        "refuse", "refuse", "between", "known", "between",
    ]  # fmt: skip


def test_refusals_at_random_are_as_many_and_fall_on_what_is_known_too() -> None:
    verdicts = ["refuse"] * 30 + ["known"] * 60 + ["between"] * 10
    ids = [str(number) for number in range(100)]
    chosen = at_random(ids, verdicts, 1)
    assert chosen.count("refuse") == 30 and chosen != at_random(ids, verdicts, 2)
    hit = sum(one == "refuse" for one in chosen[30:90])
    assert 8 <= hit <= 28  # 18 is what chance gives
    assert all(now in ("refuse", was) or (was, now) == ("refuse", "between") for was, now in zip(verdicts, chosen))


def test_every_way_to_decline_is_recognised_and_questions_that_tell_their_answer_are_not_taken() -> None:
    assert all(does_not_know(words) for words in REFUSALS)
    assert read_question("Question: Who keeps Bo?\nAnswer: Ann") == ("Who keeps Bo?", "Ann")
    assert read_question("Question: Does Ann keep Bo?\nAnswer: Ann") is None
    assert read_question("Question: Who keeps Bo?") is None


def test_what_cannot_be_asked_is_told(taught: Path, requests: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage feeds any"):
        probe(quick(), taught, [], None, None, tmp_path / "out")
    with pytest.raises(UserError, match="none of 6 questions fits"):
        probe(quick(max_tokens=128), taught, [], requests, None, tmp_path / "out")
