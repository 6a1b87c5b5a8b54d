"""The table a person reads: one line per figure with its 95 % interval, aligned, and valid Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HEADER = ("task", "figure", "value", "95 % interval", "n")


def short(value: float) -> str:
    """A share or a small number with three decimals, a count with separators."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"


def lines(metrics: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """One line per figure of each task; what is nested deeper (subjects, a heat map's cells) is left to the JSON."""
    for task, figures in metrics.items():
        for name, figure in figures.items():
            if isinstance(figure, dict) and "value" in figure:
                interval = f"{short(figure['low'])} – {short(figure['high'])}"
                yield task, name.replace("_", " "), short(figure["value"]), interval, f"{figure['n']:,}"
            elif isinstance(figure, int | float):
                yield task, name.replace("_", " "), short(figure), "", ""


def heat_map(cells: dict[str, dict[str, Any]]) -> str:
    """Needle results as a table: a row per length, a column per depth."""
    depths = list(next(iter(cells.values())))
    header = ("length", *(f"{depth.removeprefix('depth_').replace('_', '.')} %" for depth in depths))
    rows = [
        (length.removeprefix("length_"), *(short(row[depth]["value"]) for depth in depths))
        for length, row in cells.items()
    ]
    return aligned([header, *rows])


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows as a Markdown table whose columns line up; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def results_table(metrics: dict[str, Any]) -> str:
    """All figures of an exam as one table, with the needle's heat map below it."""
    text = aligned([HEADER, *lines(metrics)])
    cells = metrics.get("needle", {}).get("cells")
    return f"{text}\n\nNeedle found, by length (tokens) and depth:\n\n{heat_map(cells)}\n" if cells else f"{text}\n"
