"""Prompts on disk, in parts: what an engine is given to answer at a time, and finishes or begins anew (`fleet.py`).

A row has `prompt` (a text, a list of messages, or a list of token ids) or `messages` (a dialog that ends before the
assistant's turn), and may have `tools`. Files are looked through once, so that any part can be read by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer

SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Part:
    """Some rows of one file that follow each other."""

    number: int
    """Of the parts of all files."""

    first: int
    """Its first row's number, over all files."""

    rows: int
    """How many rows it has."""

    file: str
    """Where they stand."""

    row: int
    """The first one's number in the file, from 0."""

    offset: int
    """Where in a JSONL file that row begins, bytes."""

    @property
    def name(self) -> str:
        """The file its answers go to."""
        return f"part-{self.number:06}.jsonl"

    def told(self) -> str:
        """The part as text; see `heard`."""
        return json.dumps(asdict(self))

    @classmethod
    def heard(cls, text: str) -> Part:
        """The part that a text tells."""
        return cls(**json.loads(text))


def prompt_files(path: Path) -> list[Path]:
    """The files of a folder, or the file itself; UserError when there is none that can be read."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    if not files or any(file.suffix not in SUFFIXES for file in files):
        raise UserError(f"{path}: no {' or '.join(SUFFIXES)} files here, which prompts are read from")
    return files


def cut_parts(files: list[Path], size: int) -> list[Part]:
    """The rows of all files in parts of at most `size`, none of which goes over two files.

    UserError for a file that is damaged, or has a line that is no JSON object.
    """
    parts: list[Part] = []
    first = 0
    for file in files:
        starts = _json_starts(file, size) if file.suffix == ".jsonl" else _parquet_starts(file, size)
        for row, offset, rows in starts:
            parts.append(Part(len(parts), first, rows, str(file), row, offset))
            first += rows
    return parts


def read_part(part: Part) -> list[dict[str, Any]]:
    """The rows of a part."""
    if part.file.endswith(".jsonl"):
        with open(part.file, "rb") as lines:
            lines.seek(part.offset)
            rows = (json.loads(line) for line in lines if line.strip())
            return [next(rows) for _ in range(part.rows)]
    import pyarrow.parquet as pq

    rows_found: list[dict[str, Any]] = []
    with pq.ParquetFile(part.file) as table:
        at = 0  # the row that a group begins with
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            begin, end = max(part.row - at, 0), min(part.row + part.rows - at, size)
            if begin < end:
                rows_found += table.read_row_group(group).slice(begin, end - begin).to_pylist()
            at += size
    return rows_found


def prompt_ids(row: dict[str, Any], tokenizer: Tokenizer) -> tuple[list[int], bool]:
    """What the engine is given for a row, and whether that is a dialog; UserError for one that asks nothing."""
    asked = row.get("messages") if row.get("messages") is not None else row.get("prompt")
    if isinstance(asked, str):
        return tokenizer.encode(asked, bos=True), False
    if not isinstance(asked, list) or not asked:
        raise UserError(f"it asks nothing; of its columns ({', '.join(row)}), `prompt` or `messages` should")
    if all(isinstance(token, int) for token in asked):
        return asked, False
    last = asked[-1]
    if isinstance(last, dict) and last.get("role") == "assistant":
        raise UserError("it ends with the assistant's turn; leave off the answer that is to be written")
    tools = row.get("tools") or None
    return tokenizer.chat(asked, json.loads(tools) if isinstance(tools, str) else tools), True


def _json_starts(file: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """Row, offset and number of rows of each part of a JSONL file; lines without anything on them are no rows."""
    row = offset = begun = count = 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    found = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{file} line {number}: not JSON ({error}); was the file cut?") from None
                if not isinstance(found, dict):
                    raise UserError(f"{file} line {number}: {line[:60]!r} is not a JSON object")
                if count == size:
                    yield row, begun, count
                    row, count = row + count, 0
                begun = offset if count == 0 else begun
                count += 1
            offset += len(line)
    if count:
        yield row, begun, count


def _parquet_starts(file: Path, size: int) -> Iterator[tuple[int, int, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        total = pq.read_metadata(file).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: damaged or not Parquet ({error})") from None
    for row in range(0, total, size):
        yield row, 0, min(size, total - row)
