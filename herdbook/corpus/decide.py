"""Measurements to documents: rules in order over columns, then the kept texts without repeated lines.

Columns that depend on the other documents (duplicates, divergence, repeated lines) are worked out when the first rule
that reads them comes, among the documents still kept. Nothing here reads a text until the kept ones are written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from herdbook.corpus import dedup, divergence, lines
from herdbook.corpus.rules import Rule, active_rules, first_rule
from herdbook.corpus.settings import CurateSettings

_HIDDEN = "text duplicate_signature divergence_tokens lines_hashes lines_words duplicate_url_key duplicate_exact_key"
HIDDEN = frozenset(_HIDDEN.split())
"""Columns that only deciding reads; they stay with the measured shards."""


@dataclass
class Decision:
    """What was decided of N documents: the rule of each, and the columns worked out on the way."""

    rules: list[Rule]
    dropped: np.ndarray
    """Index into `rules` (N,) int64, -1 for kept."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    repeated: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Sorted keys of the lines that were removed."""
    buckets: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


class Deciding:
    """Goes through the rules with the columns at hand."""

    def __init__(self, table: pa.Table, settings: CurateSettings) -> None:
        self.table, self.settings = table, settings
        self.count = table.num_rows
        self.rules = active_rules(settings.rules, settings.thresholds, settings.off)
        nothing = np.zeros(self.count, dtype=np.int64)
        self.result = Decision(self.rules, nothing - 1, buckets=nothing)
        self.rank = dedup.preference(self._strings("date"), self._numbers("length_words"))

    def _numbers(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()

    def _strings(self, name: str) -> np.ndarray:
        return np.array(self.table[name].to_pylist(), dtype=str) if self.count else np.zeros(0, dtype=str)

    def decide(self) -> Decision:
        """Apply every rule to the documents the rules before it kept."""
        known = {name: self._numbers(name) for name in self.table.column_names if _numeric(self.table, name)}
        for index, rule in enumerate(self.rules):
            alive = self.result.dropped < 0
            if rule.column in ("divergence_kl", "divergence_excess") and rule.column not in known:
                self._divergence(alive)
            elif rule.column == "language_evidence":
                found = divergence.language_evidence(self._numbers("language_probability"), self._strings("language"))
                self.result.columns[rule.column] = found
            elif rule.column == "duplicate_url_newer":
                self._duplicates_by_key("duplicate_url_key", rule.column, alive)
            elif rule.column == "duplicate_exact_better":
                self._duplicates_by_key("duplicate_exact_key", rule.column, alive)
            elif rule.column == "duplicate_near_similarity":
                self._near(alive, rule.threshold)
            elif rule.column == "lines_words_left":
                self._lines(alive)
            known.update(self.result.columns)
            held = first_rule([rule], known, self.count) == 0
            self.result.dropped[alive & held] = index
        return self.result

    def _duplicates_by_key(self, key: str, column: str, alive: np.ndarray) -> None:
        rows = np.flatnonzero(alive & (self._numbers("length_words") > 0))
        values = np.zeros(self.count)
        if len(rows):
            keeper = rows[dedup.by_key(self._numbers(key)[rows], self.rank[rows])]
            values[rows] = keeper != rows
            self._remember(rows, keeper)
        self.result.columns[column] = values

    def _near(self, alive: np.ndarray, threshold: float) -> None:
        rows = np.flatnonzero(alive & (self._numbers("length_words") > 0))
        values = np.zeros(self.count)
        if len(rows):
            packed = self.table["duplicate_signature"].combine_chunks().take(pa.array(rows))
            joined = b"".join(packed.to_pylist())
            signatures = np.frombuffer(joined, dtype="<u4").reshape(len(rows), -1)
            keeper, alike = dedup.near(signatures, self.rank[rows], self.settings.duplicates.band_rows, threshold)
            values[rows] = alike
            self._remember(rows, rows[keeper])
        self.result.columns["duplicate_near_similarity"] = values

    def _remember(self, rows: np.ndarray, keeper: np.ndarray) -> None:
        of = self.result.columns.setdefault("duplicate_of", np.full(self.count, -1, dtype=np.int64))
        of[rows[keeper != rows]] = keeper[keeper != rows]

    def _divergence(self, alive: np.ndarray) -> None:
        rows = np.flatnonzero(alive)
        array = self.table["divergence_tokens"].combine_chunks()
        offsets, values = array.offsets.to_numpy(), array.values.to_numpy()
        tokens = [values[offsets[row] : offsets[row + 1]] for row in rows]
        bits, excess = divergence.divergence(tokens, self._strings("language")[rows])
        for name, found in (("divergence_kl", bits), ("divergence_excess", excess)):
            column = np.full(self.count, np.nan)
            column[rows] = found
            self.result.columns[name] = column

    def _lines(self, alive: np.ndarray) -> None:
        hashes, languages = self.table["lines_hashes"], self._strings("language")
        settings = self.settings.duplicates
        self.result.buckets = lines.buckets(alive, languages, settings.line_bucket)
        self.result.repeated = lines.repeated_keys(hashes, alive, self.result.buckets, settings.line_documents)
        keys, documents = lines.line_keys(hashes, self.result.buckets)
        gone = lines.removed_lines(keys, self.result.repeated) & alive[documents]
        words = self.table["lines_words"].combine_chunks().values.to_numpy()
        left = np.bincount(documents, weights=np.where(gone, 0, words), minlength=self.count)
        self.result.columns["lines_repeated"] = np.bincount(documents, weights=gone, minlength=self.count)
        # A page that loses nothing is judged by its own length rule, not by this one.
        self.result.columns["lines_words_left"] = np.where(self.result.columns["lines_repeated"] > 0, left, np.nan)


def _numeric(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return name not in HIDDEN and (pa.types.is_integer(kind) or pa.types.is_floating(kind))


def write_documents(shards: list[Path], decision: Decision, out: Path) -> dict[str, Any]:
    """Write `documents/` and `measurements/` shard by shard; returns characters kept and lines removed."""
    ids: list[str] = []
    for shard in shards:
        ids += pq.read_table(shard, columns=["id"])["id"].to_pylist()
    start, kept_characters, removed = 0, 0, 0
    for shard in shards:
        table = pq.read_table(shard)
        rows = slice(start, start + table.num_rows)
        start += table.num_rows
        table = _with_columns(table, decision, rows, ids)
        dropped = decision.dropped[rows]
        visible = table.drop_columns([name for name in table.column_names if name in HIDDEN])
        names = [decision.rules[i].name if i >= 0 else None for i in dropped]
        _write(visible.append_column("dropped_by", pa.array(names, pa.string())), out / "measurements" / shard.name)
        kept = table.filter(pa.array(dropped < 0))
        texts, gone = _without_lines(kept, decision, decision.buckets[rows][dropped < 0])
        removed += gone
        kept_characters += sum(map(len, texts))
        kept = kept.set_column(kept.column_names.index("text"), "text", pa.array(texts, pa.large_string()))
        shown = [name for name in kept.column_names if name == "text" or name not in HIDDEN]
        _write(kept.select(shown), out / "documents" / shard.name)
    return {"kept_characters": kept_characters, "lines_removed": removed}


def _with_columns(table: pa.Table, decision: Decision, rows: slice, ids: list[str]) -> pa.Table:
    for name, values in decision.columns.items():
        part = values[rows]
        if name == "duplicate_of":
            table = table.append_column(name, pa.array([ids[i] if i >= 0 else None for i in part], pa.string()))
        else:
            table = table.append_column(name, pa.array(part, pa.float64(), mask=np.isnan(part)))
    return table


def _without_lines(table: pa.Table, decision: Decision, numbers: np.ndarray) -> tuple[list[str], int]:
    texts = table["text"].to_pylist()
    if not len(decision.repeated) or not texts:
        return texts, 0
    keys, documents = lines.line_keys(table["lines_hashes"], numbers)
    gone = lines.removed_lines(keys, decision.repeated)
    starts = np.searchsorted(documents, np.arange(len(texts) + 1))
    for index in np.unique(documents[gone]):
        flags = gone[starts[index] : starts[index + 1]]
        texts[index] = "\n".join(line for line, flag in zip(texts[index].split("\n"), flags) if not flag).strip("\n")
    return texts, int(gone.sum())


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
