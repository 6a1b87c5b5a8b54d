"""What was measured before is not measured again: in the folder itself, or in another entry of the same book.

A changed threshold makes a new entry. Its measured shards are those of an older entry that read the same input in the
same way, linked and not copied; so are what was found between documents and the files that were written, of which
deciding then renews what comes out otherwise.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from herdbook import console
from herdbook.corpus.read import Shard
from herdbook.corpus.settings import MeasureSettings
from herdbook.files import read_json, write_json
from herdbook.settings import Settings

PLAN = "plan.json"
TAKEN = (".decided", "documents", "measurements", "measured")
"""Folders of an entry that hold files which are replaced and never changed."""


def prepare(out: Path, shards: list[Shard], settings: MeasureSettings) -> None:
    """Keep what `out` holds if it was measured from the same input in the same way, else begin with what is like it."""
    from herdbook.corpus.measure import VERSION

    wanted = {"version": VERSION, "measure": settings.model_dump(mode="json"), "shards": [s.as_json() for s in shards]}
    wanted["files"] = stamps(settings)
    folder = out / "measured"
    if not _is_plan(folder / PLAN, wanted):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for other in _others(out):
            if _is_plan(other / "measured" / PLAN, wanted):
                _take(other, out)
                break
        write_json(folder / PLAN, wanted)
    for left in folder.glob(".*"):
        left.unlink()


def stamps(settings: Settings) -> list[list[Any]]:
    """Size and change time of every file that the paths among the settings name, so that other contents are seen."""
    found: list[list[Any]] = []
    left: list[Any] = [settings.model_dump()]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value
        elif isinstance(value, Path):
            for file in sorted(value.rglob("*")) if value.is_dir() else [value]:
                if file.is_file():
                    state = file.stat()
                    found.append([str(file), state.st_size, state.st_mtime_ns])
    return sorted(found)


def _is_plan(path: Path, wanted: dict[str, Any]) -> bool:
    return path.is_file() and read_json(path) == wanted


def _others(out: Path) -> Iterator[Path]:
    """The entries of the book that `out` is worked on in."""
    book = out.absolute().parent.parent
    if out.absolute().parent.name == ".work":
        found = [plan.parent.parent for plan in book.glob(f"*/measured/{PLAN}")]
        yield from sorted(found, key=lambda entry: entry.stat().st_mtime, reverse=True)


def _take(other: Path, out: Path) -> None:
    """Link an entry's folders into another. The plan file is the caller's, and last: half is never taken for all."""
    try:
        for name in TAKEN:
            for source in sorted((other / name).rglob("*")):
                target = out / source.relative_to(other)
                if source.is_dir() or source.name == PLAN:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                _link(source, target)
    except OSError as error:  # removed meanwhile: what is missing is measured
        console.log("not_taken", entry=other.name, error=error)
        return
    console.log("measured_before", entry=other.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
