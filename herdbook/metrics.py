"""Figures by name: metrics are nested mappings, a figure's name is its dotted path, and `*` stands for any key.

A leaf is a number, or a mapping with `value` and perhaps `low`, `high` (its 95 % interval) and `n`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A measured number with its 95 % interval, where one was measured."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def __str__(self) -> str:
        return short(self.value)

    @property
    def interval(self) -> str:
        """The interval in words, empty where there is none."""
        return "" if self.low is None or self.high is None else f"{short(self.low)} to {short(self.high)}"


def short(value: float) -> str:
    """A number with as many digits as a reader of a table wants."""
    if isinstance(value, bool) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def as_figure(value: Any) -> Figure | None:
    """`value` as a figure, or None when it is none."""
    if isinstance(value, (bool, int, float)):
        return Figure(float(value))
    if isinstance(value, dict) and isinstance(value.get("value"), (bool, int, float)):
        low, high = value.get("low"), value.get("high")
        return Figure(float(value["value"]), low, high, value.get("n"))
    return None


def figures(metrics: Any, prefix: str = "") -> Iterator[tuple[str, Figure]]:
    """All figures of nested metrics with their dotted names, in the order they were written."""
    found = as_figure(metrics)
    if found is not None:
        yield prefix, found
    elif isinstance(metrics, dict):
        for key, value in metrics.items():
            yield from figures(value, f"{prefix}.{key}" if prefix else str(key))


def select(metrics: Any, pattern: str) -> list[tuple[str, Figure]]:
    """The figures whose dotted name matches `pattern`; in it `*`, `?` and `[…]` match within one key."""
    found = []
    for name, figure in figures(metrics):
        if matches(name, pattern) is not None:
            found.append((name, figure))
    return found


def matches(name: str, pattern: str) -> list[str] | None:
    """What the patterned keys of `pattern` stand for in `name`; None when it does not match."""
    keys, wanted = name.split("."), pattern.split(".")
    if len(keys) != len(wanted) or not all(map(fnmatch.fnmatchcase, keys, wanted)):
        return None
    return [key for key, want in zip(keys, wanted) if is_pattern(want)]


def is_pattern(text: str) -> bool:
    """Whether a dotted name holds `*`, `?` or `[`."""
    return any(letter in text for letter in "*?[")
