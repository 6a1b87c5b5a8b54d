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

STYLES = {
    "reached": "green",
    "not reached": "red",
    "not measured": "yellow",
    ": holds": "bold green",
    ": does not hold": "bold red",
}


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


_WORDS = {True: "reached", False: "not reached", None: "not measured"}


def _aims(judged: list[aims.Judged]) -> list[str]:
    """Each aim beside what was measured; those of one claim stand together below it, where claims are told."""
    claims: dict[str, list[aims.Judged]] = {}
    for item in judged:
        claims.setdefault(item.claim, []).append(item)
    told = any(claims)
    rows = [_row(item, "  " if told else "") for items in claims.values() for item in items]
    lines = table(("figure", "measured", "95 % interval", "n", "aim", ""), rows, right=(1, 3))
    reached = sum(item.reached is True for item in judged)
    head = f"{reached} of {len(judged)} aims reached"
    if not told:
        return [*lines, head]
    found, left = lines[:2], iter(lines[2:])
    for claim, items in claims.items():
        found += ["", f"{claim}: {_verdict(items)}" if claim else "further aims"]
        found += [next(left) for _ in items]
    held = sum(_verdict(items) == "holds" for claim, items in claims.items() if claim)
    return [*found, "", f"{head}; {held} of {sum(map(bool, claims))} claims hold"]


def _row(item: aims.Judged, indent: str) -> tuple[str, ...]:
    figure = item.figure
    value, interval = (short(figure.value), figure.interval) if figure else ("", "")
    count = short(figure.n) if figure and figure.n is not None else ""
    return f"{indent}{item.name}", value, interval, count, item.aim, _WORDS[item.reached]


def _verdict(items: Iterable[aims.Judged]) -> str:
    """What becomes of a claim: it holds where all its aims are reached."""
    reached = [item.reached for item in items]
    return "does not hold" if False in reached else "not measured" if None in reached else "holds"


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


def _ancestors(entry: Entry, entries: dict[str, Entry]) -> set[str]:
    """Ids of all entries of a run that one stands on."""
    by_id, found, left = {item.id: item for item in entries.values()}, set[str](), [entry]
    while left:
        for parent in (item.id for parents in left.pop().inputs.values() for item in parents):
            if parent in by_id and parent not in found:
                found.add(parent)
                left.append(by_id[parent])
    return found


def next_step(book: Book, entries: dict[str, Entry], named_book: bool) -> str:
    """What to do with what was raised: talk to the model that most stages led to, or look at the last entry."""
    if not entries:
        return ""
    last = list(entries.values())[-1]
    models = [entry for entry in entries.values() if (kind := KINDS.get(entry.kind)) and kind.gives == "model"]
    chosen = max(reversed(models), key=lambda entry: len(_ancestors(entry, entries)), default=last)
    alone = sum(entry.stage == chosen.stage for entry in book.entries()[0]) == 1
    words = [command(), "chat" if models else "show", chosen.stage if alone else chosen.name]
    words += ["--book", str(book.folder)] if named_book else []
    return f"{'talk to it' if models else 'look at it'}: {shlex.join(words)}"
