"""One grammar for log lines (`event key=value …`) and one way to show progress.

On a terminal progress is a bar with rate and time left; elsewhere it is a log line every few seconds,
so a log file of a long run stays readable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)
LINE_SECONDS = 10.0


def format_value(value: Any) -> str:
    """A value as it stands in a log line: four significant digits, quoted when it holds spaces."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return f'"{text}"' if " " in text else text


def log(event: str, **fields: Any) -> None:
    """Print one log line to standard error."""
    words = " ".join(f"{key}={format_value(value)}" for key, value in fields.items())
    err.print(f"{event} {words}".rstrip(), markup=False)


class Tracker:
    """Progress of one long step; `advance` it as work is done and `note` what is worth showing."""

    def __init__(self, label: str, total: float | None, unit: str, bar: Progress | None) -> None:
        self.label, self.total, self.unit, self.bar = label, total, unit, bar
        self.done, self.notes = 0.0, ""
        self.start = self.last_line = time.monotonic()
        self.task = bar.add_task(label, total=total, unit=unit, rate="", notes="") if bar else None

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units as done."""
        self.done += amount
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=self.done, rate=f"{rate:,.0f} {self.unit}/s", notes=self.notes)
        elif time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            left = f"{(self.total - self.done) / rate:.0f}" if self.total and rate else "?"
            shown = f"{self.done:,.0f}" + (f"/{self.total:,.0f}" if self.total else "")
            err.print(
                f"{self.label} {self.unit}={shown} rate={rate:,.1f}/s seconds_left={left} {self.notes}".rstrip(),
                markup=False,
            )

    def note(self, **fields: Any) -> None:
        """Show these values beside the bar (and in the next log line)."""
        self.notes = " ".join(f"{key}={format_value(value)}" for key, value in fields.items())


@contextmanager
def progress(label: str, total: float | None = None, unit: str = "items") -> Iterator[Tracker]:
    """Show the progress of a long step while the block runs."""
    if not sys.stderr.isatty():
        yield Tracker(label, total, unit, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[notes]}"),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        yield Tracker(label, total, unit, bar)
