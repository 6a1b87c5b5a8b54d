"""Trained models as points that laws are fitted to: size, tokens, loss (§3.2.1); read from anyone's CSV.

Letters: R runs. Losses are nats per token unless the file says otherwise; a law only needs one unit throughout.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from herdbook.settings import UserError

NAMES = {
    "parameters": ("parameters", "params", "n", "model size", "model_size"),
    "tokens": ("tokens", "d", "training tokens", "training_tokens", "dataset size"),
    "flops": ("flops", "c", "compute", "training flop", "training flops"),
    "loss": ("loss", "final loss", "l", "nll"),
}
"""What each column may be called, in any case; other columns are kept where they hold numbers."""


@dataclass(frozen=True)
class Runs:
    """R trained models."""

    parameters: np.ndarray  # (R,) float64
    tokens: np.ndarray  # (R,) float64
    loss: np.ndarray  # (R,) float64
    flops: np.ndarray  # (R,) float64, of training; 6 · parameters · tokens where not told
    more: dict[str, np.ndarray] = field(default_factory=dict)  # further columns, each (R,)

    def __len__(self) -> int:
        return len(self.loss)

    def __getitem__(self, chosen: np.ndarray) -> Runs:
        """The runs of a mask or of indices."""
        more = {name: values[chosen] for name, values in self.more.items()}
        return Runs(self.parameters[chosen], self.tokens[chosen], self.loss[chosen], self.flops[chosen], more)

    def with_loss(self, loss: np.ndarray) -> Runs:
        """The same runs with other losses."""
        return Runs(self.parameters, self.tokens, loss, self.flops, self.more)

    def budgets(self, tolerance: float = 0.15) -> list[np.ndarray]:
        """Indices of the runs of each compute budget, ascending; in one, neighbours' FLOPs are within `tolerance`.

        Budgets are at least half as large again as the one below, but a budget's runs differ: a row's documents are of
        many lengths, so how much attention a run has is known only afterwards, and counts most in small models.
        """
        order = np.argsort(self.flops, kind="stable")
        steps = np.flatnonzero(np.diff(np.log(self.flops[order])) > tolerance)
        return np.split(order, steps + 1)


def make_runs(
    parameters: np.ndarray,
    tokens: np.ndarray,
    loss: np.ndarray,
    flops: np.ndarray | None = None,
    where: str = "runs",
    **more: np.ndarray,
) -> Runs:
    """Runs from columns; UserError names the first row whose number is not positive and finite (rows from 1)."""
    columns = {"parameters": parameters, "tokens": tokens, "loss": loss}
    if flops is not None:
        columns["flops"] = flops
    checked = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    for name, values in checked.items():
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(wrong):
            raise UserError(
                f"{where}, row {wrong[0] + 1}: {name} is {values[wrong[0]]:g}, but must be a number above 0; "
                "leave that run out or mend it"
            )
    made = checked.get("flops", 6.0 * checked["parameters"] * checked["tokens"])
    kept = {name: np.asarray(values, np.float64) for name, values in more.items()}
    return Runs(checked["parameters"], checked["tokens"], checked["loss"], made, kept)


def read_runs(path: Path) -> Runs:
    """Runs of a CSV with a header row; UserError when a column is missing or a cell is no number.

    Parameters, tokens and loss are needed, but where FLOPs are given one of the first two follows from C = 6 N D.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header, rows = list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV in UTF-8: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no runs; it must be a CSV with a header row and a row per trained model")
    known = {name: column for name, wanted in NAMES.items() if (column := _column(header, wanted))}
    values = {name: _numbers(path, rows, column) for name, column in known.items()}
    if "flops" in values:
        for name, other in (("parameters", "tokens"), ("tokens", "parameters")):
            if name not in values and other in values:
                values[name] = values["flops"] / (6.0 * values[other])
    missing = [name for name in ("parameters", "tokens", "loss") if name not in values]
    if missing:
        raise UserError(f"{path} has no column for {', '.join(missing)}; it has {', '.join(header)}")
    more = {}
    for column in header:
        if column not in known.values():
            try:
                more[column] = np.array([float(row[column]) for row in rows])
            except (TypeError, ValueError):
                continue
    flops = values.get("flops")
    if flops is not None:
        ratio = float(np.median(flops / (6.0 * values["parameters"] * values["tokens"])))
        if 0 < ratio < math.inf and not 0.1 <= ratio <= 10:
            raise UserError(
                f"{path}: {known['flops']} is {ratio:.3g} times 6 x parameters x tokens (the median); give operations, "
                "not tera- or petaFLOPs, or leave the column out"
            )
    return make_runs(values["parameters"], values["tokens"], values["loss"], flops, str(path), **more)


def _column(header: list[str], wanted: tuple[str, ...]) -> str | None:
    lowered = {name.strip().lower(): name for name in header}
    return next((lowered[name] for name in wanted if name in lowered), None)


def _numbers(path: Path, rows: list[dict[str, str]], column: str) -> np.ndarray:
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            found.append(float(row[column]))
        except (TypeError, ValueError):
            raise UserError(f"{path}:{number}: {column} is {row[column]!r}, which is no number") from None
    return np.array(found)
