"""The stage kind `mix`: documents by group, topic, language and source in the shares that training wants (§3.1.2).

How often a document is read is worked out for its cell (allot.py). The whole part of that number is how often it is
written, and a hash of its id decides about the rest, so the same id always falls the same way, and a larger mix holds a
smaller one. Repetitions go to files of their own, far from each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from rich.table import Table

from herdbook import console
from herdbook.corpus.allot import Cells, share_out
from herdbook.corpus.mix_settings import PAPER, GroupSettings, MatchSettings, MixSettings
from herdbook.corpus.republish import Column, Shard, counts, read_columns, republish, shards_of, write_table
from herdbook.corpus.rules import Rule
from herdbook.settings import UserError

RULES = [Rule(name="no_group", column="mix_grouped", below=1), Rule(name="mixed_out", column="mix_copies", below=1)]


@dataclass
class Sorted:
    """N documents with what the mix needs to know of each."""

    group: np.ndarray  # (N,) int64, -1 for none
    size: np.ndarray  # (N,) bytes
    topic: np.ndarray  # (N,) str
    language: np.ndarray  # (N,) str
    stage: np.ndarray  # (N,) str
    source: np.ndarray  # (N,) str
    best: np.ndarray  # (N,) bool


def mix(settings: MixSettings, documents: dict[str, Path], out: Path) -> dict[str, Any]:
    """Write the mix of the documents of some stages into `out`; returns wanted and reached shares of every group."""
    shards = shards_of(documents)
    held = sort_documents(settings, shards)
    epochs = epochs_of_documents(settings, held)
    ids = read_columns(shards, ["id"])["id"]
    copies = copies_of(ids, epochs, settings.seed)
    names = np.array([*(group.name for group in settings.groups), ""])
    columns: dict[str, Column] = {
        "mix_group": [names[index] or None for index in held.group],
        "mix_epochs": epochs,
        "mix_copies": copies,
        "mix_grouped": (held.group >= 0).astype(np.int64),
    }
    metrics = republish(shards, columns, RULES, out)
    write_repetitions(out)
    return metrics | report(settings, held, copies)


def sort_documents(settings: MixSettings, shards: list[Shard]) -> Sorted:
    """Put every document into the first group it matches. UserError for a column that no document has."""
    given = settings.groups != PAPER
    scores = {name for group in settings.groups for match in group.match for name in match.at_least}
    wanted = scores | ({settings.best.column} if settings.best else set())
    there = {name for shard in shards for name in pq.read_schema(shard.path).names}
    for name in sorted(wanted - there):
        if given or (settings.best and name == settings.best.column):
            near = ", ".join(sorted(one for one in there if one.startswith(name.split("_")[0]))) or "none like it"
            raise UserError(f"mix: no document has the column {name!r} (there is {near}); score the documents first")
    columns = read_columns(shards, [*sorted(wanted), "language", "source", settings.topic_column])
    columns["topic"] = columns.pop(settings.topic_column)
    columns["stage"] = np.repeat([shard.stage for shard in shards], counts(shards)) if shards else np.zeros(0, str)
    group = np.full(len(columns["stage"]), -1, dtype=np.int64)
    for index, one in enumerate(settings.groups):
        group[(group < 0) & belongs(one, columns)] = index
    best = np.zeros(len(group), dtype=bool)
    if settings.best:
        best = best_of(columns[settings.best.column], group, settings.best.top)
    parts = [pc.binary_length(pq.read_table(shard.path, columns=["text"])["text"]).to_numpy() for shard in shards]
    size = np.nan_to_num(np.concatenate(parts).astype(np.float64))
    return Sorted(group, size, columns["topic"], columns["language"], columns["stage"], columns["source"], best)


def belongs(group: GroupSettings, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Which documents (N,) bool a group takes, whatever other groups do."""
    count = len(columns["stage"])
    found = np.full(count, not group.match)
    for match in group.match:
        found |= holds(match, columns)
    return found


def holds(match: MatchSettings, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Which documents (N,) bool have every given part; a missing value has none."""
    found = np.ones(len(columns["stage"]), dtype=bool)
    if match.topics:
        found &= np.isin(columns["topic"], match.topics)
    if match.languages:
        found &= np.isin(columns["language"], match.languages)
    if match.languages_except:
        found &= ~np.isin(columns["language"], match.languages_except)
    if match.sources:
        found &= np.isin(columns["stage"], match.sources) | np.isin(columns["source"], match.sources)
    for name, least in match.at_least.items():
        values = columns[name]
        found &= values >= least if values.dtype.kind == "f" else False
    return found


def best_of(values: np.ndarray, group: np.ndarray, top: float) -> np.ndarray:
    """Which documents (N,) bool are among the best of their group; those without a value never are."""
    best = np.zeros(len(values), dtype=bool)
    for index in np.unique(group[group >= 0]):
        rows = np.flatnonzero((group == index) & ~np.isnan(values))
        count = round(top * len(rows))
        best[rows[np.argsort(-values[rows], kind="stable")[:count]]] = True
    return best


def limits_of(settings: MixSettings, held: Sorted) -> np.ndarray:
    """How often each document (N,) may be read at most."""
    limits = np.full(len(held.size), settings.epochs)
    for name, most in settings.epochs_of.items():
        limits[(held.stage == name) | (held.source == name)] = most
    return limits


def epochs_of_documents(settings: MixSettings, held: Sorted) -> np.ndarray:
    """How often each document (N,) is to be read, a fraction at times."""
    limits = limits_of(settings, held)
    preferences = np.ones(len(held.size))
    if settings.best:
        preferences[held.best] = settings.best.weight
    for index in range(len(settings.groups)):
        rows = np.flatnonzero(held.group == index)
        names, inverse = np.unique(held.language[rows], return_inverse=True)
        sizes = np.bincount(inverse, weights=held.size[rows], minlength=len(names))
        if len(names) and sizes.sum():
            preferences[rows] *= ((np.maximum(sizes, 1) / sizes.sum()) ** (settings.language_power - 1))[inverse]
    epochs = np.zeros(len(held.size))
    rows_of, cells_of, cell_of = [], [], []
    for index in range(len(settings.groups)):
        rows = np.flatnonzero(held.group == index)
        cells, inverse = to_cells(held, rows, limits[rows], preferences[rows])
        rows_of.append(rows)
        cells_of.append(cells)
        cell_of.append(inverse)
    shares = np.array([group.share for group in settings.groups])
    total = settings.size_mb * 1e6 if settings.size_mb else float(held.size[held.group >= 0].sum())
    found = share_out(cells_of, shares, total, settings.topic_limit, settings.short)
    for rows, inverse, one in zip(rows_of, cell_of, found):
        epochs[rows] = one[inverse] if len(rows) else 0.0
    return epochs


def to_cells(held: Sorted, rows: np.ndarray, limits: np.ndarray, preferences: np.ndarray) -> tuple[Cells, np.ndarray]:
    """The cells of these documents, and the cell of each."""
    names, topic = np.unique(held.topic[rows], return_inverse=True)
    if len(names) and names[0] == "":
        topic = topic - 1  # what has no topic is no topic of its own
    keys = np.stack([topic.astype(np.float64), limits, preferences], axis=1).reshape(-1, 3)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    sizes = np.bincount(inverse, weights=held.size[rows], minlength=len(unique))
    return Cells(sizes, unique[:, 1], unique[:, 2], unique[:, 0].astype(np.int64)), inverse


def copies_of(ids: np.ndarray, epochs: np.ndarray, seed: int) -> np.ndarray:
    """How often each document (N,) int64 is written: the whole part of its epochs, and once more by its hash."""
    drawn = np.array([xxhash.xxh3_64_intdigest(f"mix-{seed}\0{id}".encode()) / 2.0**64 for id in ids])
    whole = np.floor(epochs + 1e-9)
    return (whole + (drawn < epochs - whole)).astype(np.int64)


def write_repetitions(out: Path) -> None:
    """Write what is to be read several times several times: the second reading of all files after the first of all."""
    folder = out / "documents"
    first = sorted(folder.glob("*.parquet"))
    for path in first:
        table = pq.read_table(path)
        most = pc.max(table["mix_copies"]).as_py() or 0
        for number in range(2, most + 1):
            again = table.filter(pc.greater_equal(table["mix_copies"], number))
            write_table(again, folder / f"again-{number:03d}-{path.name}")


def report(settings: MixSettings, held: Sorted, copies: np.ndarray) -> dict[str, Any]:
    """Wanted and reached shares of every group and topic, printed and as figures."""
    read, limits = held.size * copies, limits_of(settings, held)
    total, wanted = max(float(read.sum()), 1.0), sum(group.share for group in settings.groups)
    figures: dict[str, Any] = {}
    table = Table(title="The mix")
    for name in ("group", "wanted", "reached", "MB there", "MB read", "epochs"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for index, group in enumerate(settings.groups):
        rows = held.group == index
        there, given = float(held.size[rows].sum()), float(read[rows].sum())
        names = np.unique(held.topic[rows])
        topics = {str(name): float(read[rows & (held.topic == name)].sum()) / max(given, 1) for name in names}
        one: dict[str, Any] = {"wanted": group.share / wanted, "reached": given / total, "mb": given / 1e6}
        one |= {"mb_there": there / 1e6, "epochs": given / there if there else 0.0, "documents": int(rows.sum())}
        one["mb_most"] = float(held.size[rows] @ limits[rows]) / 1e6
        if set(topics) - {""}:
            one["topics"] = dict(sorted(topics.items(), key=lambda item: -item[1])[:20])
        figures[group.name] = one
        shares = f"{one['wanted']:.1%}", f"{one['reached']:.1%}"
        table.add_row(group.name, *shares, f"{there / 1e6:,.2f}", f"{given / 1e6:,.2f}", f"{one['epochs']:.2f}")
    console.out.print(table)
    said = shortages(settings, figures)
    for line in said:
        console.out.print(line, markup=False)
    return {"mix": figures, "mb": total / 1e6, "short": said}


def shortages(settings: MixSettings, figures: dict[str, Any]) -> list[str]:
    """What to say of groups that could not have their share."""
    lines = []
    for name, one in figures.items():
        if not one["documents"]:
            lines.append(f"group {name} has no documents at all; look at its `match`, or give it a source")
        elif one["reached"] < one["wanted"] * 0.95 and settings.short == "fill":
            if one["mb"] < one["mb_most"] * 0.9:
                lines.append(
                    f"group {name} has {one['reached']:.1%} of the mix and {one['wanted']:.1%} are wanted, for "
                    f"topic_limit={settings.topic_limit} holds its topics back; raise it, or give other topics"
                )
                continue
            lines.append(
                f"group {name} is too small: {one['mb_there']:.2f} MB, read {one['epochs']:.1f} times, give "
                f"{one['reached']:.1%} of the mix, and {one['wanted']:.1%} are wanted; give it more documents, more "
                "epochs, or say `short: shrink`"
            )
    return lines
