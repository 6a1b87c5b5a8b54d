"""Tables as plain text: the same on a terminal and in a file, aligned, with colour only where there is a terminal."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from herdbook import console


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Aligned lines; the columns in `right` stand against their right edge, and the last column is not padded."""
    cells = [list(map(str, row)) for row in (headings, *rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headings))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(padded).rstrip())
    return [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]


def show(lines: Sequence[str], styles: dict[str, str] | None = None) -> None:
    """Print lines to standard output; on a terminal the words in `styles` get their colours."""
    for line in lines:
        text = Text(line)
        for word, style in (styles or {}).items():
            text.highlight_words([word], style)
        console.out.print(text)


def command() -> str:
    """What to type for `herdbook` here: its path from the current folder where the shell would not find it."""
    called = Path(sys.argv[0])
    if called.name != "herdbook" or shutil.which("herdbook"):
        return "herdbook"
    return os.path.relpath(called)


def duration(seconds: float) -> str:
    """A time as a reader says it: `45 s`, `4 min 10 s`, `3 h 5 min`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def local_time(stamp: str) -> str:
    """An entry's time (ISO 8601, UTC) in the reader's own zone, to the minute."""
    return datetime.datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M")
