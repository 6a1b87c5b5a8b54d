"""Every loader on the real benchmark files, and errors that name file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from herdbook.evaluate.questions import read_choices, read_worked
from herdbook.evaluate.sandbox import Program, SandboxSettings, run_programs
from herdbook.evaluate.tasks import TASKS, find_task, program_of
from herdbook.settings import UserError
from tests.support.shared import shared


@pytest.mark.parametrize(
    ("task", "count", "examples"),
    [
        ("gsm8k", 1319, 7473),
        ("humaneval", 164, 0),
        ("mbpp", 500, 10),
        ("math", 500, 0),
        ("mgsm", 2750, 0),
        ("mmlu", 14042, 285),
    ],
)
def test_real_benchmarks_load_whole(task: str, count: int, examples: int) -> None:
    folder = shared("data/benchmarks")
    questions = TASKS[task].load(folder)
    assert len(questions) == count
    assert len(TASKS[task].load_examples(folder)) == examples
    assert all(q.text and (q.choices or q.answer) for q in questions)
    assert len({q.id for q in questions}) == count


def test_mbpp_has_974_of_which_500_are_the_test() -> None:
    questions = TASKS["mbpp"].read(shared("data/benchmarks/mbpp/mbpp.jsonl"))
    assert len(questions) == 974
    assert [q.id for q in questions if q.groups["split"] == "test"] == [str(i) for i in range(11, 511)]


def test_mgsm_has_eleven_languages_of_250_with_the_same_answers() -> None:
    questions = TASKS["mgsm"].load(shared("data/benchmarks"))
    languages = sorted({q.groups["language"] for q in questions})
    assert languages == ["bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"]
    by = {language: [q.answer for q in questions if q.groups["language"] == language] for language in languages}
    assert all(len(answers) == 250 and answers == by["en"] for answers in by.values())


def test_mmlu_keeps_subject_choices_and_answer() -> None:
    question = read_choices(shared("data/benchmarks/mmlu/test/anatomy_test.csv"))[1]
    assert question.groups["subject"] == "anatomy"
    assert question.text == 'A "dished face" profile is often associated with'
    assert len(question.choices) == 4 and question.correct == 1


def test_mmlu_prompt_shows_five_answered_questions_of_the_subject() -> None:
    folder = shared("data/benchmarks")
    task = TASKS["mmlu"]
    question = read_choices(folder / "mmlu/test/anatomy_test.csv")[0]
    examples = [e for e in task.load_examples(folder) if e.groups["subject"] == "anatomy"]
    prompt = task.prompt(question, examples[:5])
    assert prompt.startswith("The following are multiple choice questions (with answers) about anatomy.\n\nWhat is the")
    assert (
        prompt.count("\nAnswer:") == 6
        and prompt.count("\nAnswer: D\n\n") == [e.correct for e in examples].count(3)
        and prompt.endswith("\nAnswer:")
    )


def test_gsm8k_examples_lose_their_calculator_marks() -> None:
    answer = read_worked(shared("data/benchmarks/gsm8k/test.jsonl"))[0].answer
    assert answer.startswith("Janet sells 16 - 3 - 4 = 9 duck eggs a day.") and answer.endswith("#### 18")


def test_all_canonical_humaneval_solutions_pass() -> None:
    questions = TASKS["humaneval"].load(shared("data/benchmarks"))
    programs = [Program(program_of(q, q.answer), q.tests) for q in questions]
    outcomes = run_programs(programs, SandboxSettings(seconds=20))
    assert [(q.id, o) for q, o in zip(questions, outcomes) if not o.passed] == []


def test_empty_humaneval_solutions_all_fail() -> None:
    questions = TASKS["humaneval"].load(shared("data/benchmarks"))[::4]
    outcomes = run_programs([Program(program_of(q, "    return None\n"), q.tests) for q in questions])
    assert sum(o.passed for o in outcomes) == 0


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_all_canonical_mbpp_solutions_pass(every: int) -> None:
    questions = TASKS["mbpp"].read(shared("data/benchmarks/mbpp/mbpp.jsonl"))[::every]
    outcomes = run_programs([Program(program_of(q, q.answer), q.tests) for q in questions], SandboxSettings(seconds=60))
    assert [(q.id, o) for q, o in zip(questions, outcomes) if not o.passed] == []


def test_the_worlds_shapes_are_read(tmp_path: Path) -> None:
    fact = {
        "id": "f1",
        "question": "The birthplace of Mira Holt is",
        "choices": [" Brenna", " Oske", " Tal", " Ruu"],
        "answer": 2,
        "group": {"exposures": 10, "kind": "person"},
    }
    (tmp_path / "facts.jsonl").write_text(json.dumps(fact) + "\n\n")
    problem = {"question": "1 + 1?", "answer": "1 + 1 = 2. #### 2", "group": {"steps": 1}}
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(problem))
    (tmp_path / "mgsm.jsonl").write_text(json.dumps({"question": "1 und 1?", "answer": 2, "language": "de"}))
    fact_question = TASKS["facts"].load(tmp_path)[0]
    assert (fact_question.id, fact_question.correct, fact_question.groups["exposures"]) == ("f1", 2, 10)
    assert TASKS["gsm8k"].load(tmp_path)[0].groups == {"steps": 1}
    assert TASKS["gsm8k"].load(tmp_path)[0].id == "gsm8k/1"
    assert TASKS["mgsm"].load(tmp_path)[0].groups == {"language": "de"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "x", ', "no JSON"),
        ('["x"]', "no JSON object"),
        ('{"question": "x", "choices": ["a", "b"], "answer": 2}', "none of 2 choices"),
        ('{"question": "x", "answer": 0}', "none of 0 choices"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    good = '{"question": "x", "choices": ["a", "b"], "answer": "B"}\n'
    (tmp_path / "facts.jsonl").write_text(good + line)
    with pytest.raises(UserError, match=r"facts\.jsonl line 2") as caught:
        TASKS["facts"].load(tmp_path)
    assert said in str(caught.value)


def test_missing_files_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gsm8k: no questions in .*gsm8k\.jsonl or gsm8k/test\.jsonl"):
        TASKS["gsm8k"].load(tmp_path)


def test_an_unknown_task_names_its_neighbours() -> None:
    with pytest.raises(UserError, match="'gsm8'; did you mean gsm8k"):
        find_task("gsm8")
