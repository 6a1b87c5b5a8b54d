"""What became of every page of the world in a curation, and which decisions were right.

A duplicate cluster is an article and its copies. A page is *rightly kept* when truth says keep, or when it is the
only member of its cluster that was kept. A page is *rightly dropped* when truth says so, or when another member of
its cluster was kept.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from herdbook.settings import UserError
from herdbook.world.defects import EXPECTED


@dataclass
class Fate:
    """One page of the world: the truth about it and what curation made of it."""

    truth: dict[str, Any]
    kept: bool = False
    measured: bool = False
    dropped_by: str = ""
    text: str = ""
    language: str = ""
    cluster: list[Fate] = field(default_factory=list)  # itself and its duplicates; empty where it has none

    @property
    def defect(self) -> str:
        """Kind of defect, empty for none."""
        return str(self.truth["defect"])

    @property
    def survivors(self) -> int:
        """Kept members of the cluster."""
        return sum(page.kept for page in self.cluster)

    @property
    def rightly_kept(self) -> bool:
        """Kept, and no harm in it."""
        if not self.kept:
            return False
        if self.cluster and self.survivors > 1:
            return bool(self.truth["keep"])  # the copy is one too many, not the original
        return EXPECTED[self.defect] in ("kept", "deduplicated")

    @property
    def rightly_dropped(self) -> bool:
        """Not kept, and nothing lost by it."""
        if self.kept:
            return False
        return self.survivors > 0 if self.cluster else not self.truth["keep"]


def _rows(folder: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of all Parquet files of a folder, with those of `columns` that are there."""
    import pyarrow.parquet as pq

    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"audit: no *.parquet in {folder}; it needs the entry of a curate stage")
    rows: list[dict[str, Any]] = []
    for file in files:
        there = set(pq.read_schema(file).names)
        rows += pq.read_table(file, columns=[name for name in columns if name in there]).to_pylist()
    return rows


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return str(row.get("url") or ""), str(row.get("date") or "")[:19]


class Ledger:
    """Every page of the world with its fate, and what curation holds that the world does not know."""

    def __init__(self, world: Path, documents: Path) -> None:
        import pyarrow.parquet as pq

        truth = world / "truth.parquet"
        if not truth.is_file():
            raise UserError(f"audit: {truth} is missing; `world` must be the entry of a world stage")
        self.fates = [Fate(row) for row in pq.read_table(truth).to_pylist()]
        self._index()
        self.unknown = 0
        for row in _rows(documents / "measurements", ("record_id", "url", "date", "dropped_by")):
            if fate := self._find(row):
                fate.measured, fate.dropped_by = True, row.get("dropped_by") or ""
        for row in _rows(documents / "documents", ("record_id", "url", "date", "text", "language")):
            if fate := self._find(row):
                fate.kept = fate.measured = True
                fate.text, fate.language = row.get("text") or "", row.get("language") or ""
            else:
                self.unknown += 1
        self.quarantine = _lines(documents / "quarantine.jsonl")

    def _index(self) -> None:
        self.by_record = {fate.truth["record_id"]: fate for fate in self.fates}
        self.by_key = {_key(fate.truth): fate for fate in self.fates}
        # Where a curation keeps no date, an address means its latest visit.
        self.by_url: dict[str, Fate] = {}
        for fate in sorted(self.fates, key=lambda fate: fate.truth["date"]):
            self.by_url[fate.truth["url"]] = fate
        clusters: dict[str, list[Fate]] = defaultdict(list)
        for fate in self.fates:
            if original := fate.truth["duplicate_of"]:
                members = clusters[original]
                members += [self.by_record[original]] * (not members) + [fate]
        for members in clusters.values():
            for fate in members:
                fate.cluster = members

    def _find(self, row: dict[str, Any]) -> Fate | None:
        if (record := row.get("record_id")) in self.by_record:
            return self.by_record[record]
        found = self.by_key.get(_key(row))
        return found if found or row.get("date") else self.by_url.get(str(row.get("url") or ""))

    def quarantined(self) -> tuple[int, int]:
        """(truncated records that quarantine counts, all lines of quarantine).

        A line is matched by its URL; lines without one are taken for truncated records as long as some are left over.
        """
        broken = {fate.truth["url"] for fate in self.fates if fate.defect == "truncated_record" and not fate.kept}
        named = {line["url"] for line in self.quarantine if line.get("url")} & broken
        nameless = sum(not line.get("url") for line in self.quarantine)
        return len(named) + min(nameless, len(broken) - len(named)), len(self.quarantine)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
