"""What a recipe wants to reach: a comparison of a measured figure with a number or with another figure.

`exam.facts_100.accuracy: ">= 0.90"`; `audit.defects.*.recall: ">= 0.95"` is one aim per match; and
`exam.bits_per_byte.model: "< exam.bits_per_byte.xz"` compares two figures, in the order of the keys that `*` took.
"""

from __future__ import annotations

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
_EXPRESSION = re.compile(r"\s*(>=|<=|==|>|<)\s*(\S+)\s*")


@dataclass(frozen=True)
class Aim:
    """`name` is a dotted pattern that begins with a stage; `bound` is a number or such a name."""

    name: str
    comparison: str
    bound: float | str

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


def parse_aim(name: str, expression: Any) -> Aim:
    """Read an aim; UserError says what an expression must look like."""
    found = _EXPRESSION.fullmatch(expression) if isinstance(expression, str) else None
    if not found:
        raise UserError(f'an aim is a comparison such as ">= 0.9" or "< exam.bits_per_byte.xz", not {expression!r}')
    if "." not in name:
        raise UserError(f"the name of an aim is STAGE.METRIC, such as exam.accuracy, not {name!r}")
    comparison, bound = found.groups()
    try:
        return Aim(name, comparison, float(bound))
    except ValueError:
        pass
    if "." not in bound:
        raise UserError(f"{bound!r} is neither a number nor the name STAGE.METRIC of another figure")
    return Aim(name, comparison, bound)


def judge(aim: Aim, measured: dict[str, Any]) -> list[Judged]:
    """Hold an aim against `measured` (stage name → metrics): one result per figure that its name matches."""
    found = metrics.select(measured, aim.name)
    if not found:
        return [Judged(aim.name, None, f"{aim.comparison} {_show(aim.bound)}", None)]
    return [_judge_one(aim, name, figure, measured) for name, figure in found]


def _judge_one(aim: Aim, name: str, figure: metrics.Figure, measured: dict[str, Any]) -> Judged:
    bound = aim.bound
    shown = f"{aim.comparison} {_show(bound)}"
    if isinstance(bound, str):
        taken = iter(metrics.matches(name, aim.name) or [])
        keys = [next(taken, key) if metrics.is_pattern(key) else key for key in bound.split(".")]
        other = metrics.select(measured, ".".join(keys))
        shown = f"{aim.comparison} {'.'.join(keys)}"
        if len(other) != 1:
            return Judged(name, figure, f"{shown} (not measured)", None)
        bound = other[0][1].value
        shown = f"{shown} ({metrics.short(bound)})"
    return Judged(name, figure, shown, _COMPARISONS[aim.comparison](figure.value, bound))


def _show(bound: float | str) -> str:
    return bound if isinstance(bound, str) else metrics.short(bound)
