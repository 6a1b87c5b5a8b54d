"""The `dialogs` stage: dialogs from files of any known form, from requests whose ideal answer is known, and from
preferences, whose better answer is one to learn (§4.2).

Every row is read and checked here once; what comes out is in one form, in the order of the sources, each dialog once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from herdbook.posttrain.dialogs import Dialog, read_dialog
from herdbook.posttrain.preferences import CHOSEN, EDITED, Preference, read_preferences
from herdbook.posttrain.rows import read_rows, write_rows
from herdbook.posttrain.settings import DialogsSettings
from herdbook.settings import UserError


def gather(
    settings: DialogsSettings, requests: list[Path] | None, preferences: list[Path] | None, out: Path
) -> dict[str, Any]:
    """Write `out`/dialogs/dialogs.jsonl; returns how many dialogs there are, how many were repeats, and of each task.

    `requests` are folders with `train.jsonl`, `preferences` those of entries. UserError names the file and row of a
    bad dialog.
    """
    tasks: Counter[str] = Counter()
    seen: set[str] = set()
    repeated = 0
    rows = []
    for dialog in _all(settings, requests or [], preferences or []):
        mark = xxhash.xxh3_128_hexdigest(repr((dialog.messages, dialog.tools)).encode())
        if mark in seen:
            repeated += 1
            continue
        seen.add(mark)
        row = {"id": mark[:16], **dialog.row}
        tasks[str(row.get("task") or "other")] += 1
        rows.append(row)
    if not rows:
        raise UserError(
            "the dialogs stage found no dialogs: no request has a reference, no preference is strong enough, or tasks "
            "leaves all out"
        )
    write_rows(out / "dialogs" / "dialogs.jsonl", rows)
    return {"dialogs": len(rows), "repeated": repeated, "tasks": dict(sorted(tasks.items()))}


def _all(settings: DialogsSettings, requests: list[Path], preferences: list[Path]) -> Iterator[Dialog]:
    for folder in requests:
        answered = (row for row in read_rows(folder / "train.jsonl") if row[1].get("reference") is not None)
        for where, row in islice(_wanted(answered, settings), settings.limit):
            yield read_dialog(answered_request(row), where)
    for folder in preferences:
        rows = ((one.where, row) for one in read_preferences([folder], settings.strengths) for row in _chosen(one))
        for where, row in islice(_wanted(rows, settings), settings.limit):
            yield read_dialog(row, where)
    for path in settings.files:
        for where, row in islice(_wanted(read_rows(path, "dialogs"), settings), settings.limit):
            yield read_dialog({"source": path.name, **row}, where)


def _wanted(rows: Iterator[tuple[str, dict[str, Any]]], settings: DialogsSettings) -> Iterator[tuple[str, Any]]:
    return (item for item in rows if settings.tasks is None or item[1].get("task") in settings.tasks)


def answered_request(row: dict[str, Any]) -> dict[str, Any]:
    """A request with its ideal answer as a dialog's row."""
    kept = {key: row[key] for key in ("id", "task", "tools", "difficulty") if row.get(key) is not None}
    answer = {"role": "assistant", "content": row["reference"]}
    return {**kept, "source": "reference", "messages": [*row["messages"], answer]}


def _chosen(one: Preference) -> Iterator[dict[str, Any]]:
    """The best answer to a preference's prompt as a dialog's row; nothing where the only answer is a rejected one."""
    if one.ranks[0] not in (CHOSEN, EDITED):
        return
    told: dict[str, Any] = {"task": one.task, "source": "edited" if one.ranks[0] == EDITED else "chosen"}
    yield {**told, **({"tools": list(one.tools)} if one.tools else {}), "messages": [*one.prompt, *one.answers[0]]}
