"""Settings of the makers of worked mathematics (§4.3.3). They import no torch."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from herdbook.posttrain.synthesis.maker import MakerSettings
from herdbook.settings import UserError


class WorkedSettings(MakerSettings):
    """What all makers of worked solutions share."""

    tasks: tuple[str, ...] = ("problem",)
    """Tasks of the requests that are problems."""

    split: str = r"(?<=[.!?])\s+|\n+"
    """Regular expression of what parts two steps of a solution; it goes to the later step."""

    @model_validator(mode="after")
    def _pattern(self) -> Self:
        try:
            re.compile(self.split)
        except re.error as error:
            raise UserError(f"split {self.split!r} is no regular expression: {error}") from None
        return self


class MathSettings(WorkedSettings):
    """Step-by-step solutions, kept where they end right; and wrong ones with their correction."""

    solutions: int = Field(default=8, ge=1)
    """Solutions drawn to each problem."""

    keep: int = Field(default=1, ge=1)
    """Most right solutions of a problem that are kept, different ones, the shortest first."""

    agree: float = Field(default=0.6, gt=0, le=1)
    """Share of the solutions that must end alike where a problem has no check; that end then counts as right."""

    verify: bool = False
    """Have the judge go through the steps of right solutions, and keep those it finds valid."""

    mistakes: Literal["no", "writer", "samples"] = "no"
    """Make dialogs of a wrong solution and its correction: the writer's own after it was told, or one of its right
    solutions."""


class InterleavedSettings(MakerSettings):
    """Solutions in turns of words and code, kept where the code runs and comes to the same, right end."""

    tasks: tuple[str, ...] = ("problem",)
    """Tasks of the requests that are problems."""

    solutions: int = Field(default=4, ge=1)
    """Solutions drawn to each problem."""

    keep: int = Field(default=1, ge=1)
    """Most solutions of a problem that are kept, different ones, the shortest first."""

    agree: float = Field(default=0.6, gt=0, le=1)
    """Share of the solutions that must end alike where a problem has no check; that end then counts as right."""

    seconds: float = Field(default=10.0, gt=0)
    """Time a solution's code may take."""


class StepSettings(WorkedSettings):
    """What each step of a solution is worth: how often the writer, going on from there, ends right."""

    solutions: int = Field(default=2, ge=1)
    """Solutions of each problem whose steps are scored."""

    rollouts: int = Field(default=8, ge=1)
    """Ends drawn from behind each step."""

    margin: float = Field(default=0.3, gt=0, le=1)
    """Least difference of two steps behind the same beginning that makes a pair for a process reward model."""

    least: int = Field(default=4, ge=1)
    """Ends that must have been seen behind each step of a pair."""


class TreeSettings(WorkedSettings):
    """Monte Carlo tree search over steps, for problems that are rarely solved at once (§4.3.3)."""

    tries: int = Field(default=4, ge=1)
    """Solutions drawn at once to see whether a problem is hard."""

    hard_below: float = Field(default=0.5, gt=0, le=1)
    """Problems with a smaller share of right solutions are searched."""

    simulations: int = Field(default=32, ge=1)
    """Ends drawn in the search of one problem."""

    explore: float = Field(default=0.3, ge=0)
    """Weight of what was rarely tried against what went well (the constant of UCT)."""

    widen: float = Field(default=2.0, gt=0)
    """Ends are drawn from behind a step while these are fewer than this times the root of its visits."""

    compare: bool = False
    """Solve the same problems by drawing whole solutions as often, too, and report both."""
