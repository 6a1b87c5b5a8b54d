"""Why a page was kept or dropped: what was measured, what each rule made of it, and what became of its lines.

The answer is worked out from what deciding left on disk, shard by shard. A page's own words are hostile until
`printable` has made their control characters visible: a terminal obeys some of them.
"""

from __future__ import annotations

import difflib
import heapq
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from herdbook.corpus.lines import sites
from herdbook.corpus.measured import lists
from herdbook.corpus.rules import LINE_RULE, Rule
from herdbook.corpus.settings import DuplicateSettings
from herdbook.corpus.urls import canonical
from herdbook.files import read_json
from herdbook.settings import UserError

NEAREST = 500
"""Addresses with the longest common beginning among which the nearest are looked for."""
HOPS = 50
"""Most duplicates followed to the document that stayed."""
LINE_SHOWN = 100
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def printable(text: str, keep: str = "") -> str:
    """Text with its control, direction and half characters spelled out, but for those to keep."""
    return CONTROL.sub(lambda hit: hit[0] if hit[0] in keep else f"\\u{ord(hit[0]):04x}", text)


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
class Removed:
    """A line taken out of a page."""

    text: str
    documents: int
    """Documents of its language it stood in when lines were counted."""


@dataclass
class Why:
    """One page as curation saw it. A URL read several times gives one of these each time."""

    url: str
    id: str
    dropped_by: str | None
    duplicate_of: str | None
    """Address of the document for which it was dropped."""
    measurements: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    stayed: str | None = None
    """What became of that document, where it did not stay itself."""
    removed: list[Removed] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The answer as lines to print."""
        said = [printable(self.url), f"  {'dropped by ' + self.dropped_by if self.dropped_by else 'kept'}"]
        if self.duplicate_of:
            said.append(f"  in its place: {printable(self.duplicate_of)}{printable(self.stayed or '')}")
        for check in self.checks:
            value = "-" if check.value is None else f"{check.value:.4g}"
            drops = f"drops {'>' if check.side == 'above' else '<'} {check.threshold:g}"
            said.append(f"  {check.verdict:<11} {check.rule:<18} {check.column} = {value} ({drops})")
        for line in self.removed:
            shown = line.text if len(line.text) <= LINE_SHOWN else line.text[:LINE_SHOWN] + "…"
            said.append(f"  line removed, in {line.documents:,} documents of the language: {printable(shown)}")
        for name, measured in self.measurements.items():
            shown = f"{measured:.4g}" if isinstance(measured, float) else printable(str(measured))
            said.append(f"  {name} = {shown}")
        return said


@dataclass
class Lost:
    """A page that was not read: what quarantine says of it."""

    url: str
    file: str
    offset: int
    reason: str
    dropped_by: str = "quarantine"

    def lines(self) -> list[str]:
        """The answer as lines to print."""
        where = f"  in quarantine: {self.reason} ({self.file}, offset {self.offset})"
        return [printable(self.url), printable(where)]


def why(documents_entry: Path, url: str) -> list[Why | Lost]:
    """What was measured of a page and which rule dropped it, for every time it was read or lost.

    `documents_entry` is the folder of a curate stage. Raises UserError for an address never read, naming the nearest.
    """
    shards = sorted((documents_entry / "measurements").glob("*.parquet"))
    if not shards or not (documents_entry / "rules.json").is_file():
        raise UserError(f"{documents_entry}: no measurements here; name the entry of a curate stage")
    exact, alike, near = _find(shards, url)
    rules = [Rule(**rule) for rule in read_json(documents_entry / "rules.json")]
    found: list[Why | Lost] = []
    for shard, rows in (exact or alike).items():
        for number, row in zip(rows, pq.read_table(shard).take(pa.array(rows)).to_pylist()):
            found.append(_answer(documents_entry, shards, shard.name, number, row, rules))
    found += _lost(documents_entry, url)
    if not found:
        hint = "; the nearest are " + ", ".join(map(printable, near)) if near else ""
        raise UserError(f"{printable(url)}: no such page was read into {documents_entry}{hint}")
    return found


def _find(shards: list[Path], url: str) -> tuple[dict[Path, list[int]], dict[Path, list[int]], list[str]]:
    """Rows with the address, rows with another spelling of it, and the nearest addresses."""
    wanted, exact, alike = canonical(url), {}, {}
    best: list[tuple[int, str]] = []
    for shard in shards:
        urls = [u or "" for u in pq.read_table(shard, columns=["url"])["url"].to_pylist()]
        if rows := [i for i, u in enumerate(urls) if u == url]:
            exact[shard] = rows
        spelled = [canonical(u) for u in urls]
        if rows := [i for i, u in enumerate(spelled) if u == wanted]:
            alike[shard] = rows
        begins = ((_common(u, wanted), urls[i]) for i, u in enumerate(spelled))
        best = heapq.nlargest(NEAREST, {*best, *begins})
    return exact, alike, difflib.get_close_matches(url, [u for _, u in best], 3, 0.4)


def _common(one: str, other: str) -> int:
    """Characters with which both begin."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _answer(entry: Path, shards: list[Path], shard: str, number: int, row: dict[str, Any], rules: list[Rule]) -> Why:
    named = ("url", "id", "dropped_by", "duplicate_of")
    values = {name: value for name, value in row.items() if name not in named and value is not None}
    answer = Why(row["url"], row["id"], row["dropped_by"], None, values, checks(row, rules))
    if row.get("duplicate_of") and row["dropped_by"]:
        answer.duplicate_of, answer.stayed = _stayed(shards, row["duplicate_of"])
    if row.get("lines_repeated"):
        answer.removed = _removed(entry, shard, number, row, rules)
    return answer


def checks(row: dict[str, Any], rules: list[Rule]) -> list[Check]:
    """Each rule held against a row of measurements, in order, until one drops it."""
    found, over = [], False
    for rule in rules:
        value = row.get(rule.column)
        number = None if value is None else float(value)
        beyond = number is not None and bool(rule.holds(np.array([number]))[0])
        verdict = "not reached" if over else "dropped" if beyond else "passed"
        over = over or beyond
        side = "above" if rule.above is not None else "below"
        found.append(Check(rule.name, rule.column, number, rule.threshold, side, verdict))
    return found


def _stayed(shards: list[Path], name: str) -> tuple[str, str]:
    """The address of the document `name`, and where that was dropped too, by which rule and for which document."""
    first, said, seen = "", "", 0
    while name and seen < HOPS:
        row = next(_with_id(shards, name), None)
        if row is None:
            return first or name, said
        said += f", for {row['url']}" if first else ""
        first, seen = first or row["url"] or name, seen + 1
        name = (row.get("duplicate_of") or "") if row["dropped_by"] else ""
        said += f" (itself dropped by {row['dropped_by']})" if row["dropped_by"] else ""
    return first, said


def _with_id(shards: list[Path], name: str) -> Iterator[dict[str, Any]]:
    for shard in shards:
        columns = ["id", "url", "duplicate_of", "dropped_by"]
        table = pq.read_table(shard, columns=columns, filters=[("id", "=", name)])
        yield from table.to_pylist()


def _removed(entry: Path, shard: str, number: int, row: dict[str, Any], rules: list[Rule]) -> list[Removed]:
    """The lines a page lost, from its text before and after; of one dropped for them, those that stood too often."""
    path = entry / "measured" / shard
    if not path.is_file() or row["dropped_by"] not in (None, LINE_RULE):
        return []
    table = pq.read_table(path, columns=["text", "lines_hashes"]).slice(number, 1).to_pylist()[0]
    pairs = [(line, key) for line, key in zip(table["text"].split("\n"), table["lines_hashes"]) if key]
    kept = pq.read_table(entry / "documents" / shard, columns=["id", "text"], filters=[("id", "=", row["id"])])
    if row["dropped_by"] is None:
        after = set((kept["text"][0].as_py() or "").split("\n"))
        pairs = [(line, key) for line, key in pairs if line not in after]
    stood = _documents_with(entry, row["language"], {key for _, key in pairs}, rules)
    if row["dropped_by"] is not None:
        least, within = _least(entry)
        often = {k for k, on in stood.items() if len(on) > least or (len(on) > within and len(set(on)) == 1)}
        pairs = [(line, key) for line, key in pairs if key in often]
    return [Removed(line, len(stood[key])) for line, key in pairs]


def _documents_with(entry: Path, language: str, keys: set[int], rules: list[Rule]) -> dict[int, list[int]]:
    """The sites of the documents of a language each line stood in, of those kept until lines were counted."""
    stood: dict[int, list[int]] = {key: [] for key in keys}
    first = 0
    place = next((i for i, rule in enumerate(rules) if rule.column.startswith("lines_")), len(rules))
    later = {None, *(rule.name for rule in rules[place:])}
    wanted = np.array(sorted(keys), dtype=np.int64)
    for shard in sorted((entry / "measured").glob("*.parquet")):
        table = pq.read_table(shard, columns=["language", "lines_hashes", "url"])
        hosts = sites(table["url"].to_pylist(), first)
        first += table.num_rows
        dropped = pq.read_table(entry / "measurements" / shard.name, columns=["dropped_by"])["dropped_by"].to_pylist()
        chosen = [
            i for i, (spoken, rule) in enumerate(zip(table["language"].to_pylist(), dropped))
            if spoken == language and rule in later
        ]  # fmt: skip
        values, offsets = lists(table["lines_hashes"].take(pa.array(chosen, pa.int64())))
        places = np.flatnonzero(np.isin(values, wanted))
        documents = np.searchsorted(offsets, places, side="right")
        for key, document in set(zip(values[places].tolist(), documents.tolist())):
            stood[key].append(int(hosts[chosen[document - 1]]))
    return stood


def _least(entry: Path) -> tuple[int, int]:
    """How many documents a line may stand in, and how many of one site, by the settings the entry was made with."""
    try:
        settings = DuplicateSettings(**read_json(entry / "entry.json")["settings"]["duplicates"])
    except (OSError, KeyError, TypeError, ValueError):
        settings = DuplicateSettings()
    return settings.line_documents, settings.line_site_documents


def _lost(entry: Path, url: str) -> list[Why | Lost]:
    path, found = entry / "quarantine.jsonl", []
    if path.is_file():
        with open(path, encoding="utf-8") as file:
            for line in file:
                loss = json.loads(line)
                if loss.get("url") == url:
                    found.append(Lost(url, loss["file"], loss["offset"], loss["reason"]))
    return found  # type: ignore[return-value]
