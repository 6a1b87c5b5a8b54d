"""Columns that depend on the other documents, each worked out when the first rule that reads it comes (§3.1.1).

A provider is a function registered for the columns it gives: from a `View` (what is measured, which documents are still
kept) to arrays with a value per document. It goes over the shards and holds no more than a few numbers a document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from herdbook.corpus import dedup, divergence, lines
from herdbook.corpus.engine import Engine
from herdbook.corpus.likeness import Shingles, Signatures, write_signatures
from herdbook.corpus.measured import Measured, lists, read_shard
from herdbook.corpus.minhash import band_keys
from herdbook.corpus.settings import CurateSettings

Columns = dict[str, np.ndarray]
"""Values (N,) float64 by column, NaN where there are none. Beside what was registered it may hold `duplicate_of`, (N,)
int64 row of the document that stays or -1, and names beginning with `_`, of any length, which stay with deciding."""

LINES_A_DOCUMENT = 40
"""A guess, by which the files that lines are counted in are sized."""


@dataclass(frozen=True)
class View:
    """What a provider may look at."""

    measured: Measured
    alive: np.ndarray
    """Which documents (N,) bool the rules before kept."""
    rank: np.ndarray
    """Which of two documents is the better (N,) int64, all different, 0 to N - 1."""
    settings: CurateSettings
    threshold: float
    """That of the rule that asked."""
    engine: Engine
    folder: Path
    """For files needed on the way; removed afterwards."""

    def worded(self) -> np.ndarray:
        """Rows (N,) bool of kept documents that have words: those without repeat nothing."""
        return self.alive & (self.measured.numbers("length_words") > 0)


Provider = Callable[[View], Columns]
PROVIDERS: dict[str, Provider] = {}
"""Column to the function that works it out."""


def provides(*columns: str) -> Callable[[Provider], Provider]:
    """Registers a provider for the columns it gives."""

    def register(function: Provider) -> Provider:
        for column in columns:
            assert column not in PROVIDERS, f"{column} has a provider already"
            PROVIDERS[column] = function
        return function

    return register


@provides("duplicate_url_newer")
def url_duplicates(view: View) -> Columns:
    """1 where a better document has the same address."""
    return _same_key(view, "duplicate_url_key", "duplicate_url_newer")


@provides("duplicate_exact_better")
def exact_duplicates(view: View) -> Columns:
    """1 where a better document has the same text."""
    return _same_key(view, "duplicate_exact_key", "duplicate_exact_better")


def _same_key(view: View, key: str, column: str) -> Columns:
    worded = view.worded()

    measured = view.measured
    parts = (
        partial(_column_keys, shard, key, worded[measured.rows(number)], view.rank[measured.rows(number)])
        for number, shard in enumerate(measured.shards)
    )
    pairs = list(view.engine.hub_pairs(parts, measured.count, measured.count))
    joined = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    of = _of(view, joined[:, 1], joined[:, 0])
    return {column: (of >= 0).astype(np.float64), "duplicate_of": of}


def _column_keys(shard: Path, key: str, chosen: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys and ranks of the chosen documents of a shard."""
    return read_shard(shard, [key])[key].to_numpy()[chosen], rank[chosen]


def _of(view: View, gone: np.ndarray, keeper: np.ndarray) -> np.ndarray:
    """From ranks to rows: which document (N,) int64 each repeats, -1 for none."""
    row = np.empty(view.measured.count, dtype=np.int64)
    row[view.rank] = np.arange(len(row))
    of = np.full(len(row), -1, dtype=np.int64)
    of[row[gone]] = row[keeper]
    return of


@provides("duplicate_near_similarity")
def near_duplicates(view: View) -> Columns:
    """Jaccard similarity to the better document that a document nearly repeats, counted where estimates leave doubt."""
    measured, settings = view.measured, view.settings
    width = measured.schema.field("duplicate_signature").type.byte_width // 4
    held = Signatures(view.folder / "signatures", width, view.threshold, settings.duplicates.doubtful)
    with open(held.path, "wb") as file:
        file.truncate(measured.count * width * 4)
    starts = measured.starts.tolist()
    for _ in view.engine.each(write_signatures, ((s, held.path, at) for s, at in zip(measured.shards, starts))):
        pass
    shingles = Shingles(measured, settings.measure.shingle_words, view.folder / "shingles", view.engine)
    rows = settings.duplicates.band_rows
    gone, keeper, alike = near_among(held, shingles, starts, view.worded(), view.rank, rows, view.engine)
    of = _of(view, gone, keeper)
    values = np.zeros(measured.count)
    values[np.argsort(view.rank)[gone]] = alike
    return {"duplicate_near_similarity": values, "duplicate_of": of}


def near_among(
    held: Signatures,
    shingles: Shingles | None,
    starts: list[int],  # where parts of the file begin and the last one ends
    chosen: np.ndarray,  # (N,) bool documents that count
    rank: np.ndarray,  # (N,) int64 which is the better
    band_rows: int,
    engine: Engine,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`dedup.near` among the signatures of a file, which is read part by part."""
    row = np.empty(len(rank), dtype=np.int64)
    row[rank] = np.arange(len(rank))
    parts = (
        partial(_band_keys, held, slice(start, stop), band_rows, chosen[start:stop], rank[start:stop])
        for start, stop in pairwise(starts)
    )
    pairs = engine.hub_pairs(parts, len(rank), len(rank) * (held.width // band_rows))
    return dedup.near(pairs, row, held, shingles, engine)


def _band_keys(
    held: Signatures, rows: slice, size: int, chosen: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of all bands, and ranks, of the chosen ones among some documents of a file of signatures."""
    width = held.width
    found = np.fromfile(held.path, "<u4", (rows.stop - rows.start) * width, offset=rows.start * width * 4)
    keys = band_keys(found.reshape(-1, width)[chosen], size)
    return keys.reshape(-1), np.repeat(rank[chosen], keys.shape[1])


@provides("divergence_kl", "divergence_excess")
def divergences(view: View) -> Columns:
    """Divergence of the words of each kept document from those of the others in its language."""

    def parts() -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        for rows, table in view.measured.parts("divergence_tokens", "divergence_counts"):
            tokens, offsets = lists(table["divergence_tokens"])
            yield rows, tokens, lists(table["divergence_counts"])[0], offsets

    codes = view.measured.languages
    bits, excess = divergence.divergence(parts, view.alive, codes.names, codes.codes)
    return {"divergence_kl": bits, "divergence_excess": excess}


@provides("language_evidence")
def language_evidence(view: View) -> Columns:
    """Probability of each document's language, less where the corpus has few documents in it."""
    codes = view.measured.languages
    probability = view.measured.numbers("language_probability")
    return {"language_evidence": divergence.language_evidence(probability, codes.names, codes.codes)}


@provides("lines_repeated", "lines_words_left")
def repeated_lines(view: View) -> Columns:
    """How many of a document's lines stand in too many others, and the words left without them."""
    measured, settings = view.measured, view.settings.duplicates
    codes = measured.languages
    buckets = lines.Buckets(len(codes.names), settings.line_bucket)
    numbers = np.zeros(measured.count, dtype=np.int64)

    for number in range(len(measured.shards)):
        rows = measured.rows(number)
        numbers[rows] = buckets.next(codes.codes[rows], view.alive[rows])
    parts = (
        partial(_line_keys, shard, numbers[rows], view.alive[rows], rows.start)
        for shard, rows in zip(measured.shards, map(measured.rows, range(len(measured.shards))))
    )
    expected = measured.count * LINES_A_DOCUMENT
    least = settings.line_documents
    repeated = view.engine.keys_in_many(parts, least, min(settings.line_site_documents, least), expected)
    removed, left = np.zeros(measured.count), np.full(measured.count, np.nan)
    for rows, table in measured.parts("lines_hashes", "lines_words"):
        keys, documents = lines.line_keys(*lists(table["lines_hashes"]), numbers[rows])
        gone = lines.removed_lines(keys, repeated) & view.alive[rows][documents]
        words = np.where(gone, 0, lists(table["lines_words"])[0])
        count = table.num_rows
        removed[rows] = np.bincount(documents, weights=gone, minlength=count)
        # A page that loses nothing is judged by its own length rule, not by this one.
        remaining = np.bincount(documents, weights=words, minlength=count)
        left[rows] = np.where(removed[rows] > 0, remaining, np.nan)
    return {"lines_repeated": removed, "lines_words_left": left, "_lines": repeated, "_buckets": numbers}


def _line_keys(shard: Path, numbers: np.ndarray, alive: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the lines of a shard's kept documents, once per document, and the sites of these."""
    table = read_shard(shard, ["lines_hashes", "url"])
    keys, documents = lines.line_keys(*lists(table["lines_hashes"]), numbers)
    keys, documents = lines.once_per_document(keys, documents, alive)
    return keys, lines.sites(table["url"].to_pylist(), first)[documents]


def without_lines(texts: pa.ChunkedArray, offsets: np.ndarray, gone: np.ndarray) -> pa.ChunkedArray:
    """Texts (n,) without the lines (L,) bool that are gone; `offsets` (n + 1,) says where each text's begin."""
    counts = np.diff(np.concatenate([[0], np.cumsum(gone)])[offsets])
    changed = np.flatnonzero(counts)
    if not len(changed):
        return texts
    shorter = []
    for index, text in zip(changed.tolist(), texts.take(pa.array(changed)).to_pylist()):
        flags = gone[offsets[index] : offsets[index + 1]]
        shorter.append("\n".join(line for line, flag in zip(text.split("\n"), flags) if not flag).strip("\n"))
    whole = texts.combine_chunks()
    replaced = pc.replace_with_mask(whole, pa.array(counts > 0), pa.array(shorter, whole.type))
    return pa.chunked_array([replaced])
