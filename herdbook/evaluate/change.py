"""What changed between two exams over the same questions, with 95 % intervals: the `change` stage.

Two models that answer the same questions are compared question by question. That interval is far narrower than those
of two exams apart, for what makes a question hard is hard for both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from herdbook.evaluate.intervals import Figure, mean, ratio
from herdbook.settings import Settings, UserError

Row = dict[str, Any]
NAMES = {"right": "accuracy", "passed": "pass_rate", "bits": "bits_per_byte"}
"""What a mark of samples is called among the figures, where not by its own name."""


class ChangeSettings(Settings):
    """How two exams are compared."""

    by: tuple[str, ...] = ()
    """Groups of questions (such as exposures or task) to tell the change in, besides that over all."""

    seed: int = 1
    """Seed of the bootstrap."""


def change(settings: ChangeSettings, before: Path, after: dict[str, Path], out: Path) -> dict[str, Any]:
    """Each exam of `after` minus the exam `before`, by the stage's name; see `paired_change`.

    Raises UserError where two exams have no question in common.
    """
    return {name: paired_change(before, folder, settings.seed, settings.by) for name, folder in after.items()}


def paired_change(before: Path, after: Path, seed: int, by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Per task and mark, after minus before, with 95 % intervals over the questions or documents that both have.

    `before` and `after` hold `samples/TASK.jsonl`. Programs count by the share of their samples that passed. Groups of
    `by` are called TASK_VALUE, and TASK_KEY_VALUE where a key before has the same value. Raises UserError when a
    task's questions are not the same ones, or no task is in both.
    """
    tasks = [
        path.name for path in sorted((before / "samples").glob("*.jsonl")) if (after / "samples" / path.name).is_file()
    ]
    if not tasks:
        raise UserError(f"{before} and {after} have no task in common; let both exams ask the same tasks")
    found: dict[str, Any] = {}
    for file in tasks:
        pairs = matched(before / "samples" / file, after / "samples" / file)
        if not pairs:
            continue
        task = file.removesuffix(".jsonl")
        found[task] = moved(pairs, seed)
        for key in by:
            values = sorted({str(old.get("group", {}).get(key)) for old, _ in pairs} - {"None"})
            for value in values:
                own = [pair for pair in pairs if str(pair[0].get("group", {}).get(key)) == value]
                name = f"{task}_{value}"
                found[f"{task}_{key}_{value}" if name in found else name] = moved(own, seed)
    return found


def matched(before: Path, after: Path) -> list[tuple[Row, Row]]:
    """The samples of two files side by side; `UserError` unless they are of the same questions in the same order."""
    old, new = read_samples(before), read_samples(after)
    if [row.get("id") for row in old] != [row.get("id") for row in new]:
        raise UserError(
            f"{before} and {after} are not about the same questions ({len(old)} and {len(new)}); "
            "give both exams the same limit and seed"
        )
    return list(zip(old, new, strict=True))


def moved(pairs: list[tuple[Row, Row]], seed: int) -> dict[str, Figure]:
    """The change of every mark that samples carry: what is true or false, and `score`s from 0 to 1."""
    first = pairs[0][0]
    if "bits" in first:
        bits, size = [new["bits"] - old["bits"] for old, new in pairs], [float(old["bytes"]) for old, _ in pairs]
        return {NAMES["bits"]: ratio(bits, size, seed)}
    if "passed" in first:
        return {NAMES["passed"]: _difference(pairs, "passed", seed)}
    marks = dict.fromkeys(m for old, _ in pairs for m, value in old.items() if isinstance(value, bool) or m == "score")
    return {NAMES.get(mark, mark): _difference(pairs, mark, seed) for mark in marks}


def _difference(pairs: list[tuple[Row, Row]], mark: str, seed: int) -> Figure:
    """After minus before, over the questions of which both samples carry the mark."""
    read = value_of(mark)
    return mean([read(new) - read(old) for old, new in pairs if mark in old and mark in new], seed)


def value_of(mark: str) -> Callable[[Row], float]:
    """Reads a mark of a sample as a number."""
    if mark == "passed":
        return lambda row: float(row["passed"]) / int(row["samples"])
    return lambda row: float(row[mark])


def read_samples(path: Path) -> list[Row]:
    """The samples of one task."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
