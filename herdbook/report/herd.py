"""The herd as text: the table of all entries, one entry in full, and an entry's pedigree back to the raw pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from herdbook.book import Book, Entry, folder_name
from herdbook.metrics import Figure, figures, select, short
from herdbook.report.text import duration, local_time, table
from herdbook.settings import UserError
from herdbook.stages import KINDS, load

_FIGURES_SHOWN = 3


def herd(entries: list[Entry]) -> list[str]:
    """One line per entry: name, kind, when, how long, and the figures that say most about it."""
    rows = [
        (entry.name, entry.kind, local_time(entry.finished), duration(entry.seconds), _headline(entry))
        for entry in entries
    ]
    return table(("entry", "kind", "finished", "time", "figures"), rows, right=(3,))


def _headline(entry: Entry) -> str:
    kind = KINDS.get(entry.kind)
    found = [item for pattern in (kind.headline if kind else ()) for item in select(entry.metrics, pattern)]
    found = found or list(figures(entry.metrics))[:_FIGURES_SHOWN]
    return "  ".join(f"{name}={short(figure.value)}" for name, figure in found)


def one(entry: Entry, folder: str) -> list[str]:
    """Everything the book says about an entry."""
    lines = [
        f"{entry.name}: {entry.kind}, id {entry.id}",
        f"folder    {folder}",
        f"finished  {local_time(entry.finished)}, after {duration(entry.seconds)}"
        + (f" in {entry.attempts} attempts" if entry.attempts > 1 else ""),
        f"code      {entry.code}",
        f"machine   {_machine(entry.machine)}",
    ]
    if entry.energy:
        lines.append(f"energy    {short(entry.energy['joules'])} J ({entry.energy['source']})")
    for name, parents in entry.inputs.items():
        lines.append(f"from      {name}: {', '.join(folder_name(item.stage, item.id) for item in parents)}")
    for name, source in entry.sources.items():
        lines.append(f"source    {name}: {source.path} ({source.content[:12]})")
    given = dict(_flat(entry.given))
    for title, own in (("settings given", True), ("settings by default", False)):
        shown = [f"  {name} = {value}" for name, value in _flat(entry.settings) if (name in given) is own]
        lines += ["", title, *shown] if shown else []
    lines += [f"{name}: {text}" for name, text in _texts(entry.metrics)]
    found = list(figures(entry.metrics))
    if not found:
        return lines
    rows = [(name, short(one.value), one.interval, short(one.n) if one.n is not None else "") for name, one in found]
    return [*lines, "", *_grouped(table(("figure", "value", "95 % interval", "n"), rows, right=(1, 3)), found)]


def _texts(metrics: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """What metrics say in words, such as why a gate did not let a model pass."""
    for key, item in metrics.items() if isinstance(metrics, dict) else enumerate(metrics):
        if isinstance(item, (dict, list)):
            yield from _texts(item, f"{prefix}{key}.")
        elif isinstance(item, str):
            yield f"{prefix}{key}", item


def _grouped(lines: list[str], found: list[tuple[str, Figure]]) -> Iterator[str]:
    """A table of figures with a gap before and after those that lie together under one name."""
    yield from lines[:2]
    before = ""
    for line, (name, _) in zip(lines[2:], found, strict=True):
        group, dot, _ = name.partition(".")
        group = group if dot else ""
        if group != before:
            yield ""
        yield line
        before = group


def _machine(found: dict[str, Any]) -> str:
    parts = [
        str(found.get("processor", "?")),
        f"{found.get('cores', '?')} cores",
        f"{found.get('memory_gib', '?')} GiB",
    ]
    parts += [str(item) for item in found.get("gpus") or []]
    if found.get("torch"):
        parts.append(f"torch {found['torch']}")
    return ", ".join(parts)


def pedigree(entry: Entry, book: Book) -> list[str]:
    """The ancestors of an entry as a tree, with the settings their recipe gave; each is written out once."""
    lines = [_described(entry)]
    lines += _below(entry, book, "", {entry.id})
    return lines


def _described(entry: Entry) -> str:
    given = "  ".join(f"{name}={value}" for name, value in _flat(entry.given) if name not in entry.sources)
    return f"{entry.name}  {entry.kind}  {local_time(entry.finished)}  {given}".rstrip()


def _below(entry: Entry, book: Book, indent: str, shown: set[str]) -> Iterator[str]:
    branches: list[tuple[str, Any]] = [(name, parent) for name, parents in entry.inputs.items() for parent in parents]
    branches += [("source", source) for source in entry.sources.values()]
    for index, (name, branch) in enumerate(branches):
        last = index == len(branches) - 1
        stem, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if name == "source":
            yield f"{indent}{stem}source {branch.path} ({branch.content[:12]})"
            continue
        called = folder_name(branch.stage, branch.id)
        parent = book.find(branch.id)
        if branch.id in shown:
            yield f"{indent}{stem}{name}: {called} (above)"
        elif parent is None:
            yield f"{indent}{stem}{name}: {called} (no longer in this book)"
        else:
            shown.add(branch.id)
            yield f"{indent}{stem}{name}: {_described(parent)}"
            yield from _below(parent, book, indent + deeper, shown)


def why_lines(url: str, book: Book, name: str | None) -> list[str]:
    """What was measured of a page in one entry of documents, or in each that has read it."""
    giving = frozenset(kind.name for kind in KINDS.values() if kind.gives == "documents")
    if name is not None:
        looked = [book.resolve(name, "documents", giving)]
    else:
        looked = [entry for entry in reversed(book.entries()[0]) if entry.kind in giving]
    if not looked:
        raise UserError(f"{book.folder} has no entry that gives documents; run a recipe first, or name another book")
    lines, misses = [], []
    for entry in looked:
        try:
            found = load("herdbook.corpus.why:why")(book.folder_of(entry), url)
        except UserError as error:
            misses.append(error)
            continue
        for page in found:
            lines += [f"{entry.name}:", *page.lines()]
    if not lines:
        raise UserError("\n".join(map(str, misses)))
    return lines


def write_curation(name: str, book: Book, out: Path | None, funnel: Path | None) -> list[str]:
    """Write the page (and the funnel's picture) of an entry of documents; says where."""
    entry = book.resolve(
        name, "documents", frozenset(kind.name for kind in KINDS.values() if kind.gives == "documents")
    )
    target = out or Path(f"{entry.name}.html")
    for path in (target, funnel):
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.absolute().parent}; make it, or name another place")
    found = load("herdbook.report.curation:write_page")(book.folder_of(entry), target, f"Curation: {entry.name}")
    if funnel is not None:
        load("herdbook.report.curation:funnel_png")(found.funnel, funnel)
    return [f"written: {path}" for path in (target, funnel) if path is not None]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and short JSON; items of a list are counted, as in an override."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        holds = (isinstance(item, dict) and item) or (isinstance(item, list) and any(isinstance(x, dict) for x in item))
        if holds:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(item, ensure_ascii=False)
