"""Why a page was kept or dropped: what was measured, and what each rule made of it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from herdbook.corpus.rules import Rule
from herdbook.corpus.urls import canonical
from herdbook.files import read_json
from herdbook.settings import UserError


@dataclass
class Check:
    """One rule held against one page."""

    rule: str
    column: str
    value: float | None
    threshold: float
    side: str
    """`above` or `below`: where the rule drops."""
    verdict: str
    """`passed`, `dropped`, or `not reached` when an earlier rule had dropped the page."""


@dataclass
class Why:
    """One page as curation saw it. A URL read several times gives one of these each time."""

    url: str
    id: str
    dropped_by: str | None
    duplicate_of: str | None
    """Address of the document that stayed in its place."""
    measurements: dict[str, Any]
    checks: list[Check] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The answer as lines to print."""
        said = [f"{self.url}", f"  {'dropped by ' + self.dropped_by if self.dropped_by else 'kept'}"]
        if self.duplicate_of:
            said.append(f"  in its place: {self.duplicate_of}")
        for check in self.checks:
            value = "-" if check.value is None else f"{check.value:.4g}"
            drops = f"drops {'>' if check.side == 'above' else '<'} {check.threshold:g}"
            said.append(f"  {check.verdict:<11} {check.rule:<18} {check.column} = {value} ({drops})")
        for name, measured in self.measurements.items():
            said.append(f"  {name} = {measured:.4g}" if isinstance(measured, float) else f"  {name} = {measured}")
        return said


def why(documents_entry: Path, url: str) -> list[Why]:
    """What was measured of a page and which rule dropped it, for every time it was read.

    `documents_entry` is the folder of a curate stage. Raises UserError for an address never read, naming the nearest.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    files = sorted((documents_entry / "measurements").glob("*.parquet"))
    if not files:
        raise UserError(f"{documents_entry}: no measurements here; name the entry of a curate stage")
    table = pa.concat_tables([pq.read_table(file) for file in files], promote_options="permissive")
    urls = table["url"].to_pylist()
    wanted = canonical(url)
    rows = [i for i, u in enumerate(urls) if u == url] or [i for i, u in enumerate(urls) if canonical(u) == wanted]
    if not rows:
        raise _unknown(documents_entry, url, urls)
    rules = [Rule(**rule) for rule in read_json(documents_entry / "rules.json")]
    found = []
    for row in table.take(pa.array(rows)).to_pylist():
        other = None
        if row.get("duplicate_of") and row["dropped_by"]:
            place = pc.index(table["id"], row["duplicate_of"]).as_py()
            other = urls[place] if place >= 0 else row["duplicate_of"]
        named = ("url", "id", "dropped_by", "duplicate_of")
        values = {name: value for name, value in row.items() if name not in named and value is not None}
        found.append(Why(row["url"], row["id"], row["dropped_by"], other, values, _checks(row, rules)))
    return found


def _checks(row: dict[str, Any], rules: list[Rule]) -> list[Check]:
    checks, over = [], False
    for rule in rules:
        value = row.get(rule.column)
        number = None if value is None else float(value)
        beyond = number is not None and (number > rule.threshold if rule.above is not None else number < rule.threshold)
        verdict = "not reached" if over else "dropped" if beyond and row["dropped_by"] == rule.name else "passed"
        over = over or verdict == "dropped"
        side = "above" if rule.above is not None else "below"
        checks.append(Check(rule.name, rule.column, number, rule.threshold, side, verdict))
    return checks


def _unknown(entry: Path, url: str, urls: list[str]) -> UserError:
    import json

    quarantine = entry / "quarantine.jsonl"
    if quarantine.is_file():
        for line in quarantine.read_text(encoding="utf-8").splitlines():
            loss = json.loads(line)
            if loss.get("url") == url:
                return UserError(f"{url} is in quarantine: {loss['reason']} ({loss['file']}, offset {loss['offset']})")
    near = difflib.get_close_matches(url, list(dict.fromkeys(urls))[:20000], 3, 0.4)
    hint = "; the nearest are " + ", ".join(near) if near else ""
    return UserError(f"{url}: no such page was read into {entry}{hint}")
