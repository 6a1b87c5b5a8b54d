"""Phases of a run (§3.4): batch size, length and mix change at set places, all as pure functions of the step.

A phase begins at the first step before which at least `after_tokens` tokens (or `after_steps` steps) lie behind, and
keeps what it does not name from the phase before. Tokens are those of the rows, padding included, so every border
has a closed form and a resumed run finds itself in the right phase without any state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from herdbook.settings import UserError

if TYPE_CHECKING:
    from herdbook.train.settings import TrainSettings


@dataclass(frozen=True)
class Part:
    """The steps of a run between two borders."""

    first: int
    """Its first step."""

    first_micro: int
    """Number of its first micro-batch, counted over the run."""

    tokens_before: int
    """Tokens of all rows before it."""

    rows: int
    """Rows of one micro-batch."""

    length: int
    """Tokens of one row."""

    accumulate: int
    """Micro-batches of one step."""

    mix: dict[str, float] | None = None
    """Share of the rows from each token set; None for the run's own."""

    @property
    def step_tokens(self) -> int:
        """Tokens of the rows of one step."""
        return self.rows * self.length * self.accumulate


class Plan:
    """All parts of a run, in order, and how many steps it has."""

    def __init__(self, parts: list[Part], total_steps: int) -> None:
        self.parts, self.total_steps = parts, total_steps
        self.starts = [part.first for part in parts]

    @classmethod
    def of(cls, settings: TrainSettings) -> Plan:
        """The plan of a run; `UserError` names a phase that begins before the one above it, or after the end."""
        parts = list(_parts(settings))
        last = parts[-1]
        if settings.steps is not None:
            total = settings.steps
        else:
            assert settings.tokens is not None
            total = last.first + -(-max(0, settings.tokens - last.tokens_before) // last.step_tokens)
        if len(parts) > 1 and last.first >= total:
            raise UserError(
                f"phases: the last one begins at step {last.first} ({last.tokens_before:,} tokens), but the run ends "
                f"after {total} steps; lengthen the run or leave the phase out"
            )
        return cls(parts, total)

    def at(self, step: int) -> Part:
        """The part that a step belongs to."""
        return self.parts[bisect_right(self.starts, step) - 1]

    def micro(self, step: int) -> int:
        """The number of a step's first micro-batch."""
        part = self.at(step)
        return part.first_micro + (step - part.first) * part.accumulate

    def tokens(self, step: int) -> int:
        """Tokens of all rows before a step."""
        part = self.at(step)
        return part.tokens_before + (step - part.first) * part.step_tokens

    def runs(self) -> list[list[Part]]:
        """The parts, grouped where neighbours have rows of one length."""
        groups: list[list[Part]] = []
        for part in self.parts:
            if groups and groups[-1][0].length == part.length:
                groups[-1].append(part)
            else:
                groups.append([part])
        return groups


def _parts(settings: TrainSettings) -> Iterator[Part]:
    part = Part(0, 0, 0, settings.rows, settings.length, settings.accumulate, getattr(settings, "mix", None))
    for number, phase in enumerate(settings.phases):
        if phase.after_steps is not None:
            steps = phase.after_steps - part.first
        else:
            assert phase.after_tokens is not None
            steps = -(-(phase.after_tokens - part.tokens_before) // part.step_tokens)
        if steps <= 0:
            raise UserError(
                f"phases: number {number + 1} begins no later than the one before it, which begins at step "
                f"{part.first} ({part.tokens_before:,} tokens); write them in order, at least one step apart"
            )
        yield part
        changes = {key: getattr(phase, key) for key in ("rows", "length", "accumulate", "mix")}
        part = replace(
            part,
            first=part.first + steps,
            first_micro=part.first_micro + steps * part.accumulate,
            tokens_before=part.tokens_before + steps * part.step_tokens,
            **{key: value for key, value in changes.items() if value is not None},
        )
    yield part
