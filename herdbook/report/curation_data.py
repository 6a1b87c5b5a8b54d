"""What the page of a curation shows, gathered in two passes over its shards (§3.1).

Memory does not grow with the crawl but by eight bytes a duplicate: histograms have a fixed number of bins, and samples
are the documents whose hashes with the seed are least, which does not depend on the order they are read in.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from herdbook.corpus.rules import Rule
from herdbook.files import read_json
from herdbook.settings import UserError

BINS = 48
SAMPLES = 3
"""Documents shown of each rule, and of the kept."""
EXCERPT = 700
"""Characters shown of each."""
CLUSTERS = 8
REASONS = 30
"""Most reasons of quarantine told apart; the rest are one."""


@dataclass
class Sample:
    """A document shown as an example."""

    url: str
    id: str
    language: str
    value: str
    text: str = ""


@dataclass
class Histogram:
    """How a measurement is spread over the kept and the dropped documents."""

    edges: np.ndarray
    """(BINS + 1,) what lies beyond the first and the last is counted in the first and the last bin."""
    kept: np.ndarray
    dropped: np.ndarray
    missing: int = 0


@dataclass
class Curation:
    """Everything the page shows."""

    funnel: dict[str, Any]
    rules: list[Rule]
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    languages: dict[str, list[int]] = field(default_factory=dict)
    """Kept and dropped documents per language."""
    histograms: dict[str, Histogram] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """By rule; those kept under an empty name."""
    clusters: list[tuple[int, str, list[str]]] = field(default_factory=list)
    """Documents dropped for one that stayed, its address, and some of theirs."""
    cluster_sizes: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    losses: list[dict[str, Any]] = field(default_factory=list)


def gather(entry: Path, seed: int = 0) -> Curation:
    """Read what a curation left in `entry`."""
    shards = sorted((entry / "measurements").glob("*.parquet"))
    if not shards or not (entry / "funnel.json").is_file():
        raise UserError(f"{entry}: no curation here; name the entry of a curate stage")
    rules = [Rule(**rule) for rule in read_json(entry / "rules.json")]
    found = Curation(read_json(entry / "funnel.json"), rules)
    found.histograms = _empty_histograms(shards)
    heaps: dict[str, list[tuple[int, str, int, Sample]]] = defaultdict(list)
    keepers: list[np.ndarray] = []
    for shard in shards:
        table = pq.read_table(shard, use_threads=False)
        _count(found, table)
        _choose(found, table, shard.name, heaps, seed)
        if "duplicate_of" in table.column_names:
            of = table["duplicate_of"].filter(table["dropped_by"].is_valid()).drop_null()
            keepers.append(np.array([int(name, 16) for name in of.to_pylist()], dtype=np.uint64))
    found.samples = {name: [item[3] for item in sorted(heap, reverse=True)] for name, heap in heaps.items()}
    _read_texts(entry, heaps)
    _clusters(found, shards, np.concatenate([np.zeros(0, np.uint64), *keepers]))
    _quarantine(found, entry / "quarantine.jsonl")
    return found


def _numeric(shard: Path) -> list[str]:
    return [f.name for f in pq.read_schema(shard) if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]


def _values(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _empty_histograms(shards: list[Path]) -> dict[str, Histogram]:
    """Edges from the values' quantiles in up to 200 shards, so that one wild value does not hide the others."""
    names = _numeric(shards[0])
    some = shards[:: max(len(shards) // 200, 1)]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for shard in some:
        table = pq.read_table(shard, columns=names, use_threads=False)
        for name in names:
            values = _values(table, name)
            parts[name].append(values[np.isfinite(values)][: 2_000_000 // len(some)])
    found = {}
    for name in names:
        values = np.concatenate(parts[name])
        if len(values) and values.min() < values.max():
            low, high = np.quantile(values, [0.001, 0.995])
            if low == high:
                low, high = values.min(), values.max()
            zeros = np.zeros(BINS, dtype=np.int64)
            found[name] = Histogram(np.linspace(low, high, BINS + 1), zeros, zeros.copy())
    return found


def _count(found: Curation, table: pa.Table) -> None:
    found.rows += table.num_rows
    rules = table["dropped_by"].to_pylist()
    found.dropped.update(rule for rule in rules if rule is not None)
    for language, rule in zip(table["language"].to_pylist(), rules):
        found.languages.setdefault(language or "none", [0, 0])[rule is not None] += 1
    kept = np.array([rule is None for rule in rules], dtype=bool)
    for name, histogram in found.histograms.items():
        values = _values(table, name)
        sound = np.isfinite(values)
        histogram.missing += int((~sound).sum())
        places = np.clip(np.searchsorted(histogram.edges, values[sound], side="right") - 1, 0, BINS - 1)
        histogram.kept += np.bincount(places[kept[sound]], minlength=BINS)
        histogram.dropped += np.bincount(places[~kept[sound]], minlength=BINS)


def _choose(found: Curation, table: pa.Table, shard: str, heaps: dict[str, Any], seed: int) -> None:
    """Keep in each rule's heap the documents whose hashes are least."""
    rules, ids = table["dropped_by"].to_pylist(), table["id"].to_pylist()
    for row, (rule, name) in enumerate(zip(rules, ids)):
        heap = heaps[rule or ""]
        order = -xxhash.xxh3_64_intdigest(name.encode(), seed)
        if len(heap) < SAMPLES or order > heap[0][0]:
            sample = Sample(table["url"][row].as_py() or "", name, table["language"][row].as_py() or "", "")
            sample.value = _reading(found.rules, rule, table, row)
            item = (order, shard, row, sample)
            heapq.heappush(heap, item) if len(heap) < SAMPLES else heapq.heapreplace(heap, item)


def _reading(rules: list[Rule], name: str | None, table: pa.Table, row: int) -> str:
    """The measurement for which a document was dropped, as `column = value`."""
    for rule in rules:
        if rule.name == name and rule.column in table.column_names:
            value = table[rule.column][row].as_py()
            if value is not None and bool(rule.holds(np.array([float(value)]))[0]):
                sign = ">" if rule.above is not None else "<"
                return f"{rule.column} = {value:.4g} {sign} {rule.threshold:g}"
    return ""


def _read_texts(entry: Path, heaps: dict[str, Any]) -> None:
    wanted: dict[str, list[tuple[int, Sample]]] = defaultdict(list)
    for heap in heaps.values():
        for _, shard, row, sample in heap:
            wanted[shard].append((row, sample))
    for shard, items in wanted.items():
        path = entry / "measured" / shard
        if path.is_file():
            texts = pq.read_table(path, columns=["text"], use_threads=False)["text"]
            for row, sample in items:
                sample.text = (texts[row].as_py() or "")[: EXCERPT + 1]


def _clusters(found: Curation, shards: list[Path], keepers: np.ndarray) -> None:
    """The largest groups of duplicates: sizes from the ids of those that stayed, addresses in a second pass."""
    names, counts = np.unique(keepers, return_counts=True)
    found.cluster_sizes = Counter((counts + 1).tolist())
    largest = np.argsort(-counts, kind="stable")[:CLUSTERS]
    size = {f"{int(names[i]):016x}": int(counts[i]) for i in largest}
    address: dict[str, str] = {}
    members: dict[str, list[str]] = defaultdict(list)
    for shard in shards if size else []:
        table = pq.read_table(shard, columns=["id", "url", "duplicate_of", "dropped_by"], use_threads=False)
        for row in table.to_pylist():
            if row["id"] in size:
                address[row["id"]] = row["url"] or ""
            if row["dropped_by"] and row["duplicate_of"] in size and len(members[row["duplicate_of"]]) < SAMPLES:
                members[row["duplicate_of"]].append(row["url"] or "")
    found.clusters = [(size[name], address.get(name, name), members[name]) for name in size]


def losses(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a quarantine file."""
    if path.is_file():
        with open(path, encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.strip())


def _quarantine(found: Curation, path: Path) -> None:
    for loss in losses(path):
        reason = re.sub(r"\d+", "N", str(loss["reason"]))[:200]
        found.reasons[reason if reason in found.reasons or len(found.reasons) < REASONS else "other reasons"] += 1
        if len(found.losses) < 2 * SAMPLES:
            found.losses.append(loss)
