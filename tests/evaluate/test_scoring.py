"""Asking and judging, with a toy model whose likelihoods can be worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from herdbook.evaluate import scoring
from herdbook.evaluate.questions import Question
from herdbook.evaluate.results import choice_metrics, needle_metrics, program_metrics, worked_metrics
from herdbook.evaluate.scoring import Candidate
from herdbook.evaluate.settings import EvaluateSettings
from herdbook.evaluate.tasks import TASKS
from herdbook.settings import UserError
from tests.evaluate.toy import ToyEngine

CHANCES = {" ": 0.5, "a": 0.25, "b": 0.125, "A": 0.1, "B": 0.4, "C": 0.2, "é"[0]: 0.01}


def candidate(engine: Any, **settings: Any) -> Candidate:
    return Candidate(engine, EvaluateSettings(**settings))


def cloze(choices: tuple[str, ...], correct: int, **groups: Any) -> Question:
    return Question("q", "The ewe is", choices=choices, correct=correct, groups=groups)


def test_choices_equal_a_hand_computation() -> None:
    # " b" = 1/2·1/8; " aaaa" = 1/2·(1/4)^4; "a" is given the blank it lacks, and the one that ends in a blank keeps it.
    question = cloze((" b", " aaaa", "a", " b "), 2)
    [sample] = scoring.ask_choices(candidate(ToyEngine(CHANCES)), TASKS["facts"], [question], [])
    expected = [1 / 16, 1 / 512, 1 / 8, 1 / 32]
    assert sample["logprobs"] == pytest.approx([math.log(chance) for chance in expected])
    assert sample["tokens"] == [2, 5, 2, 3]
    assert sample["chosen"] == 2 and sample["right"] is True
    assert sample["prompt"] == "The ewe is"


def test_the_three_ways_to_judge_can_differ() -> None:
    # sum: " b" wins (-2.77 against -6.24, -3.47); per token " aaaa" (-1.25 against -1.39, -1.16…) is worked out below.
    question = cloze((" b", " aaaa", " b "), 1)
    [sample] = scoring.ask_choices(candidate(ToyEngine(CHANCES)), TASKS["facts"], [question], [])
    sums = [math.log(1 / 16), math.log(1 / 512), math.log(1 / 32)]
    per_token, per_byte = [sums[0] / 2, sums[1] / 5, sums[2] / 3], [sums[0] / 1, sums[1] / 4, sums[2] / 1]
    assert sample["right"] is (max(range(3), key=sums.__getitem__) == 1) is False
    assert sample["right_per_token"] is (max(range(3), key=per_token.__getitem__) == 1)
    assert sample["right_per_byte"] is (max(range(3), key=per_byte.__getitem__) == 1) is True


def test_letters_are_asked_in_the_usual_form() -> None:
    engine = ToyEngine(CHANCES)
    question = Question("q", "2 + 2?", choices=("3", "4", "5"), correct=1)
    [sample] = scoring.ask_choices(candidate(engine), TASKS["mmlu"], [question], [])
    assert set(engine.asked) == {"2 + 2?\nA. 3\nB. 4\nC. 5\nAnswer:"}
    assert sample["choices"] == [" A", " B", " C"] and sample["right"]


def test_examples_are_of_the_subject_and_leave_when_there_is_no_room() -> None:
    examples = [
        Question(str(i), f"ask {i}", choices=("x", "y"), correct=0, groups={"subject": "sheep"}) for i in range(9)
    ]
    other = [Question("o", "other", choices=("x", "y"), correct=0, groups={"subject": "goats"})]
    question = Question("q", "asked", choices=("x", "y"), correct=1, groups={"subject": "sheep"})
    for limit, shown in ((4096, 5), (190, 4), (100, 1), (60, 0)):
        engine = ToyEngine(CHANCES, max_length=limit)
        scoring.ask_choices(candidate(engine), TASKS["mmlu"], [question], other + examples)
        prompt = engine.asked[0]
        assert prompt.count("Answer:") <= shown + 1 and "other" not in prompt
        assert prompt.endswith("asked\nA. x\nB. y\nAnswer:")
        assert len(prompt) + 3 <= limit
        if limit == 4096:
            assert prompt.count("ask ") == 5 and "about sheep." in prompt and "ask 4" in prompt


def test_choice_figures_by_exposure() -> None:
    questions = [cloze((" b", " aa"), index % 2, exposures=10 if index < 6 else 100) for index in range(10)]
    samples = scoring.ask_choices(candidate(ToyEngine(CHANCES)), TASKS["facts"], questions, [])
    metrics = choice_metrics("facts", samples)
    assert metrics["facts"]["accuracy"]["value"] == 0.5 and metrics["facts"]["accuracy"]["n"] == 10
    assert metrics["facts"]["chance"] == 0.5
    assert metrics["facts_10"]["accuracy"]["n"] == 6 and metrics["facts_100"]["accuracy"]["n"] == 4


def test_hops_and_languages_have_figures_of_their_own() -> None:
    groups = [{"exposures": 10, "language": "en"}, {"exposures": 10, "language": "de"}]
    questions = [cloze((" b", " a"), 0, **group) for group in groups]
    samples = scoring.ask_choices(candidate(ToyEngine(CHANCES)), TASKS["facts"], questions, [])
    metrics = choice_metrics("facts", samples)
    assert set(metrics) == {"facts", "facts_10", "facts_en", "facts_de"}
    assert metrics["facts_10"]["accuracy"]["n"] == 1 and metrics["facts"]["accuracy"]["n"] == 2
    chain = cloze((" b", " a"), 0, hops=2, exposures=100)
    samples = scoring.ask_choices(candidate(ToyEngine(CHANCES)), TASKS["multihop"], [chain], [])
    assert set(choice_metrics("multihop", samples)) == {"multihop", "multihop_2"}


def worked(steps: int, result: int) -> Question:
    return Question(
        f"p{result}", f"What is {result}?", f"so it is. #### {result}", groups={"steps": steps}, one_line=True
    )


def test_problems_are_asked_bare_and_reported_by_steps() -> None:
    def reply(prompt: str) -> str:
        number = int(prompt.split()[3].rstrip("?"))
        return f" {number - 1} + 1 = {number}. #### {number if number < 8 else 0}\nQuestion: What is 3?\nAnswer: #### 9"

    engine = ToyEngine(reply=reply)
    questions = [worked(1 + i // 4, i) for i in range(12)]
    samples = scoring.ask_worked(candidate(engine), TASKS["gsm8k"], questions, [])
    assert engine.asked[0] == "Question: What is 0?\nAnswer:"
    assert samples[3]["output"] == " 2 + 1 = 3. #### 3"
    metrics = worked_metrics("gsm8k", samples)
    assert metrics["gsm8k"]["accuracy"]["value"] == pytest.approx(8 / 12)
    assert [metrics[f"problems_{n}"]["accuracy"]["value"] for n in (1, 2, 3)] == [1, 1, 0]
    assert metrics["problems_1_2"]["accuracy"]["n"] == 8


def test_written_answers_get_half_again_the_longest_answers_room() -> None:
    engine = ToyEngine(reply=lambda prompt: "x" * 999)
    scoring.ask_worked(candidate(engine), TASKS["gsm8k"], [worked(1, 5)], [])
    assert engine.limits == [len("so it is. #### 5") * 3 // 2 + 16]
    unknown = Question("m", "eins und eins?", "2", groups={"language": "de"})
    scoring.ask_worked(candidate(engine, max_tokens=77), TASKS["mgsm"], [unknown], [])
    assert engine.limits[-1] == 77


def test_shots_come_before_the_question() -> None:
    engine = ToyEngine(reply=lambda prompt: " 1 + 1 = 2\n#### 2\n\nQuestion: more")
    examples = [Question(str(i), f"e{i}", f"step\n#### {i}") for i in range(9)]
    question = Question("q", "1 + 1", "1 + 1 = 2\n#### 2")
    [sample] = scoring.ask_worked(candidate(engine), TASKS["gsm8k"], [question], examples)
    assert engine.asked[0].startswith("Question: e0\nAnswer: step\n#### 0\n\nQuestion: e1\n")
    assert engine.asked[0].count("Question:") == 9
    assert sample["right"] and sample["output"] == " 1 + 1 = 2\n#### 2"
    scoring.ask_worked(candidate(engine, shots=0), TASKS["gsm8k"], [question], examples)
    assert engine.asked[-1] == "Question: 1 + 1\nAnswer:"


PROMPT = 'def double(x):\n    """Twice x."""\n'
DOUBLE = Question("d", PROMPT, "    return 2 * x\n", tests="def check(f):\n    assert f(3) == 6\n\ncheck(double)\n")


def test_programs_stop_at_the_next_statement_and_are_run() -> None:
    engine = ToyEngine(reply=lambda prompt: "    return x + x\n\ndef other():\n    raise")
    [sample] = scoring.ask_programs(candidate(engine), TASKS["humaneval"], [DOUBLE], [])
    assert sample["outputs"] == ["    return x + x\n"] and sample["passed"] == 1
    assert engine.asked == [PROMPT]
    assert program_metrics("humaneval", [sample], (1,))["humaneval"]["pass_at_1"]["value"] == 1


def test_pass_at_k_over_several_samples() -> None:
    replies = iter(["    return x + x", "    return x", "    return 2 * x", "    retur"])
    engine = ToyEngine(reply=lambda prompt: next(replies))
    asked = candidate(engine, samples=4, temperature=0.8, pass_at=(1, 2))
    [sample] = scoring.ask_programs(asked, TASKS["humaneval"], [DOUBLE], [])
    assert sample["passed"] == 2 and [o.split(":")[0] for o in sample["outcomes"]][1::2] == ["failed", "failed"]
    figures = program_metrics("humaneval", [sample], (1, 2))["humaneval"]
    assert figures["pass_at_1"]["value"] == 0.5 and figures["pass_at_2"]["value"] == pytest.approx(1 - 1 / 6)


def test_mbpp_shows_three_examples_and_runs_the_assertions() -> None:
    engine = ToyEngine(reply=lambda prompt: "def double(x):\n  return 2 * x\n[DONE]\n\nYou are")
    asserts = "assert double(2) == 4"
    question = Question("11", "Double x.", "def double(x):\n  return x + x", tests=f"\n{asserts}\n", setup=asserts)
    examples = [Question(str(i), f"Task {i}.", f"def f{i}(): pass", setup="assert True") for i in range(1, 11)]
    [sample] = scoring.ask_programs(candidate(engine), TASKS["mbpp"], [question], examples)
    assert sample["passed"] == 1, sample
    assert engine.asked[0].count("[DONE]") == 3
    assert engine.asked[0].endswith(
        f"here is your task: Double x. Your code should pass these tests:\n\n{asserts}\n[BEGIN]\n"
    )


def needle(number: int) -> Question:
    filler = tuple(f"The {'old ' * (i % 5)}ewe number {i} went home{' at noon' * (i % 3)}." for i in range(40))
    return Question(
        f"n{number}", f"Code {number}?", f"red {number}", filler=filler, needle=f"Code {number} is red {number}."
    )


def test_needles_fill_every_cell_with_prompts_of_one_length() -> None:
    def reply(prompt: str) -> str:
        number = prompt.split("Question: Code ")[1].split("?")[0]
        early = prompt.index(f"Code {number} is") < 100
        return f" red {number}.\nQuestion" if early else " blue 7"

    engine = ToyEngine(reply=reply, max_length=1024)
    settings = {"needle_lengths": (256, 1024), "needle_depths": (0, 0.5, 1), "needle_questions": 4}
    samples = scoring.ask_needles(
        candidate(engine, **settings), TASKS["needle"], [needle(i) for i in range(10, 16)], []
    )
    assert len(samples) == 24
    assert {len(prompt) + 1 + engine.limits[0] for prompt in engine.asked} == {256, 1024}
    metrics = needle_metrics("needle", samples)
    assert metrics["needle_256"]["accuracy"]["n"] == 12
    cells = metrics["needle"]["cells"]["length_1024"]
    assert [cells[f"depth_{depth}"]["value"] for depth in (0, 50, 100)] == [1, 0, 0]
    assert cells["depth_50"]["n"] == 4 and metrics["needle"]["accuracy"]["n"] == 24
    assert metrics["needle_longest"] == metrics["needle_1024"]


def test_a_needle_longer_than_the_model_is_refused() -> None:
    with pytest.raises(UserError, match="needle_lengths has 2048, but this model sees 1024"):
        asked = candidate(ToyEngine(max_length=1024), needle_lengths=(512, 2048))
        scoring.ask_needles(asked, TASKS["needle"], [needle(1)], [])


def test_a_depth_outside_the_hay_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needle_depths has 1\.5"):
        EvaluateSettings(needle_depths=(1.5,))
