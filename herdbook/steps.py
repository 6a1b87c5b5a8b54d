"""The steps that a stage of some kinds becomes (`expand.py`): what such a kind's function returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from herdbook.settings import Settings


@dataclass(frozen=True)
class Step:
    """One ordinary stage that a stage becomes."""

    name: str
    """Whole: the written stage's name, dots, its own; the last step's is the written stage's."""

    kind: str
    """A kind with a function."""

    inputs: dict[str, list[str]]
    """Input of the kind → names of stages: steps before it, or what feeds the written stage."""

    like: str = ""
    """Under which name settings may be given to all steps like this one; its kind's when empty."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Its settings where the recipe gives no others."""


Expansion = Callable[[str, Settings, dict[str, tuple[str, ...]]], list[Step]]
"""(name, settings, inputs) of a written stage → its steps, in the order they run."""
