"""Labels of documents: from a file, from the known world's truth, or asked of a chat model; and their texts.

Labels are matched by id and address over small columns first; texts are read only of what is labelled. Labels that are
numbers or true/false make two classes, `bad` and `good`; names are classes themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from herdbook.corpus.quality.endpoint import Asker, Bill
from herdbook.corpus.quality.rubrics import Rubric
from herdbook.corpus.quality.settings import EndpointSettings, HeadSettings
from herdbook.settings import UserError

Label = float | bool | str
TWO_CLASSES = ["bad", "good"]
REASONING = ("worksheet", "lesson")

WORLD: dict[str, Callable[[dict[str, Any]], Label]] = {
    "good": lambda row: row["expected"] in ("kept", "deduplicated"),
    "code": lambda row: bool(row["code"]),
    "reasoning": lambda row: row["genre"] in REASONING,
    "genre": lambda row: str(row["genre"]),
    "language": lambda row: str(row["language"]),
}
"""What each kind of label is made of in a row of `truth.parquet`."""


@dataclass
class Labelled:
    """Texts with classes (N,) int64, and the names of the classes."""

    texts: list[str]
    truth: np.ndarray
    classes: list[str]
    found: int
    """Labels that were given; those beyond the texts found no document."""


def draw(text: str, purpose: str) -> float:
    """A number in [0, 1) that is the same whenever a text is drawn for the same purpose."""
    return xxhash.xxh3_64_intdigest(f"{purpose}\0{text}".encode("utf-8", "replace")) / 2.0**64


def document_files(entry: Path, dropped_too: bool = False) -> list[Path]:
    """The Parquet files of an entry's documents, or of all it measured."""
    folder = entry / ("measured" if dropped_too else "documents")
    files = sorted(folder.glob("*.parquet"))
    if not files:
        known = "only a curate stage keeps what it dropped; leave out `dropped_too`" if dropped_too else "curate first"
        raise UserError(f"{folder}: no *.parquet here; {known}")
    return files


class Documents:
    """The documents of some entries: small columns at hand, texts on demand."""

    def __init__(self, entries: list[Path], dropped_too: bool = False) -> None:
        self.files = [file for entry in entries for file in document_files(entry, dropped_too)]

    def rows(self, *columns: str) -> Iterator[tuple[str, ...]]:
        """These columns of every document, as text; empty where a file has no such column."""
        import pyarrow.parquet as pq

        for file in self.files:
            there = set(pq.read_schema(file).names)
            table = pq.read_table(file, columns=[name for name in columns if name in there])
            empty = [""] * table.num_rows
            parts = [table[name].to_pylist() if name in there else empty for name in columns]
            yield from zip(*([str(value or "") for value in part] for part in parts))

    def texts(self, ids: set[str]) -> dict[str, str]:
        """The texts of these documents by id."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        wanted = pa.array(sorted(ids), pa.string())
        found: dict[str, str] = {}
        for file in self.files:
            table = pq.read_table(file, columns=["id", "text"])
            table = table.filter(pc.is_in(table["id"].cast(pa.string()), wanted))
            found.update(zip(table["id"].to_pylist(), table["text"].to_pylist()))
        return found


def from_file(path: Path, field: str, documents: Documents) -> tuple[dict[str, Label], int]:
    """Labels by text, and how many there were. UserError for a file that can't be understood."""
    rows = _rows_of(path)
    if not rows:
        raise UserError(f"labels {path}: the file is empty")
    by_name: dict[str, dict[str, Label]] = {"id": {}, "url": {}, "text": {}}
    for number, row in enumerate(rows, 1):
        name = next((name for name in ("text", "id", "url") if row.get(name)), None)
        if name is None or row.get(field) is None:
            missing = f"no {field!r}" if name else "none of 'id', 'url' and 'text'"
            raise UserError(
                f"labels {path}, row {number}: it has {missing}; it has {', '.join(map(repr, row)) or 'nothing'}"
            )
        if not isinstance(row[field], (bool, int, float, str)):
            raise UserError(f"labels {path}, row {number}: the label {row[field]!r} is no number, truth value or name")
        by_name[name][str(row[name])] = row[field]
    by_id: dict[str, Label] = {}
    if by_name["id"] or by_name["url"]:
        for id, url in documents.rows("id", "url"):
            if id in by_name["id"] or url in by_name["url"]:
                by_id[id] = by_name["id"].get(id, by_name["url"].get(url, ""))
    labels = {text: by_id[id] for id, text in documents.texts(set(by_id)).items()} if by_id else {}
    return labels | by_name["text"], len(rows)


def _rows_of(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pylist()
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"labels {path}:{number}: a line is an object with a label, not {line[:60]!r}")
                rows.append(row)
        return rows
    except json.JSONDecodeError as error:
        raise UserError(f"labels {path}:{number}: no JSON ({error.msg}); give JSONL or Parquet") from None
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(f"labels {path}: it can't be read ({error}); give JSONL or Parquet") from None


def from_world(world: Path, kind: str, documents: Documents) -> tuple[dict[str, Label], int]:
    """Labels by text from the truth about the pages of a known world, and how many pages there are."""
    import pyarrow.parquet as pq

    columns = ["url", "date", "expected", "genre", "language", "code"]
    truth = pq.read_table(world / "truth.parquet", columns=columns).to_pylist()
    known = {(row["url"], row["date"][:19]): WORLD[kind](row) for row in truth}
    by_id = {
        id: known[url, date[:19]] for id, url, date in documents.rows("id", "url", "date") if (url, date[:19]) in known
    }
    return {text: by_id[id] for id, text in documents.texts(set(by_id)).items()}, len(truth)


def from_model(
    head: HeadSettings, endpoint: EndpointSettings, documents: Documents, sample: int, seed: int
) -> tuple[dict[str, Label], int, Bill]:
    """Labels by text from a chat model asked about a sample of the documents, how many were asked about, the bill."""
    assert head.rubric is not None
    ids = sorted((id for (id,) in documents.rows("id")), key=lambda id: (draw(id, f"sample-{seed}"), id))[:sample]
    texts = {id: text for id, text in documents.texts(set(ids)).items() if text.strip()}
    answers, bill = Asker(endpoint, Rubric(head.rubric, head.topics)).ask(texts)
    return {texts[id]: label for id, label in answers.items()}, len(texts), bill


def as_classes(labels: dict[str, Label], found: int, good_from: float, what: str) -> Labelled:
    """Labels as numbered classes; UserError where there are not two, or kinds of labels are mixed."""
    values = list(labels.values())
    named = {isinstance(value, str) for value in values}
    if not values:
        raise UserError(f"{what}: none of the {found:,} labels belongs to a document; are ids and addresses the same?")
    if len(named) == 2:
        raise UserError(f"{what}: some labels are names and some are numbers; give one kind")
    if named == {True}:
        classes = sorted({str(value) for value in values})
        truth = np.array([classes.index(str(value)) for value in values], dtype=np.int64)
    else:
        two = all(value in (0, 1) for value in values)
        classes = TWO_CLASSES
        truth = np.array([float(value) >= (1 if two else good_from) for value in values], dtype=np.int64)
    counts = np.bincount(truth, minlength=len(classes))
    if (counts > 0).sum() < 2:
        only = classes[int(counts.argmax())]
        raise UserError(f"{what}: all {len(values):,} labelled documents are {only!r}, so there is nothing to learn")
    return Labelled(list(labels), truth, classes, found)
