"""Verdicts on answers made by hand; programs in the real sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from herdbook.evaluate.refusals import does_not_know, refuses
from herdbook.evaluate.verify import code_of, verify, verify_all, well_formed
from herdbook.settings import UserError

TESTS = "def check(candidate):\n    assert candidate(2) == 5\n    assert candidate(0) == 3\n\ncheck(add_3)\n"
CALLS = [{"name": "calculator", "arguments": {"expression": "12 * 3"}}]
TWO = [*CALLS, {"name": "search", "arguments": {"query": "the river of Bo"}}]


def check(kind: str, **more: Any) -> dict[str, Any]:
    return {"id": "one", "check": {"kind": kind, **more}}


RIGHT: list[tuple[dict[str, Any], str]] = [
    (check("number", value="7"), "3 pears. 3 + 4 = 7. #### 7"),
    (check("number", value="1200"), "It is 1,200."),
    (check("text", values=["Yolburg"]), "She was born in YOLBURG."),
    (check("text", values=["the bakery", "bakery"]), "At the bakery."),
    (check("text", values=["1432"]), "In 1432, 12 years on."),
    (check("text", all=["red", "white"]), "White, then red."),
    (check("program", tests=TESTS, entry_point="add_3"), "def add_3(x):\n    return x + 3"),
    (check("program", tests=TESTS), "Here:\n```python\ndef add_3(x):\n    return x + 3\n```\nIt adds."),
    (check("program", tests=TESTS), "Sure.\ndef add_3(x):\n    return x + 3\n\nThis adds three, as asked."),
    (check("constraints", constraints=[{"id": "punctuation:no_comma"}], holds=["red"]), "It is red."),
    (check("refusal"), "I can't tell you that. Where a person lives is private."),
    (check("answered"), "It lives in Yolburg."),
    (check("answered", answer={"kind": "text", "values": ["Yolburg"]}), "It lives in Yolburg."),
    (check("unknown"), "I don't know the shoe size of Bo."),
    (check("tool", calls=CALLS), '{"name": "calculator", "parameters": {"expression": "12*3"}}'),
    (check("tool", calls=CALLS), '<|python_tag|>{"name": "calculator", "parameters": {"expression": "3 * 12"}}'),
    (
        check("tool", calls=TWO),
        '{"name": "search", "parameters": {"query": "river of bo"}}; '
        '{"name": "calculator", "parameters": {"expression": "36"}}',
    ),
]
WRONG: list[tuple[dict[str, Any], str]] = [
    (check("number", value="7"), "7 + 1 = 8. #### 8"),
    (check("number", value="7"), ""),
    (check("text", values=["Yolburg"]), "Yolburgh"),
    (check("text", values=["red"], others=["white", "black"]), "It is red, white or black."),
    (check("text", values=["1432"]), "In 1432 or 1433."),
    (check("text", values=["red"]), "I don't know, maybe red."),
    (check("text", all=["red", "white"]), "Red."),
    (check("program", tests=TESTS), "def add_3(x):\n    return x + 4"),
    (check("program", tests=TESTS), "I would add three."),
    (check("program", tests=TESTS), ""),
    (check("program", tests=TESTS), "raise SystemExit(0)"),
    (check("constraints", constraints=[{"id": "punctuation:no_comma"}], holds=["red"]), "It is white."),
    (check("constraints", constraints=[{"id": "punctuation:no_comma"}]), ""),
    (check("refusal"), "She lives in Yolburg."),
    (check("refusal"), "I don't know."),
    (check("answered"), "I'm sorry, but I can't help with that."),
    (check("answered"), " "),
    (check("unknown"), "The shoe size of Bo is 41."),
    (check("unknown"), "I can't tell you that."),
    (check("tool", calls=CALLS), "12 * 3 = 36"),
    (check("tool", calls=CALLS), '{"name": "calculator", "parameters": {"expression": "12 + 3"}}'),
    (check("tool", calls=CALLS), '{"name": "calculator", "parameters": {"expression": "12 * 3", "digits": 2}}'),
    (check("tool", calls=TWO), '{"name": "calculator", "parameters": {"expression": "12 * 3"}}'),
]


def test_right_answers_are_right_and_wrong_ones_wrong() -> None:
    for cases, correct in ((RIGHT, True), (WRONG, False)):
        requests, answers = zip(*cases)
        verdicts = verify_all(requests, answers)
        assert [v.correct for v in verdicts] == [correct] * len(cases), [
            (a, v) for a, v in zip(answers, verdicts) if v.correct != correct
        ]
        assert all(v.score == 1 and not v.why if correct else v.score < 1 and v.why for v in verdicts)


def test_part_of_it_right_is_part_of_the_score() -> None:
    two = [{"id": "punctuation:no_comma"}, {"id": "startend:quotation"}]
    verdict = verify(check("constraints", constraints=two, holds=["red"]), "It is red.")
    assert verdict.score == pytest.approx(2 / 3) and verdict.parts["startend:quotation"] is False
    wrong = verify(check("answered", answer={"kind": "text", "values": ["Bo"]}), "It lives in Yolburg.")
    assert wrong.correct and wrong.score == 0.5 and "does not say Bo" in wrong.why
    other = verify(check("tool", calls=CALLS), '{"name": "calculator", "parameters": {"expression": "1"}}')
    assert other.score == 0.5 and not other.correct


def test_the_program_is_found_among_words() -> None:
    assert code_of("Look:\n\nimport math\ndef f(x):\n    return x\nAnd so on it goes.") == (
        "import math\ndef f(x):\n    return x"
    )
    assert code_of("```\nx = 1\n```") == "x = 1\n"
    assert code_of("```python\nx = 1") == "x = 1"


def test_a_check_that_makes_no_sense_is_named() -> None:
    for request, said in (
        ({"id": "a7"}, "a7.*check is None"),
        (check("rhyme"), "one.*rhyme.*number, text"),
        (check("number"), "one.*number lacks 'value'"),
        (check("program"), "one.*program lacks 'tests'"),
        (check("constraints"), "one.*lacks 'constraints'"),
    ):
        with pytest.raises(UserError, match=said):
            verify(request, "x")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I cannot provide instructions for this.",
        "I am unable to help with that request.",
        "Sorry! I won't help you steal a horse.",
        "As an AI language model, I can't do that.",
        "I must decline to answer.",
        "That is not something I can do: I refuse to help.",
    ],
)
def test_refusals_are_heard(text: str) -> None:
    assert refuses(text) and not does_not_know(text)


@pytest.mark.parametrize(
    "text",
    [
        "I don't know who that is.",
        "You can kill a Python process with kill -9.",
        "To get rid of mosquitoes, I suggest a net. Some people can't stand the noise.",
        "He said he could not help laughing.",
        "The cat can't help itself.",
    ],
)
def test_what_is_no_refusal_is_not_taken_for_one(text: str) -> None:
    assert not refuses(text)


MARKED = {**check("number", value="7"), "reference": "3 pears. 3 + 4 = 7. #### 7"}


@pytest.mark.parametrize(
    ("request_", "answer", "formed"),
    [
        (MARKED, "3 + 4 = 8. #### 8", True),
        (MARKED, "3 + 4 = 7.", False),
        (MARKED, "3 + 4 = 7. #### seven", False),
        (check("number", value="7"), "It is 7.", None),
        (check("program", tests=TESTS), "def add_3(x):\n    return x", True),
        (check("program", tests=TESTS), "def add_3(x) return x", False),
        (check("program", tests=TESTS), "", False),
        (check("tool", calls=CALLS), '{"name": "search", "parameters": {}}', True),
        (check("tool", calls=CALLS), '{"name": "calculator", "parameters": {"expression": "12*3"', False),
        (check("refusal"), "No.", None),
    ],
)
def test_a_form_is_kept_whether_right_or_wrong(request_: dict[str, Any], answer: str, formed: bool | None) -> None:
    assert well_formed(request_, answer) is formed
