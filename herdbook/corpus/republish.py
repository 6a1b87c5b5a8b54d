"""Documents in, documents out: with more columns, and without those that rules over the columns drop.

What stages after curation share. They keep curation's layout (`documents/`, `measurements/`, `rules.json`,
`funnel.json`), so `herdbook why`, `pack` and each other read them alike; documents in = kept + dropped.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from herdbook import console
from herdbook.corpus.funnel import funnel_rows, funnel_table
from herdbook.corpus.rules import Rule, first_rule
from herdbook.files import write_json, write_text
from herdbook.settings import UserError

Column = np.ndarray | list[Any]


@dataclass(frozen=True)
class Shard:
    """One Parquet file of documents, and the stage it comes from."""

    stage: str
    path: Path


@dataclass
class Republished:
    """The rule that dropped each document (index into `rules`, -1 for kept), as `funnel_rows` reads it."""

    rules: list[Rule]
    dropped: np.ndarray
    columns: dict[str, Column] = field(default_factory=dict)


def shards_of(documents: Mapping[str, Path] | Sequence[Path]) -> list[Shard]:
    """The document files of entries in their order; UserError for an entry without any."""
    named = documents.items() if isinstance(documents, Mapping) else (("", entry) for entry in documents)
    found = []
    for stage, entry in named:
        files = sorted((entry / "documents").glob("*.parquet"))
        if not files:
            raise UserError(f"{entry / 'documents'}: no *.parquet here; give a stage that leaves documents")
        found += [Shard(stage, file) for file in files]
    return found


def read_columns(shards: Sequence[Shard], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Columns over all documents: numbers as float64 (NaN where missing), texts as str ("" where missing).

    Without `names` all columns of numbers are read.
    """
    schemas = [pq.read_schema(shard.path) for shard in shards]
    if names is None:
        names = list(dict.fromkeys(n for s in schemas for n in s.names if _number(s.field(n).type)))
    tables = [pq.read_table(s.path, columns=[n for n in names if n in k.names]) for s, k in zip(shards, schemas)]
    result = {}
    for name in names:
        kinds = [schema.field(name).type for schema in schemas if name in schema.names]
        numeric = bool(kinds) and all(map(_number, kinds))
        parts = [_values(table, name, numeric) for table in tables]
        result[name] = np.concatenate(parts) if parts else np.zeros(0)
    return result


def _number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _values(table: pa.Table, name: str, numeric: bool) -> np.ndarray:
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan) if numeric else np.full(table.num_rows, "")
    if numeric:
        return table[name].cast(pa.float64()).to_numpy()
    return np.array(["" if value is None else str(value) for value in table[name].to_pylist()], dtype=str)


def counts(shards: Sequence[Shard]) -> list[int]:
    """Documents of each file."""
    return [pq.read_metadata(shard.path).num_rows for shard in shards]


def pieces(shards: Sequence[Shard]) -> Iterator[tuple[int, slice, Shard]]:
    """Each file with its number and where its documents stand among all."""
    start = 0
    for number, (shard, count) in enumerate(zip(shards, counts(shards))):
        yield number, slice(start, start + count), shard
        start += count


def republish(shards: Sequence[Shard], columns: dict[str, Column], rules: list[Rule], out: Path) -> dict[str, Any]:
    """Write the documents of `shards` with `columns` to `out`, without those a rule drops; returns the metrics."""
    known = read_columns(shards) | {
        n: v for n, v in columns.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiu"
    }
    total = sum(counts(shards))
    decided = Republished(rules, first_rule(rules, known, total), columns)
    lengths = np.zeros(total, dtype=np.int64)
    left: Counter[str] = Counter()
    characters = 0
    for name in ("documents", "measurements"):
        shutil.rmtree(out / name, ignore_errors=True)
    for number, rows, shard in pieces(shards):
        table = with_columns(pq.read_table(shard.path), {name: values[rows] for name, values in columns.items()})
        dropped = decided.dropped[rows]
        lengths[rows] = [len(text) for text in table["text"].to_pylist()]
        characters += int(lengths[rows][dropped < 0].sum())
        names = [rules[i].name if i >= 0 else None for i in dropped]
        measured = table.drop_columns([name for name in ("text", "dropped_by") if name in table.column_names])
        measured = measured.append_column("dropped_by", pa.array(names, pa.string()))
        write_table(measured, out / "measurements" / f"{number:05d}.parquet")
        kept = table.filter(pa.array(dropped < 0))
        if "language" in kept.column_names:
            left.update(kept["language"].to_pylist())
        write_table(kept, out / "documents" / f"{number:05d}.parquet")
    return _close(decided, lengths, characters, left, out)


def _close(decided: Republished, lengths: np.ndarray, characters: int, left: Counter[str], out: Path) -> dict[str, Any]:
    written = {"kept_characters": characters, "lines_removed": 0}
    rows = funnel_rows(decided, lengths, 0, written)
    write_text(out / "quarantine.jsonl", "")
    write_json(out / "funnel.json", {"rules": rows, "passed_over": {}, **written})
    write_json(out / "rules.json", [rule.model_dump() for rule in decided.rules])
    if decided.rules:
        console.out.print(funnel_table(rows, Counter()))
    kept = int((decided.dropped < 0).sum())
    return {
        "documents": {"read": len(lengths), "kept": kept, "dropped": len(lengths) - kept},
        "characters": {"read": int(lengths.sum()), "kept": characters},
        "dropped": {row["rule"]: row["dropped"] for row in rows[2:]},
        "languages": dict(left.most_common(20)),
    }


def with_columns(table: pa.Table, columns: Mapping[str, Column]) -> pa.Table:
    """A table with these columns, in place of those of the same name; NaN becomes null."""
    for name, values in columns.items():
        array = pa.array(values, from_pandas=True)
        place = table.column_names.index(name) if name in table.column_names else -1
        table = table.set_column(place, name, array) if place >= 0 else table.append_column(name, array)
    return table


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)
