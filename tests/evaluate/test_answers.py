"""Answers found in text: a table of cases, and the real benchmarks' own answers."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.evaluate.answers import boxed, choice_letter, final_number, holds_text, numbers, same_math, same_number
from tests.support.shared import shared


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7. 7 - 2 = 5. #### 5", 5),
        ("#### 42\nQuestion: what is 9?", 42),
        ("#### 1\n#### 2", 1),
        ("so #### nothing", None),
        ("there are 8 #### nothing", 8),
        ("a total of $1,200.00.", 1200),
        ("5-3", 3),
        ("it is 5 - 3", 3),
        ("x = -7", -7),
        ("minus: −7", -7),
        ("4*-2", -2),
        ("3/4 cups", Fraction(3, 4)),
        ("1,2,3", 3),
        ("1,234,567", 1234567),
        ("12,34", 34),
        ("৪২ টাকা", 42),
        ("๑๒ บาท", 12),
        ("１２個", 12),
        ("10%", 10),
        (".5", Fraction(1, 2)),
        ("He is 5.", 5),
        ("none at all", None),
        ("", None),
        ("3/0", None),
    ],
)
def test_final_number(text: str, expected: int | Fraction | None) -> None:
    assert final_number(text) == expected


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "{}.00", "#### {}", "the answer is {}.", "${:,}"]))
def test_a_number_is_found_however_it_is_written(number: int, form: str) -> None:
    assert final_number(form.format(number).replace("$-", "-$")) == number


def test_a_right_number_must_be_equal_and_be_there() -> None:
    assert same_number("#### 18.0", "18") and same_number("18", 18) and not same_number("19", 18)
    assert not same_number("no idea", "18") and not same_number("18", "no idea")
    assert same_number("2 + 3 = 5. #### 5", "1 + 4 = 5. #### 5")


def test_every_gsm8k_answer_is_its_own() -> None:
    rows = [json.loads(line) for line in shared("data/benchmarks/gsm8k/test.jsonl").read_text().splitlines()]
    for row in rows:
        assert final_number(row["answer"]) == Fraction(row["answer"].split("####")[1].strip().replace(",", ""))
    assert len(rows) == 1319


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" (C)", "C"),
        ("The answer is D.", "D"),
        ("Answer: a", "A"),
        ("B. because A is wrong", "B"),
        ("I'd say it's C", "C"),
        ("nothing", None),
        ("Apples", None),
    ],
)
def test_choice_letter(text: str, letter: str | None) -> None:
    assert choice_letter(text) == letter


def test_boxed_balances_braces_and_takes_the_last() -> None:
    assert boxed(r"\boxed{1} so \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert boxed("nothing") is None and boxed(r"\boxed{cut {off") == "cut {off"


@pytest.mark.parametrize(
    ("text", "expected", "same"),
    [
        (r"\boxed{\frac12}", r"\frac{1}{2}", True),
        (r"\boxed{\dfrac{1}{2}}", "1/2", True),
        (r"\boxed{0.5}", r"\frac{1}{2}", True),
        (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})", True),
        (r"so \boxed{x = 5}", "5", True),
        (r"\boxed{10\%}", "10", True),
        (r"\boxed{\text{Evelyn}}", r"\text{evelyn}", True),
        (r"\boxed{90^\circ}", "90", True),
        (r"\boxed{1,000}", "1000", True),
        (r"\boxed{(1,2)}", "(2,1)", False),
        (r"\boxed{7}", "8", False),
        ("The answer is 12.", "12", True),
        ("", "12", False),
    ],
)
def test_latex_answers(text: str, expected: str, same: bool) -> None:
    assert same_math(text, expected) is same


def test_every_math_answer_equals_itself_and_few_others() -> None:
    path = shared("data/benchmarks/math/math500.jsonl")
    answers = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    assert all(same_math(f"thus $\\boxed{{{answer}}}$.", answer) for answer in answers)
    neighbours = [(a, b) for a, b in itertools.pairwise(answers) if a != b]
    confused = [(a, b) for a, b in neighbours if same_math(f"\\boxed{{{a}}}", b)]
    assert confused == [("5", "x=5")]  # which is right


def test_a_found_needle_is_whole_words_of_the_first_line() -> None:
    assert holds_text(" Red 42.\nQuestion: more", "red 42") and holds_text(" It is red 42", "red 42")
    assert not holds_text(" red 421", "red 42") and not holds_text(" blue\nred 42", "red 42")


def test_numbers_keeps_their_order() -> None:
    assert numbers("2 hens, 3.5 kg and 1,000 eggs") == [2, Fraction(7, 2), 1000]
