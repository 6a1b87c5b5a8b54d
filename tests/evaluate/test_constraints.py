"""Each of IFEval's constraints on answers made by hand that keep to it and that do not, by its published definition."""

from __future__ import annotations

import json
from typing import Any

import pytest

from herdbook.evaluate.constraints import CHECKS, followed, loosely
from herdbook.settings import UserError
from tests.support.shared import shared

IFEVAL = "data/benchmarks/ifeval/input_data.jsonl"
OURS = {"detectable_format:json_keys", "startend:begin_checker"}
ENGLISH = "the river runs through the old town and all the people who live there like it very much indeed"
GERMAN = "Der Fluss fließt durch die alte Stadt, und die Leute, die dort wohnen, mögen ihn sehr."

# (constraint, arguments, answers that keep to it, answers that do not)
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["goat", "Bell"]}, ["A GOAT with a bell.", "bluebells, goats"], ["a goat", ""]),
    (
        "keywords:frequency",
        {"keyword": "ox", "frequency": 2, "relation": "at least"},
        ["Ox and ox.", "box, fox, ox"],
        ["One ox."],
    ),
    (
        "keywords:frequency",
        {"keyword": "ox", "frequency": 2, "relation": "less than"},
        ["One ox.", "None."],
        ["ox, OX"],
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["run"]}, ["Running is fine."], ["They RUN.", "run!"]),
    (
        "keywords:letter_frequency",
        {"letter": "z", "let_frequency": 2, "let_relation": "at least"},
        ["Zigzag", "buzz"],
        ["zoo"],
    ),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["a"], ["# a"]),
    ("language:response_language", {"language": "de"}, [GERMAN], [ENGLISH]),
    ("language:response_language", {"language": "en"}, [ENGLISH], [GERMAN]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ["One. Two!", "Dr. Bo came. He saw? Yes."],
        ["Only Dr. Bo came.", "3.5 is a number."],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, ["One."], ["One. Two."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["one two three"], ["one two"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["don't"], ["don't know"]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***", "a *** b"],
        ["a\n\nb", "a\n***\n \n***\nb", "a\n***\nb\n***\nc"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Goats"},
        ["One.\n\nGoats, they eat.", 'One.\n\n"goats" eat.'],
        ["Goats.\n\nOne.", "One.\n\nGoats.\n\nThree.", "One.\n\nGoat"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b] [c]"], ["[a]", "(a) (b)"]),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Hi.\nP.S. bye", "p. s. x", "P.S.\nmore"],
        ["Hi.", "PS bye"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S more", "p. p. s"], ["P.S. more"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "Two:\n- a\n  - b", "* a\n- b"],
        ["* a", "* a\n* b\n* c", "**a**\n* b"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", " My answer is maybe.\n"],
        ["Yes.", "My answer is yes"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** *b*"],
        ["*a*", "* a\n* b", "**"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION 2 SECTION 3"],
        ["SECTION 1 a", "SECTION a SECTION b"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```', "```\n[1]\n```", "3"],
        ["{'a': 1}", 'Here: {"a": 1}'],
    ),
    (
        "detectable_format:json_keys",
        {"keys": ["a", "b"]},
        ['{"b": 1, "a": 2}'],
        ['{"a": 1}', "[1]", '{"a":1,"b":2,"c":3}'],
    ),
    ("detectable_format:title", {}, ["<<Song>>\nla", "x <<a b>> y"], ["<Song>", "<<\n>>", "<< >>"]),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Who is it?"},
        ["Who is it? Bo.", "  who is it? Bo"],
        ["Bo. Who is it?"],
    ),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "******a******b"],
        ["a", "a******a", "a******b******c", "a************b"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["GO NOW", "USA and EU-wide UK"],
        ["GO now", "Go Now"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["GO now"],
        ["GO NOW"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper(), "GO, 3!"], [ENGLISH, "Go", GERMAN.upper(), "3"]),
    ("change_case:english_lowercase", {}, [ENGLISH, "go, 3!"], ["Go", GERMAN.lower()]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
    (
        "startend:end_checker",
        {"end_phrase": "That is all."},
        ['"x that is all."', "x. THAT IS ALL. "],
        ["That is all. x"],
    ),
    ("startend:begin_checker", {"begin_phrase": "Well"}, ["well, x", '"Well x"'], ["x well"]),
    ("startend:quotation", {}, ['"a"', ' "a" b" '], ['"a', '"', "'a'"]),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_a_checker_tells_good_from_bad(name: str, arguments: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert [followed(answer, {"id": name, **arguments}) for answer in good] == [True] * len(good)
    assert [followed(answer, {"id": name, **arguments}) for answer in bad] == [False] * len(bad)


def test_the_names_are_ifevals_and_two_of_ours() -> None:
    assert {case[0] for case in CASES} == set(CHECKS)
    rows = [json.loads(line) for line in shared(IFEVAL).open(encoding="utf-8")]
    assert {name for row in rows for name in row["instruction_id_list"]} == set(CHECKS) - OURS
    for row in rows:  # every argument that IFEval gives is one that the checker takes
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            assert followed("Some answer, or other.", {"id": name, **arguments}) in (True, False)


def test_loosely_forgives_lines_around_the_answer_and_asterisks() -> None:
    one = {"id": "startend:quotation"}
    for answer in ('Sure:\n"Yes."', '"Yes."\nBye', 'Sure:\n"Yes."\nBye', '**"Yes."**'):
        assert loosely(answer, one) and not followed(answer, one)
    assert not loosely("Sure:\nYes.", one)


def test_an_unknown_constraint_and_a_foreign_argument_are_named() -> None:
    with pytest.raises(UserError, match="no constraint is called 'startend:rhyme'"):
        followed("x", {"id": "startend:rhyme"})
    with pytest.raises(UserError, match=r"punctuation:no_comma.*commas"):
        followed("x", {"id": "punctuation:no_comma", "commas": 3})
    with pytest.raises(UserError, match="relation 'about'"):
        followed("x", {"id": "length_constraints:number_words", "num_words": 3, "relation": "about"})
