"""The stage kind `contamination`: documents that hold a benchmark's questions are marked, and dropped by rule (§5.1.4).

Words are compared in runs of n, hashed. A run in many questions of a benchmark is the wording of its prompts and says
nothing. Two columns tell different things: how much of a document is a benchmark's text, and how much of the
one question that is most in it. A long page with a single leaked question shows in the second only.
Letters: L words of a document, G distinct runs of all questions, P pairs of run and question, Q questions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from herdbook.console import log, progress
from herdbook.corpus.benchmarks import Benchmark, ContaminationSettings, find_benchmarks
from herdbook.corpus.republish import Column, pieces, republish, shards_of
from herdbook.corpus.rules import active_rules
from herdbook.corpus.words import TOKENS, hash_words

ROWS = 256
_MIX = np.uint64(0x9E3779B97F4A7C15)


def runs(text: str, size: int) -> np.ndarray:
    """Hashes (L - size + 1,) uint64 of every run of `size` words, without case and punctuation."""
    words = hash_words(TOKENS.findall(text.lower()))
    count = max(len(words) - size + 1, 0)
    mixed = words[:count].copy()
    for step in range(1, size):
        mixed = mixed * _MIX + words[step : step + count]
        mixed ^= mixed >> np.uint64(29)
    return mixed


@dataclass
class Index:
    """The runs of all questions, and to which questions each belongs."""

    size: int
    keys: np.ndarray  # (G,) uint64, sorted
    starts: np.ndarray  # (G + 1,) int64: where each key's questions begin
    questions: np.ndarray  # (P,) int64
    lengths: np.ndarray  # (Q,) int64: runs of each question that count
    names: list[str]
    """The benchmark of each question."""
    unsearchable: dict[str, int]
    """Questions of each benchmark that are too short, or nothing but common wording."""

    @classmethod
    def of(cls, benchmarks: Iterable[Benchmark], size: int, common: int) -> Index:
        """Index all questions; runs in more than `common` questions of one benchmark are left out."""
        keys, owners = [], []
        names: list[str] = []
        unsearchable: dict[str, int] = {}
        for benchmark in benchmarks:
            found = [np.unique(runs(question, size)) for question in benchmark.questions]
            every, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *found]), return_counts=True)
            usual = every[counts > common]
            found = [np.setdiff1d(one, usual, assume_unique=True) for one in found]
            first = len(names)
            names += [benchmark.name] * len(found)
            keys += found
            owners += [np.full(len(one), first + number) for number, one in enumerate(found)]
            unsearchable[benchmark.name] = sum(not len(one) for one in found)
        flat = np.concatenate([np.zeros(0, np.uint64), *keys])
        order = np.argsort(flat, kind="stable")
        unique, starts = np.unique(flat[order], return_index=True)
        questions = np.concatenate([np.zeros(0, np.int64), *owners])[order]
        lengths = np.array([len(one) for one in keys], dtype=np.int64)
        return cls(size, unique, np.append(starts, len(flat)), questions, lengths, names, unsearchable)

    def search(self, text: str) -> tuple[float, float, str | None]:
        """Share of a text's words inside runs of questions; largest share of one question's runs; its benchmark."""
        found = runs(text, self.size)
        if not len(found) or not len(self.keys):
            return 0.0, 0.0, None
        places = np.minimum(np.searchsorted(self.keys, found), len(self.keys) - 1)
        hit = self.keys[places] == found
        if not hit.any():
            return 0.0, 0.0, None
        edges = np.zeros(len(found) + self.size, dtype=np.int64)
        edges[: len(found)] += hit
        edges[self.size :] -= hit
        share = float((np.cumsum(edges)[:-1] > 0).mean())
        rows = np.unique(places[hit])
        owners = np.concatenate([self.questions[self.starts[row] : self.starts[row + 1]] for row in rows])
        which, counts = np.unique(owners, return_counts=True)
        parts = counts / self.lengths[which]
        best = int(parts.argmax())
        return share, float(parts[best]), self.names[which[best]]


def contamination(
    settings: ContaminationSettings, documents: list[Path], questions: Path | None, out: Path
) -> dict[str, Any]:
    """Search the documents for questions of the benchmarks, and republish them into `out` with the columns."""
    benchmarks = find_benchmarks(settings, questions)
    index = Index.of(benchmarks, settings.ngram, settings.common)
    shards = shards_of(documents)
    total = sum(rows.stop - rows.start for _, rows, _ in pieces(shards))
    share, part = np.zeros(total), np.zeros(total)
    named: list[str | None] = [None] * total
    with progress("contamination", total, "documents") as bar:
        for _, rows, shard in pieces(shards):
            at = rows.start
            with pq.ParquetFile(shard.path) as file:
                for batch in file.iter_batches(ROWS, columns=["text"]):
                    for text in batch["text"].to_pylist():
                        share[at], part[at], named[at] = index.search(text or "")
                        at += 1
                    bar.advance(batch.num_rows)
    columns: dict[str, Column] = {
        "contamination_share": share,
        "contamination_question": part,
        "contamination_benchmark": named,
    }
    metrics = republish(shards, columns, active_rules(settings.rules, settings.thresholds, settings.off), out)
    touched = {one.name: sum(name == one.name for name in named) for one in benchmarks}
    for one in benchmarks:
        log(
            "benchmark",
            name=one.name,
            questions=len(one.questions),
            unsearchable=index.unsearchable[one.name],
            documents_touched=touched[one.name],
        )
    return metrics | {
        "benchmarks": {
            one.name: {
                "questions": len(one.questions),
                "unsearchable": index.unsearchable[one.name],
                "documents_touched": touched[one.name],
            }
            for one in benchmarks
        }
    }
