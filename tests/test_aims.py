"""Aims find their figures by name, and say of each whether it was reached."""

from __future__ import annotations

import fnmatch
import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.aims import judge, parse_aim
from herdbook.metrics import figures, select, short
from herdbook.settings import UserError

MEASURED: dict[str, Any] = {
    "exam": {
        "bits": {"model": 1.9, "xz": 1.94},
        "facts": {"1": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 100}, "100": {"value": 1, "n": 50}},
        "name": "base",
        "lost": None,
    },
    "audit": {"url": {"recall": 0.9, "aim": 0.8}, "near": {"recall": 0.7, "aim": 0.8}},
}


def test_figures_are_named_by_their_path_and_texts_are_none() -> None:
    names = [name for name, _ in figures(MEASURED)]
    assert names == [
        "exam.bits.model", "exam.bits.xz", "exam.facts.1", "exam.facts.100",
        "audit.url.recall", "audit.url.aim", "audit.near.recall", "audit.near.aim",
    ]  # fmt: skip
    ((_, figure),) = select(MEASURED, "exam.facts.1")
    assert (figure.value, figure.interval, figure.n) == (0.25, "0.2 to 0.3", 100)


@given(st.sampled_from(["exam.*.*", "*.url.*", "exam.facts.1*", "a*.*.[ra]*", "exam.bits.x?"]))
def test_patterns_match_key_by_key(pattern: str) -> None:
    found = {name for name, _ in select(MEASURED, pattern)}
    brute = set()
    for name, _ in figures(MEASURED):
        pairs = list(zip(name.split("."), pattern.split("."), strict=True))
        if all(fnmatch.fnmatchcase(key, want) for key, want in pairs):
            brute.add(name)
    assert found == brute


COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}


@given(st.sampled_from(sorted(COMPARE)), st.floats(-1, 3, allow_nan=False), st.floats(-1, 3, allow_nan=False))
def test_a_comparison_means_what_it_says(sign: str, value: float, bound: float) -> None:
    (judged,) = judge(parse_aim("a.b", f"{sign} {bound!r}"), {"a": {"b": value}})
    assert judged.reached is bool(COMPARE[sign](value, bound))


def test_an_aim_may_name_another_figure_also_for_each_match() -> None:
    (judged,) = judge(parse_aim("exam.bits.model", "< exam.bits.xz"), MEASURED)
    assert judged.reached and judged.aim == "< exam.bits.xz (1.94)"
    each = judge(parse_aim("audit.*.recall", ">= audit.*.aim"), MEASURED)
    assert [(item.name, item.reached) for item in each] == [("audit.url.recall", True), ("audit.near.recall", False)]
    (unknown,) = judge(parse_aim("exam.bits.model", "< exam.bits.bz2"), MEASURED)
    assert unknown.reached is None and "not measured" in unknown.aim


def test_an_aim_may_be_about_an_end_of_the_interval() -> None:
    for name, reached in (("exam.facts.1.low", True), ("exam.facts.1", False), ("exam.facts.100.low", None)):
        (judged,) = judge(parse_aim(name, "<= 0.2"), MEASURED)
        assert (judged.name, judged.reached) == (name, reached)
    assert judge(parse_aim("exam.facts.*.high", "<= 0.3"), MEASURED)[0].figure.n == 100  # type: ignore[union-attr]
    (between,) = judge(parse_aim("exam.facts.1.low", "< exam.facts.1.high"), MEASURED)
    assert between.reached and between.aim == "< exam.facts.1.high (0.3)"


@pytest.mark.parametrize(
    ("expression", "reached", "shown"),
    [
        (">= exam.facts.1 + 0.75", True, ">= exam.facts.1 + 0.75 (1)"),
        (">= exam.facts.1 + .76", False, ">= exam.facts.1 + 0.76 (1.01)"),
        ("<= 4 * exam.facts.1", True, "<= 4 * exam.facts.1 (1)"),
        ("<= 0.5 * exam.bits.xz - 0.1", False, "<= 0.5 * exam.bits.xz - 0.1 (0.87)"),
    ],
)
def test_an_aim_may_reckon_with_another_figure(expression: str, reached: bool, shown: str) -> None:
    (judged,) = judge(parse_aim("exam.facts.100", expression), MEASURED)
    assert (judged.reached, judged.aim) == (reached, shown)


def test_an_aim_may_say_what_it_shows() -> None:
    aim = parse_aim("exam.bits.xz", {"aim": "> 1", "claim": "xz compresses"})
    assert judge(aim, MEASURED)[0].claim == "xz compresses" and judge(aim, MEASURED)[0].reached
    for wrong in ({"aim": "> 1"}, {"aim": "> 1", "claim": 3}, {"aim": "1", "claim": "x"}):
        with pytest.raises(UserError):
            parse_aim("exam.bits.xz", wrong)


def test_an_unmeasured_figure_is_said_to_be_so() -> None:
    for name in ("exam.speed", "exam.name", "exam.lost", "exam.bits", "other.x"):
        (judged,) = judge(parse_aim(name, "> 1"), MEASURED)
        assert judged.figure is None and judged.reached is None


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "0.9",
        ">=",
        "=> 1",
        "> 1 2",
        "about 3",
        "> abc",
        "> 2 * 3",
        "> 1 + 1",
        "> a.b + c",
        "> nan",
        "< inf",
        0.9,
        None,
        [">= 1"],
    ],
)
def test_what_is_no_comparison_is_refused(expression: Any) -> None:
    with pytest.raises(UserError):
        parse_aim("a.b", expression)


def test_numbers_are_short() -> None:
    assert [short(item) for item in (0.97, 1.0, 12345.6, 1234567, 0.000123456, -3.5)] == [
        "0.97", "1", "12,346", "1,234,567", "0.0001235", "-3.5",
    ]  # fmt: skip
