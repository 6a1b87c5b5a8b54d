"""What stands at the end of a run: each aim beside its measured figure, the time of each stage, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from herdbook import aims
from herdbook.book import Book, Entry
from herdbook.metrics import short
from herdbook.report.text import command, duration, table
from herdbook.run import Task
from herdbook.stages import KINDS

STYLES = {"reached": "green", "not reached": "red", "not measured": "yellow"}


def summary(wanted: Iterable[aims.Aim], entries: dict[str, Entry], next_step: str) -> list[str]:
    """The closing lines of a run over `entries` (stage name → entry)."""
    lines = ["", *_stages(entries)]
    measured = {name: entry.metrics for name, entry in entries.items()}
    judged = [item for aim in wanted for item in aims.judge(aim, measured)]
    if judged:
        lines += ["", *_aims(judged)]
    return [*lines, "", next_step] if next_step else lines


def _stages(entries: dict[str, Entry]) -> list[str]:
    rows = [
        (name, entry.kind, entry.name, duration(entry.seconds), _energy([entry])) for name, entry in entries.items()
    ]
    total = sum(entry.seconds for entry in entries.values())
    rows.append(("total", "", "", duration(total), _energy(entries.values())))
    return table(("stage", "kind", "entry", "time", "energy"), rows, right=(3, 4))


def _energy(entries: Iterable[Entry]) -> str:
    """Watt hours; `≈` where any of it is an estimate."""
    used = [entry.energy for entry in entries if entry.energy]
    joules = sum(float(item["joules"]) for item in used)
    estimated = any("estimate" in str(item.get("source")) for item in used)
    return f"{'≈ ' if estimated else ''}{joules / 3600:.2g} Wh" if used else ""


def _aims(judged: list[aims.Judged]) -> list[str]:
    words = {True: "reached", False: "not reached", None: "not measured"}
    rows = []
    for item in judged:
        value = short(item.figure.value) if item.figure else ""
        interval = item.figure.interval if item.figure else ""
        rows.append((item.name, value, interval, item.aim, words[item.reached]))
    reached = sum(item.reached is True for item in judged)
    head = f"{reached} of {len(judged)} aims reached"
    return [*table(("figure", "measured", "95 % interval", "aim", ""), rows, right=(1,)), head]


def plan_table(tasks: Iterable[Task], book: Book) -> list[str]:
    """What a run would do with each stage."""
    unfinished = set(book.unfinished())
    rows = []
    for task in tasks:
        begun = task.kind.resumes and book.workplace(task.kind.name, task.id).name in unfinished
        found = book.find(task.id)
        words = f"in the book as {found.name}" if found else "to be continued" if begun else "to be run"
        rows.append((task.stage, task.kind.name, task.name, words))
    return table(("stage", "kind", "entry", ""), rows)


def next_step(book: Book, entries: dict[str, Entry], named_book: bool) -> str:
    """What to do with what was raised: talk to the last model, or look at the last entry."""
    if not entries:
        return ""
    last = list(entries.values())[-1]
    models = [entry for entry in entries.values() if (kind := KINDS.get(entry.kind)) and kind.gives == "model"]
    chosen = models[-1] if models else last
    alone = sum(entry.stage == chosen.stage for entry in book.entries()[0]) == 1
    words = [command(), "chat" if models else "show", chosen.stage if alone else chosen.name]
    words += ["--book", str(book.folder)] if named_book else []
    return f"{'talk to it' if models else 'look at it'}: {shlex.join(words)}"
