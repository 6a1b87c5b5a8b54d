"""The mix of dialogs that a model is fine-tuned on: groups, their shares, how often a dialog is taken (§4.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from herdbook.corpus.allot import Cells, share_out
from herdbook.posttrain.likeness import worth
from herdbook.posttrain.select_settings import SftGroup, SftMatch, SftMixSettings
from herdbook.posttrain.shown import Row
from herdbook.tokens.texts import draw


def set_mix(rows: Sequence[Row], settings: SftMixSettings, seed: int) -> dict[str, Any]:
    """Give each row its `group` (empty: none) and `copies`; returns the wanted and the reached shares."""
    members: list[list[Row]] = [[] for _ in settings.groups]
    for row in rows:
        row["group"], row["copies"] = "", 0
        place = next((at for at, group in enumerate(settings.groups) if belongs(row, group)), None)
        if place is not None:
            row["group"] = settings.groups[place].name
            members[place].append(row)
    limits = [group.epochs or settings.epochs for group in settings.groups]
    cells = [
        Cells(np.array([float(len(some))]), np.array([limit]), np.ones(1), np.array([-1]))
        for some, limit in zip(members, limits)
    ]
    total = float(settings.size or sum(map(len, members)))
    shares = np.array([group.share for group in settings.groups])
    epochs = share_out(cells, shares, total, None, settings.short) if total else [np.zeros(1)] * len(cells)
    for some, (often,) in zip(members, epochs):
        _take(some, float(often), settings.prefer, seed)
    taken = sum(row["copies"] for row in rows)
    figures = {}
    for group, some, share in zip(settings.groups, members, shares / shares.sum()):
        got = sum(row["copies"] for row in some)
        figures[group.name] = {
            "wanted": round(float(share), 4),
            "reached": round(got / max(taken, 1), 4),
            "there": len(some),
            "taken": got,
            "epochs": round(got / len(some), 3) if some else 0.0,
        }
    return figures


def belongs(row: Row, group: SftGroup) -> bool:
    """Whether a group takes this row, whatever other groups do."""
    return not group.match or any(_holds(row, match) for match in group.match)


def _holds(row: Row, match: SftMatch) -> bool:
    language = str(row.get("language") or "")
    return (
        (not match.topics or row.get("topic") in match.topics)
        and (not match.tasks or row.get("task") in match.tasks)
        and (not match.languages or language in match.languages)
        and (not match.languages_except or (bool(language) and language not in match.languages_except))
        and (not match.stages or row.get("stage") in match.stages)
    )


def _take(rows: list[Row], epochs: float, prefer: str, seed: int) -> None:
    """Take each row as often as the whole part of `epochs` says, and the first ones once more."""
    whole = int(epochs + 1e-9)
    once_more = round((epochs - whole) * len(rows))
    chance = {row["id"]: draw(row["id"], f"sft-mix-{seed}") for row in rows}
    order = sorted(rows, key=lambda row: (-worth(row) if prefer == "best" else 0.0, chance[row["id"]], row["id"]))
    for place, row in enumerate(order):
        row["copies"] = whole + (place < once_more)
