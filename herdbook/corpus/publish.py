"""What was decided, written shard by shard: the kept texts without repeated lines, and every page's measurements.

What depends on other pages stands with the measurements only, so a file of documents changes when its texts do. A file
carries a digest of all it depends on, so that deciding again writes only what came out otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from herdbook.corpus import lines
from herdbook.corpus.columns import without_lines
from herdbook.corpus.decide import Decision
from herdbook.corpus.engine import Engine
from herdbook.corpus.measured import HIDDEN, Measured, lists, read_shard
from herdbook.corpus.redact import redact_column

DIGEST = b"herdbook.digest"
FIGURES = b"herdbook.figures"
REPEATED = ["source", "language", "kind", "date", "encoding_name", "dropped_by"]
"""Columns of few different words."""
VERSION = "1"
"""Raised when the same decision is written otherwise."""


def write_documents(measured: Measured, decision: Decision, out: Path, engine: Engine, here: int = 1) -> dict[str, int]:
    """Write `documents/` and `measurements/`, this machine `here` shards at a time; characters kept, lines removed."""
    for name in ("documents", "measurements"):
        (out / name).mkdir(exist_ok=True)
        for file in (out / name).iterdir():
            if file.name not in {shard.name for shard in measured.shards}:
                file.unlink()
    ids = _Ids(measured, decision)
    calls = ((_part(measured, number, decision, ids), out) for number in range(len(measured.shards)))
    figures = list(engine.each(_write_shard, calls, here))
    characters, removed = (sum(column) for column in zip(*figures)) if figures else (0, 0)
    return {"kept_characters": characters, "lines_removed": removed}


class _Ids:
    """Ids of the documents that others repeat."""

    def __init__(self, measured: Measured, decision: Decision) -> None:
        of = decision.columns.get("duplicate_of")
        self.rows = np.zeros(0, np.int64) if of is None else np.unique(of[of >= 0])
        self.ids = measured.pick("id", self.rows)

    def of(self, rows: np.ndarray) -> pa.Array:
        """Ids of rows, none for -1."""
        places = np.searchsorted(self.rows, rows)
        return self.ids.take(pa.array(np.where(rows >= 0, places, 0), mask=rows < 0)).cast(pa.string())


@dataclass(frozen=True)
class _Part:
    """A shard and what was decided of its rows (n,), to be written anywhere."""

    shard: Path
    state: str
    """Changes when the measured shards do."""
    rules: list[str]
    dropped: np.ndarray
    columns: dict[str, pa.Array]
    buckets: np.ndarray | None
    repeated: Path | np.ndarray | None
    """Keys of the lines that are removed, sorted; where they lie, if in a file, as they may be many."""
    redact: tuple[str, ...]


def _part(measured: Measured, number: int, decision: Decision, ids: _Ids) -> _Part:
    rows, repeated = measured.rows(number), decision.columns.get("_lines")
    filed = isinstance(repeated, np.memmap) and repeated.filename is not None and len(repeated)
    return _Part(
        measured.shards[number],
        str((measured.identity, number)),
        [rule.name for rule in decision.rules],
        decision.dropped[rows],
        _columns(decision, rows, ids),
        None if repeated is None else np.asarray(decision.columns["_buckets"][rows]),
        Path(str(repeated.filename)) if filed else repeated,  # type: ignore[union-attr]
        decision.redact,
    )


def _write_shard(part: _Part, out: Path) -> tuple[int, int]:
    """Write a shard's rows; characters kept and lines removed."""
    name, dropped, added = part.shard.name, part.dropped, dict(part.columns)
    added["dropped_by"] = pa.array(part.rules, pa.string()).take(pa.array(dropped, mask=dropped < 0))
    offsets, gone = _gone_lines(part)
    state = [VERSION.encode(), part.state.encode()]
    state += [key.encode() + b"".join(_bytes(values)) for key, values in added.items()]
    digest = hashlib.sha256(b"\0".join(state)).hexdigest()
    names = pq.read_schema(part.shard).names
    if _held(out / "measurements" / name, digest) is None:
        shown = [column for column in names if column not in HIDDEN]
        _write(_with(read_shard(part.shard, shown), added), out / "measurements" / name, digest, (0, 0))
    state[2:] = [np.packbits(dropped < 0).tobytes(), np.packbits(gone).tobytes(), repr(part.redact).encode()]
    digest = hashlib.sha256(b"\0".join(state)).hexdigest()
    figures = _held(out / "documents" / name, digest)
    if figures is None:
        kept = read_shard(part.shard, [column for column in names if column == "text" or column not in HIDDEN])
        texts = without_lines(kept["text"], offsets, gone).cast(pa.large_string())
        kept = kept.set_column(kept.column_names.index("text"), "text", texts).filter(pa.array(dropped < 0))
        if part.redact:
            counts = sum(kept[f"pii_{kind}"].to_numpy() for kind in part.redact)
            texts = redact_column(kept["text"], counts, part.redact)
            kept = kept.set_column(kept.column_names.index("text"), "text", texts)
        figures = int(pc.sum(pc.utf8_length(kept["text"])).as_py() or 0), int(gone.sum())
        _write(kept, out / "documents" / name, digest, figures)
    return figures


def _gone_lines(part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """Where each document's lines begin (n + 1,), and which lines (L,) bool the kept ones lose."""
    repeated = np.load(part.repeated, mmap_mode="r") if isinstance(part.repeated, Path) else part.repeated
    if repeated is None or not len(repeated) or part.buckets is None:
        return np.zeros(len(part.dropped) + 1, np.int64), np.zeros(0, dtype=bool)
    values, offsets = lists(read_shard(part.shard, ["lines_hashes"])["lines_hashes"])
    keys, documents = lines.line_keys(values, offsets, part.buckets)
    kept = part.dropped < 0
    return offsets, lines.removed_lines(keys, repeated) & kept[documents]


def _columns(decision: Decision, rows: slice, ids: _Ids) -> dict[str, pa.Array]:
    """The columns worked out for a shard's rows, as they are written."""
    found = {}
    for name, values in decision.columns.items():
        if name.startswith("_"):
            continue
        part = np.asarray(values[rows])
        found[name] = ids.of(part) if name == "duplicate_of" else pa.array(part, pa.float64(), mask=np.isnan(part))
    return found


def _with(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _bytes(values: pa.Array) -> Iterable[bytes]:
    return [b"-" if buffer is None else buffer.to_pybytes() for buffer in values.buffers()]


def _held(path: Path, digest: str) -> tuple[int, int] | None:
    """The figures of a file that was written from the same, or None."""
    if not path.is_file():
        return None
    metadata = pq.read_schema(path).metadata or {}
    if metadata.get(DIGEST, b"").decode() != digest:
        return None
    characters, removed = map(int, metadata[FIGURES].split())
    return characters, removed


def _write(table: pa.Table, path: Path, digest: str, figures: tuple[int, int]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    marks = {DIGEST: digest.encode(), FIGURES: f"{figures[0]} {figures[1]}".encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **marks})
    pq.write_table(table, temporary, compression="zstd", use_dictionary=REPEATED)
    temporary.replace(path)
