"""The stage kind `score`: classifiers applied to documents, their scores as columns, and rules over the columns.

Scores are written file by file and published by rename, so a killed run scores only what is missing, and deciding again
with other rules scores nothing. Scores of different languages can't be compared (a classifier learns from what
its labels were given for), so `quality_rank` tells how a document stands among those of its own language.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import rankdata

from herdbook.console import Tracker, progress
from herdbook.corpus.quality.settings import ScoreSettings
from herdbook.corpus.quality.train import Head, load_heads
from herdbook.corpus.republish import Column, Shard, read_columns, republish, shards_of, write_table
from herdbook.corpus.rules import active_rules
from herdbook.settings import UserError

ROWS = 256
RANK = "quality_rank"
LEAST_BYTES = 4 << 20
"""Size of the documents' files from which processes are worth their start."""
_ATTEMPTS = 3


def score(settings: ScoreSettings, documents: list[Path], quality: list[Path], out: Path) -> dict[str, Any]:
    """Score the documents with every head of the folders `quality`, and republish them into `out` with the columns."""
    shards = shards_of(documents)
    heads = check_heads(quality)
    _score_all(shards, quality, heads, out / "scored", settings.workers or free_cores())
    return decide_scores_again(settings, documents, heads, out)


def check_heads(quality: list[Path]) -> list[Head]:
    """The heads of all folders; UserError when two give the same column."""
    heads = [head for folder in quality for head in load_heads(folder)]
    names = [column for head in heads for column in head.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"several classifiers give the column {', '.join(twice)}; give their heads different names")
    return heads


def decide_scores_again(settings: ScoreSettings, documents: list[Path], heads: list[Head], out: Path) -> dict[str, Any]:
    """Rank and decide by what `out` holds scored; no text is scored."""
    shards = shards_of(documents)
    scored = [out / "scored" / f"{number:05d}.parquet" for number in range(len(shards))]
    if missing := [path.name for path in scored if not path.is_file()]:
        raise UserError(f"{out / 'scored'}: {missing[0]} is missing; score first")
    table = pa.concat_tables([pq.read_table(path) for path in scored])
    columns: dict[str, Column] = {}
    for name in table.column_names:
        text = pa.types.is_string(table.schema.field(name).type)
        columns[name] = table[name].to_pylist() if text else table[name].to_numpy()
    graded = [head.columns[0] for head in heads if head.graded]
    by = settings.rank_by or next(iter(graded), None)
    if by is not None:
        if by not in graded:
            known = ", ".join(graded) or "no graded head"
            raise UserError(f"rank_by: there is no score {by!r}; there is {known}")
        languages = read_columns(shards, ["language"])["language"]
        columns[RANK] = ranks(np.asarray(columns[by]), languages, settings.rank_least)
    metrics = republish(shards, columns, active_rules(settings.rules, settings.thresholds, settings.off), out)
    return metrics | {"scores": _summary(columns, heads)}


def ranks(scores: np.ndarray, languages: np.ndarray, least: int) -> np.ndarray:
    """Percentile (N,) in (0, 1) of each score among those of its language, ties sharing one; NaN in small languages."""
    found = np.full(len(scores), np.nan)
    for language in np.unique(languages):
        rows = np.flatnonzero(languages == language)
        if len(rows) >= least:
            found[rows] = (rankdata(scores[rows]) - 0.5) / len(rows)
    return found


def _summary(columns: dict[str, Column], heads: list[Head]) -> dict[str, Any]:
    """Mean of each graded score; documents of each class."""
    result: dict[str, Any] = {}
    for head in heads:
        values = columns[head.columns[0]]
        if head.graded:
            result[head.columns[0]] = {"mean": float(np.mean(values)) if len(values) else None}
        else:
            names, numbers = np.unique(np.array(values, dtype=str), return_counts=True)
            result[head.name] = dict(zip(names.tolist(), numbers.tolist()))
    return result


def free_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _heads(quality: tuple[Path, ...]) -> list[Head]:
    return check_heads(list(quality))


def score_shard(path: Path, quality: tuple[Path, ...], target: Path) -> int:
    """Score one file of documents and publish the columns as `target`; returns the number of documents."""
    with pq.ParquetFile(path) as file:
        parts = [score_texts(batch["text"].to_pylist(), quality) for batch in file.iter_batches(ROWS, columns=["text"])]
    table = pa.concat_tables(parts) if parts else score_texts([], quality)
    write_table(table, target)
    return table.num_rows


def score_texts(texts: list[str | None], quality: tuple[Path, ...]) -> pa.Table:
    """The columns of every head for some texts, always of the same types."""
    heads = _heads(quality)
    fields = [(c, pa.string() if not h.graded and c == h.name else pa.float64()) for h in heads for c in h.columns]
    found: dict[str, list[Any]] = {name: [] for name, _ in fields}
    for start in range(0, len(texts), ROWS):
        part = [text or "" for text in texts[start : start + ROWS]]
        seen: dict[str, Any] = {}
        for head in heads:
            for name, values in head.score(part, seen).items():
                found[name] += list(values)
    return pa.table(found, schema=pa.schema(fields))


def judged(table: pa.Table, quality: tuple[Path, ...]) -> pa.Table:
    """Measured pages with the scores of these classifiers beside the other measurements."""
    scores = score_texts(table["text"].to_pylist(), quality)
    for name in scores.column_names:
        if name in table.column_names:
            raise UserError(f"a classifier gives the column {name!r}, which is measured already; rename its head")
        table = table.append_column(name, scores[name])
    return table


def _score_all(shards: list[Shard], quality: list[Path], heads: list[Head], folder: Path, workers: int) -> None:
    work = {number: shard for number, shard in enumerate(shards) if not (folder / f"{number:05d}.parquet").is_file()}
    folders = tuple(quality)
    many = workers > 1 and len(work) > 1 and sum(shard.path.stat().st_size for shard in work.values()) > LEAST_BYTES
    many = many and all(hasattr(head.classifier, "weights") for head in heads)  # an encoder uses all cores, or the GPU
    with progress("scoring", len(work), "files") as bar:
        if not many:
            for number, shard in work.items():
                score_shard(shard.path, folders, folder / f"{number:05d}.parquet")
                bar.advance()
            return
        for _ in range(_ATTEMPTS):
            try:
                _score_parallel(work, folders, folder, workers, bar)
                return
            except BrokenProcessPool:
                work = {n: s for n, s in work.items() if not (folder / f"{n:05d}.parquet").is_file()}
    raise UserError(f"scoring processes died {_ATTEMPTS} times; lower `workers` if memory ran out")


def _score_parallel(
    work: dict[int, Shard], quality: tuple[Path, ...], folder: Path, workers: int, bar: Tracker
) -> None:
    with ProcessPoolExecutor(min(workers, len(work)), mp_context=get_context("spawn"), initializer=_worker) as pool:
        jobs = [pool.submit(score_shard, s.path, quality, folder / f"{n:05d}.parquet") for n, s in work.items()]
        try:
            for job in as_completed(jobs):
                job.result()
                bar.advance()
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def _worker() -> None:
    from herdbook.corpus.curate import _worker as quiet

    quiet()
