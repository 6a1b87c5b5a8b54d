"""Word problems: worked steps recomputed, and the numbers in words followed by a reader of its own."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from random import Random

import pytest

from herdbook.world.phrasebook import STORIES as FOREIGN
from herdbook.world.problems import STORIES, Problem, make_problem, page_problems, question_problems, worksheets
from herdbook.world.settings import WorldSettings

TINY = WorldSettings.tiny()
ALL_STORIES = {**STORIES, **{name: story for stories in FOREIGN.values() for name, story in stories.items()}}


def evaluate(left: int, sign: str, right: int) -> Fraction:
    """One equation's value, without the world's own arithmetic."""
    return {
        "+": Fraction(left + right),
        "-": Fraction(left - right),
        "*": Fraction(left * right),
        "/": Fraction(left, right),
    }[sign]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_worked_steps_are_right_and_chain_to_the_result(steps: int) -> None:
    random = Random(steps)
    for _ in range(400):
        problem = make_problem(random, steps, ALL_STORIES)
        equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", problem.answer)
        assert len(equations) == steps == problem.steps
        total = int(problem.answer.split()[0])
        for left, sign, right, result in equations:
            assert int(left) == total and evaluate(int(left), sign, int(right)) == int(result)
            total = int(result)
        assert problem.answer.endswith(f"#### {total}") and total == problem.result and 0 <= total <= 200


def test_numbers_in_words_are_those_of_the_steps() -> None:
    random = Random(0)
    for _ in range(500):
        problem = make_problem(random, random.randint(1, 4), ALL_STORIES)
        told = [int(n) for n in re.findall(r"\d+", problem.question)]
        start = int(problem.answer.split()[0])
        worked = [int(n) for n in re.findall(r"\d+ [-+*/] (\d+) =", problem.answer)]
        assert told == [start, *worked]


def test_each_sentence_stands_for_one_operation() -> None:
    for story in ALL_STORIES.values():
        signs = Counter((*story.more, *story.less, story.times, story.share))
        assert max(signs.values()) == 1


def test_held_out_problems_stand_in_no_page() -> None:
    settings = WorldSettings(problems=4000)
    pages = list(page_problems(settings))
    asked = list(question_problems(Random(1), 50))
    assert len(asked) == 200 and len({problem.question for problem in asked}) == 200
    assert not {problem.key for problem in pages} & {problem.key for problem in asked}
    numbers = {(problem.key[0], problem.answer.split(".", 1)[1]) for problem in pages}
    assert not numbers & {(problem.key[0], problem.answer.split(".", 1)[1]) for problem in asked}


def test_worksheets_hold_every_problem_once_as_lines() -> None:
    texts = [block.text for sheet in worksheets(TINY) for block in sheet.blocks if block.kind == "qa"]
    assert texts == [problem.text for problem in page_problems(TINY)] and len(texts) == TINY.problems
    for text in texts:
        question, answer = text.split("\n")
        assert question.startswith("Question: ") and answer.startswith("Answer: ")


def test_warm_up_sums_are_right() -> None:
    for sheet in worksheets(TINY):
        sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", sheet.blocks[0].text)
        assert sheet.blocks[0].kind == "paragraph" and len(sums) >= 10
        assert all(evaluate(int(left), sign, int(right)) == int(result) for left, sign, right, result in sums)


def test_most_problems_have_one_or_two_steps() -> None:
    steps = Counter(problem.steps for problem in page_problems(WorldSettings(problems=2000)))
    assert steps[1] + steps[2] > 1400 and min(steps[3], steps[4]) > 80


def test_a_problem_keeps_its_side_whatever_the_name() -> None:
    random = Random(4)
    sides: dict[tuple[object, ...], set[bool]] = {}
    for _ in range(3000):
        problem: Problem = make_problem(random, 1)
        sides.setdefault(problem.key, set()).add(problem.held_out)
    assert all(len(side) == 1 for side in sides.values())
