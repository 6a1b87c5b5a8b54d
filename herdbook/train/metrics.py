"""The record of a run: one JSON line per step in `metrics.jsonl`, the same values as TensorBoard events.

A killed run has records of steps after its last checkpoint; a resumed run takes those back first, so the
file has every step once, in order.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from herdbook.settings import UserError


class MetricsLog:
    """Appends records to `folder`/metrics.jsonl and `folder`/tensorboard."""

    def __init__(
        self, folder: Path, next_step: int, tensorboard: bool = True, last: dict[str, Any] | None = None
    ) -> None:
        """Records of `next_step` and later, and a half-written last line, are cut off.

        `last` is the record before `next_step`, written where who should have written it did not come to it.
        """
        self.path = folder / "metrics.jsonl"
        kept = keep_before(self.path, next_step)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self.writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step, flush_secs=30)
        if last and kept < last["step"] == next_step - 1:
            self.write(last["step"], last)

    def write(self, step: int, record: dict[str, Any]) -> None:
        """Write one step's values; numbers that JSON does not have become null."""
        clean = {key: _finite(value) for key, value in record.items()}
        try:
            self.file.write(json.dumps({"step": step, **clean}) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: can't be written ({error.strerror}); checkpoints before step {step} are whole: "
                "make room and run again to go on"
            ) from error
        if self.writer is not None:
            for key, value in record.items():
                if isinstance(value, (int, float)):
                    self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush and close both files; a disk that is full was told of when the step was written."""
        with suppress(OSError):
            self.file.flush()
            os.fsync(self.file.fileno())
        with suppress(OSError):
            self.file.close()
        if self.writer is not None:
            self.writer.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keep_before(path: Path, next_step: int) -> int:
    """Cut a metrics file before its first record of `next_step` or later, or its first broken line.

    Returns the step of the last record kept, -1 where there is none.
    """
    if not path.exists():
        return -1
    good, last = 0, -1
    with open(path, "rb") as file:
        for line in file:
            try:
                step = json.loads(line)["step"]
                whole = line.endswith(b"\n") and step < next_step
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                break
            good, last = good + len(line), step
    os.truncate(path, good)
    return last


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of a metrics file, in order."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_whole(path: Path) -> list[dict[str, Any]]:
    """The records of a file that may be absent, or end in a line that was being written."""
    records: list[dict[str, Any]] = []
    if path.exists():
        with open(path, "rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    break
                if not isinstance(record, dict):
                    break
                records.append(record)
    return records


def nested(figures: dict[str, Any]) -> dict[str, Any]:
    """`bits_per_byte/SET` moved into a mapping of its own, as entries' metrics are nested."""
    flat = {key: value for key, value in figures.items() if "/" not in key}
    for key, value in figures.items():
        if "/" in key:
            name, one = key.split("/", 1)
            flat.setdefault(f"{name}_of", {})[one] = value
    return flat
