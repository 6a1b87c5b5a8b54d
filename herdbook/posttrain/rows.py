"""Rows of dialogs, preferences and requests on disk: JSONL or Parquet, each row known by its file and number.

The forms are TRL's, so that sets made for it load unchanged and ours load there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from herdbook.files import write_text
from herdbook.settings import UserError

SUFFIXES = (".jsonl", ".parquet")


def read_rows(path: Path, below: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row and where it stands ("FILE row N", from 1), file by file in the order of their names.

    `path` is a file or a folder of files; `below` is the folder within an entry that holds them, if it is there.
    UserError for a folder without such files, and for a row that is no JSON object.
    """
    path = Path(path)
    folder = path / below if below and (path / below).is_dir() else path
    files = [folder] if folder.is_file() else sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)
    if not files or any(file.suffix not in SUFFIXES for file in files):
        raise UserError(f"{folder}: no {' or '.join(SUFFIXES)} files here, which rows are read from")
    for file in files:
        yield from _json_rows(file) if file.suffix == ".jsonl" else _parquet_rows(file)


def _json_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    with open(file, encoding="utf-8", errors="strict") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"{file} row {number}: {line.strip()[:60]!r} is not a JSON object")
                yield f"{file} row {number}", row
        except UnicodeDecodeError as error:
            raise UserError(f"{file} near row {number + 1}: not UTF-8 text ({error.reason})") from None
        except json.JSONDecodeError as error:
            raise UserError(
                f"{file} row {number}: not JSON ({error.msg} at column {error.colno}); was the file cut?"
            ) from None


def _parquet_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file} row {number}", row
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: damaged or not Parquet ({error})") from None


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as JSONL, whole or not at all; returns how many."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_text(file, "".join(lines))
    return len(lines)
