"""The `preferences` stage: preferences from files of any known form, checked and written in one form, each once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import xxhash

from herdbook.posttrain.preference_settings import PreferencesSettings
from herdbook.posttrain.preferences import CHOSEN, EDITED, REJECTED, STRENGTHS, Preference, read_preferences
from herdbook.posttrain.rows import write_rows
from herdbook.settings import UserError


def gather_preferences(settings: PreferencesSettings, out: Path) -> dict[str, Any]:
    """Write `out`/preferences/preferences.jsonl; returns how many there are, what was left out, and of each strength.

    UserError names the file and row of a bad one.
    """
    dropped: Counter[str] = Counter()
    strengths: Counter[str] = Counter()
    rows: dict[str, dict[str, Any]] = {}
    for path in settings.files:
        for one in read_preferences([path], STRENGTHS, dropped):
            row = row_of(one)
            mark = xxhash.xxh3_128_hexdigest(repr(row).encode())[:16]
            if mark in rows:
                dropped["repeated"] += 1
                continue
            rows[mark] = {"id": mark, "source": path.name, **row}
            strengths[one.strength or "not told"] += 1
    if not rows:
        raise UserError("the preferences stage found no preferences that say anything in its files")
    write_rows(out / "preferences" / "preferences.jsonl", rows.values())
    return {"preferences": len(rows), "dropped": dict(sorted(dropped.items())), "strengths": dict(strengths)}


def row_of(one: Preference) -> dict[str, Any]:
    """A preference as a row of ours, which TRL reads too."""
    answers = dict(zip(one.ranks, one.answers, strict=True))
    told: dict[str, Any] = {"strength": one.strength, "task": one.task, "round": one.round}
    told |= {"tools": list(one.tools)} if one.tools else {}
    if len(answers) == 1:
        return {"prompt": one.prompt, "completion": one.answers[0], "label": CHOSEN in answers, **told}
    sides = {"chosen": answers[CHOSEN], "rejected": answers[REJECTED], "edited": answers.get(EDITED)}
    return {"prompt": one.prompt, **sides, **told}
