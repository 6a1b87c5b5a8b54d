"""The benchmarks that documents are searched for: known ones by name, any file of questions, the world's own."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from herdbook.corpus.rules import Rule, check_rules
from herdbook.settings import InputPath, Settings, UserError

KNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gsm8k": (("gsm8k/test.jsonl", "gsm8k.jsonl"), ("question",)),
    "humaneval": (("humaneval/HumanEval.jsonl.gz", "humaneval/HumanEval.jsonl", "humaneval.jsonl"), ("prompt",)),
    "ifeval": (("ifeval/input_data.jsonl", "ifeval.jsonl"), ("prompt",)),
    "math": (("math/*.jsonl", "math.jsonl"), ("problem", "prompt")),
    "mbpp": (("mbpp/mbpp.jsonl", "mbpp.jsonl"), ("text", "prompt")),
    "mgsm": (("mgsm/mgsm_*.tsv", "mgsm.jsonl"), ("question", "0")),
    "mmlu": (("mmlu/test/*.csv", "mmlu.jsonl"), ("question", "0")),
}
"""Name → where its files are below a folder of benchmarks (the first that is there), and the fields of a question."""
FIELDS = ("question", "prompt", "problem", "text", "input")

DEFAULT_RULES = (
    Rule(name="contaminated", column="contamination_question", above=0.5),
    Rule(name="contaminated", column="contamination_share", above=0.2),
)


class BenchmarkSettings(Settings):
    """A file of questions, or a folder of them."""

    name: str
    """What the column `contamination_benchmark` calls it."""

    path: InputPath
    """JSONL (plain or gzip), CSV, TSV or Parquet, or a folder of such files."""

    fields: tuple[str, ...] = FIELDS
    """Keys or columns that may hold a question; the first that a row has counts. Columns without names are 0, 1, …"""


class ContaminationSettings(Settings):
    """Which benchmarks documents are searched for, and what is done with those that hold their questions."""

    folder: InputPath | None = None
    """Folder with known benchmarks, each in a folder of its name: gsm8k, humaneval, ifeval, math, mbpp, mgsm, mmlu."""

    names: tuple[str, ...] | None = None
    """Which of the known ones; all that are there when not given."""

    benchmarks: tuple[BenchmarkSettings, ...] = ()
    """Other files of questions."""

    ngram: int = Field(default=8, ge=2, le=50)
    """Words in a row that must agree."""

    common: int = Field(default=10, ge=1)
    """Word runs in more questions of one benchmark than this are its usual wording and don't count."""

    rules: tuple[Rule, ...] = DEFAULT_RULES
    """What is dropped: where more than half of a question, or a fifth of the document, is found."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    """Other thresholds for the rules that read a column, for example `{contamination_question: 0.8}`."""

    off: tuple[str, ...] = ()
    """Rules (or columns they read) to switch off; `[contaminated]` marks and drops nothing."""

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        check_rules(self.rules, self.thresholds, self.off)
        for name in self.names or ():
            if name not in KNOWN:
                raise UserError(f"names: there is no benchmark {name!r}; there are {', '.join(KNOWN)}")
        return self


@dataclass(frozen=True)
class Benchmark:
    """Its name and its questions."""

    name: str
    questions: list[str]


def find_benchmarks(settings: ContaminationSettings, world: Path | None = None) -> list[Benchmark]:
    """All questions to search for, by benchmark; UserError where a named one is missing, or there are none at all."""
    found: dict[str, list[str]] = {}
    folders = [folder for folder in (settings.folder, world) if folder is not None]
    for name in settings.names if settings.names is not None else KNOWN:
        patterns, fields = KNOWN[name]
        for folder in folders:
            paths = next((paths for pattern in patterns if (paths := sorted(folder.glob(pattern)))), [])
            for path in paths:
                found.setdefault(name, []).extend(read_questions(path, fields))
        if settings.names is not None and name not in found:
            looked = " or ".join(patterns)
            where = ", ".join(map(str, folders)) or "no folder is given"
            raise UserError(f"benchmark {name}: not there; looked for {looked} ({where})")
    for benchmark in settings.benchmarks:
        one = benchmark.path.is_file()
        paths = [benchmark.path] if one else sorted(path for path in benchmark.path.rglob("*.*") if _known(path))
        if not paths:
            raise UserError(f"benchmark {benchmark.name}: no JSONL, CSV, TSV or Parquet file in {benchmark.path}")
        for path in paths:
            found.setdefault(benchmark.name, []).extend(read_questions(path, benchmark.fields))
    if not found:
        raise UserError("no benchmarks to search for; give `folder`, `benchmarks`, or feed a world")
    return [Benchmark(name, list(dict.fromkeys(questions))) for name, questions in found.items()]


def _known(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith((".jsonl", ".csv", ".tsv", ".parquet"))


def read_questions(path: Path, fields: tuple[str, ...]) -> list[str]:
    """The questions of one file; UserError where it can't be read or no row has one of the fields."""
    rows = 0
    questions = []
    seen: dict[str, None] = {}
    try:
        for row in _rows(path):
            rows += 1
            seen.update(dict.fromkeys(row))
            text = next((str(row[field]) for field in fields if row.get(field) not in (None, "")), None)
            if text is not None:
                questions.append(text)
    except (OSError, ValueError, EOFError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"benchmark file {path}, row {rows + 1}: it can't be read ({error})") from None
    if not questions:
        has = f"it has {', '.join(seen)}" if seen else "it is empty"
        raise UserError(f"benchmark file {path}: no row has {' or '.join(fields)}; {has}")
    return questions


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            yield from pq.read_table(path).to_pylist()
        except pa.ArrowException as error:
            raise OSError(error) from None
        return
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    if name.endswith((".csv", ".tsv")):
        csv.field_size_limit(1 << 27)
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if name.endswith("tsv") else ","))
        heads = table[0] if table and any(head in FIELDS for head in table[0]) else []
        for line in table[1 if heads else 0 :]:
            yield {str(number): value for number, value in enumerate(line)} | dict(zip(heads, line))
        return
    for one in text.splitlines():
        if one.strip():
            row = json.loads(one)
            if not isinstance(row, dict):
                raise ValueError(f"{one[:40]!r} is no object")
            yield row
