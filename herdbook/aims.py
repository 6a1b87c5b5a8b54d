"""What a recipe wants to reach: a comparison of a measured figure with a number or with another figure.

`exam.facts_100.accuracy: ">= 0.90"`; `audit.defects.*.recall: ">= 0.95"` is one aim per match;
`exam.bits_per_byte.model: "< exam.bits_per_byte.xz"` compares two figures, in the order of the keys that `*` took;
`judge.accuracy: ">= judge.longest + 0.1"` and `after.wrong: "<= 0.5 * before.wrong"` reckon with the other; and
`gain.exam.score.low: "> 0"` is about an end of the 95 % interval (`low` or `high`).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from herdbook import metrics
from herdbook.settings import UserError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_EXPRESSION = re.compile(r"\s*(>=|<=|==|>|<)\s*(?:(\d*\.?\d+)\s*\*\s+)?(\S+)(?:\s+([+-])\s*(\d*\.?\d+))?\s*")
_ENDS = ("low", "high")


@dataclass(frozen=True)
class Aim:
    """`name` is a dotted pattern that begins with a stage; `bound` is a number, or such a name (`times` it, `plus`)."""

    name: str
    comparison: str
    bound: float | str
    times: float = 1.0
    plus: float = 0.0

    claim: str = ""
    """What is claimed where the aim is reached, for people."""

    def astray(self, stages: Iterable[str]) -> list[str]:
        """Of its figures' names those that begin with none of `stages`; a stage's own name may hold dots."""
        names = [self.name, self.bound] if isinstance(self.bound, str) else [self.name]
        depths = [(stage, len(stage.split("."))) for stage in stages]
        return [name for name in names if not any(_begins(name, stage, depth) for stage, depth in depths)]


def _begins(name: str, stage: str, depth: int) -> bool:
    keys = name.split(".")
    return len(keys) > depth and metrics.matches(stage, ".".join(keys[:depth])) is not None


@dataclass(frozen=True)
class Judged:
    """An aim held against what was measured; `figure` or `bound` is None where it was not measured."""

    name: str
    figure: metrics.Figure | None
    aim: str
    reached: bool | None
    claim: str = ""


def parse_aim(name: str, expression: Any) -> Aim:
    """Read an aim, a comparison or `{aim: comparison, claim: words}`; UserError says what it must look like."""
    claim = ""
    if isinstance(expression, dict):
        if set(expression) != {"aim", "claim"} or not isinstance(expression["claim"], str):
            raise UserError(f'with words an aim is {{aim: ">= 0.9", claim: what it shows}}, not {expression!r}')
        expression, claim = expression["aim"], expression["claim"]
    found = _EXPRESSION.fullmatch(expression) if isinstance(expression, str) else None
    if not found:
        raise UserError(f'an aim is a comparison such as ">= 0.9" or "< exam.bits_per_byte.xz", not {expression!r}')
    if "." not in name:
        raise UserError(f"the name of an aim is STAGE.METRIC, such as exam.accuracy, not {name!r}")
    comparison, times, bound, sign, plus = found.groups()
    try:
        value = float(bound)
    except ValueError:
        if "." not in bound:
            raise UserError(f"{bound!r} is neither a number nor the name STAGE.METRIC of another figure") from None
        return Aim(name, comparison, bound, float(times or 1), float(f"{sign or '+'}{plus or 0}"), claim)
    if times or plus:
        raise UserError(f"{expression!r} reckons with numbers alone; write what it comes to")
    if not math.isfinite(value):
        raise UserError(f"{expression!r} can never be reached, or never be missed; compare with a number")
    return Aim(name, comparison, value, claim=claim)


def judge(aim: Aim, measured: dict[str, Any]) -> list[Judged]:
    """Hold an aim against `measured` (stage name → metrics): one result per figure that its name matches."""
    found = _select(measured, aim.name)
    if not found:
        return [Judged(aim.name, None, f"{aim.comparison} {_show(aim, aim.bound)}", None, aim.claim)]
    return [_judge_one(aim, *item, measured) for item in found]


def _select(measured: dict[str, Any], name: str) -> list[tuple[str, metrics.Figure, float | None]]:
    """The figures of this name, each with what of it is compared: its value, or the end that the name asks for."""
    found = metrics.select(measured, name)
    whole, _, end = name.rpartition(".")
    if found or end not in _ENDS:
        return [(one, figure, figure.value) for one, figure in found]
    return [(f"{one}.{end}", figure, getattr(figure, end)) for one, figure in metrics.select(measured, whole)]


def _judge_one(aim: Aim, name: str, figure: metrics.Figure, value: float | None, measured: dict[str, Any]) -> Judged:
    bound = aim.bound
    shown = f"{aim.comparison} {_show(aim, bound)}"
    if isinstance(bound, str):
        taken = iter(metrics.matches(name, aim.name) or [])
        keys = [next(taken, key) if metrics.is_pattern(key) else key for key in bound.split(".")]
        other = _select(measured, ".".join(keys))
        shown = f"{aim.comparison} {_show(aim, '.'.join(keys))}"
        if len(other) != 1 or other[0][2] is None:
            return Judged(name, figure, f"{shown} (not measured)", None, aim.claim)
        bound = aim.times * other[0][2] + aim.plus
        shown = f"{shown} ({metrics.short(bound)})"
    if value is None:
        return Judged(name, figure, f"{shown} (it has no interval)", None, aim.claim)
    return Judged(name, figure, shown, _COMPARISONS[aim.comparison](value, bound), aim.claim)


def _show(aim: Aim, bound: float | str) -> str:
    if not isinstance(bound, str):
        return metrics.short(bound)
    times = "" if aim.times == 1 else f"{metrics.short(aim.times)} * "
    plus = "" if not aim.plus else f" {'+' if aim.plus > 0 else '-'} {metrics.short(abs(aim.plus))}"
    return f"{times}{bound}{plus}"
