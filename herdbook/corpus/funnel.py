"""What came in, what each rule took away, what is left: as rows, as a table to read, and as figures.

Always: documents in = kept + dropped by rules + quarantined.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from rich.table import Table

from herdbook.corpus.measured import Codes
from herdbook.corpus.rules import LINE_RULE


def funnel_rows(
    decision: Any, characters: np.ndarray, quarantined: int, written: dict[str, int]
) -> list[dict[str, Any]]:
    """One row per rule name in order, documents and characters dropped and left; before them what was read."""
    names = list(dict.fromkeys(rule.name for rule in decision.rules))
    total, chars = len(characters), int(characters.sum())
    rows = [_row("read", 0, total + quarantined, 0, chars), _row("quarantine", quarantined, total, 0, chars)]
    owner = np.array([names.index(rule.name) for rule in decision.rules] or [0])
    of = np.where(decision.dropped >= 0, owner[decision.dropped], -1)
    left = total
    for index, name in enumerate(names):
        gone = of == index
        lost = int(characters[gone].sum())
        if name == LINE_RULE:
            lost = chars - written["kept_characters"]
        left, chars = left - int(gone.sum()), chars - lost
        rows.append(_row(name, int(gone.sum()), left, lost, chars))
    return rows


def _row(rule: str, dropped: int, left: int, lost: int, characters: int) -> dict[str, Any]:
    return {"rule": rule, "dropped": dropped, "left": left, "dropped_characters": lost, "left_characters": characters}


def funnel_table(rows: list[dict[str, Any]], skipped: Counter[str]) -> Table:
    """The funnel for a terminal."""
    note = ", ".join(f"{reason} {count:,}" for reason, count in skipped.most_common(6))
    table = Table(title="What each rule kept", caption=f"passed over as no pages: {note}" if note else None)
    for name in ("rule", "dropped", "left", "share of read", "characters left"):
        table.add_column(name, justify="left" if name == "rule" else "right")
    read = max(rows[0]["left"], 1)
    for row in rows:
        share = f"{row['left'] / read:.1%}"
        table.add_row(row["rule"], f"{row['dropped']:,}", f"{row['left']:,}", share, f"{row['left_characters']:,}")
    return table


def metrics(
    rows: list[dict[str, Any]], skipped: Counter[str], languages: Codes, decision: Any, written: dict[str, int]
) -> dict[str, Any]:
    """The figures a stage reports: documents, characters, drops per rule, kept documents per language."""
    kept = decision.dropped < 0
    per_language = Counter(dict(zip(languages.names, languages.counts(kept).tolist())))
    return {
        "documents": {
            "read": rows[0]["left"],
            "kept": int(kept.sum()),
            "dropped": int((~kept).sum()),
            "quarantined": rows[1]["dropped"],
            "passed_over": sum(skipped.values()),
        },
        "characters": {"read": rows[0]["left_characters"], "kept": written["kept_characters"]},
        "lines_removed": written["lines_removed"],
        "dropped": {row["rule"]: row["dropped"] for row in rows[2:]},
        "languages": {name: count for name, count in per_language.most_common(20) if count},
    }
