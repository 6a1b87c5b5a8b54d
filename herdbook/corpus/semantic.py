"""Semantic duplicates: documents that say the same in other words or another order (an option, after SemDeDup).

Documents become vectors, vectors are cut into clusters by k-means, and within a cluster, best first, a document goes
when its cosine with one that stays is above the threshold. Vectors lie in a file; in memory are one cluster's, and the
sample that the clusters are found on.
Letters: N documents, D dimensions, C clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from herdbook.corpus.columns import Columns, View, provides
from herdbook.corpus.measure import BUCKETS
from herdbook.corpus.measured import lists
from herdbook.corpus.spill import Spill, gather
from herdbook.settings import UserError

SAMPLE = 64
"""Documents per cluster that k-means looks at."""
ROUNDS = 10
"""Of k-means."""
LARGEST = 4096
"""Documents of one cluster compared at a time; a larger cluster is cut into parts, the best first."""
TOKENS = 512
"""What an encoder reads of a text."""


class Embedder(Protocol):
    """Gives documents their vectors."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of a shard."""
        ...

    def embed(self, table: pa.Table) -> np.ndarray:
        """Vectors (n, D) float32 of length one (or zero, for documents without any) of a shard's documents."""
        ...


class HashedWords:
    """Word counts, each weighted by how few documents have the word, projected at random; reads no text."""

    columns = ("divergence_tokens", "divergence_counts")

    def __init__(self, frequency: np.ndarray, count: int, dimensions: int) -> None:
        draw = np.random.default_rng(20240731)
        weight = np.log((1 + count) / (1 + frequency))  # (BUCKETS,)
        self.projection = (draw.standard_normal((BUCKETS, dimensions)) * weight[:, None]).astype(np.float32)

    def embed(self, table: pa.Table) -> np.ndarray:
        """See `Embedder`."""
        from scipy.sparse import csr_matrix

        tokens, offsets = lists(table["divergence_tokens"])
        damped = (1 + np.log(np.maximum(lists(table["divergence_counts"])[0], 1))).astype(np.float32)
        words = csr_matrix((damped, tokens.astype(np.int32), offsets), shape=(table.num_rows, BUCKETS))
        return unit(words @ self.projection)


class Encoder:
    """The mean of a Hugging Face encoder's last states over a text's beginning."""

    columns = ("text",)

    def __init__(self, folder: Path) -> None:
        self.tokenizer, self.model = _encoder(str(folder))

    def embed(self, table: pa.Table) -> np.ndarray:
        """See `Embedder`."""
        import torch

        texts = [text or "" for text in table["text"].to_pylist()]
        found = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # alike lengths pad each other least
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            read = self.tokenizer(
                [texts[place][: 8 * TOKENS] for place in places],
                return_tensors="pt", padding=True, truncation=True, max_length=TOKENS,
            )  # fmt: skip
            with torch.inference_mode():
                states = self.model(**read.to(self.model.device)).last_hidden_state  # (n, T, D)
            mask = read["attention_mask"][:, :, None].to(states.dtype)
            found[places] = ((states * mask).sum(1) / mask.sum(1).clamp(min=1)).float().cpu().numpy()
        return unit(found)


@cache
def _encoder(folder: str) -> Any:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise UserError("an encoder needs transformers; install it with: pip install 'herdbook[encoder]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().split("\n")[0]
        raise UserError(f"duplicates.semantic.encoder: {folder} holds no encoder that can be loaded: {said}") from error
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) at length one; those of length zero stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)


@provides("duplicate_semantic_similarity")
def semantic_duplicates(view: View) -> Columns:
    """Cosine to the better document of its cluster that a document says again."""
    measured, settings = view.measured, view.settings.duplicates.semantic
    worded, path = view.worded(), view.folder / "vectors"
    embedder: Embedder = Encoder(settings.encoder) if settings.encoder else _hashed(view, worded)
    width = 0
    with open(path, "wb") as file:
        for _, table in measured.parts(*embedder.columns):
            vectors = embedder.embed(table)
            width = vectors.shape[1]
            vectors.astype("<f4").tofile(file)
    chosen = np.flatnonzero(worded)
    values, of = np.zeros(measured.count), np.full(measured.count, -1, dtype=np.int64)
    clusters = max(1, len(chosen) // settings.cluster_documents)
    if len(chosen) > 1 and width:
        centers = k_means(_vectors(path, _sample(chosen, clusters * SAMPLE), width), clusters)
        for rows in _clustered(view, path, chosen, centers):
            rows = rows[np.argsort(-view.rank[rows])]
            for start in range(0, len(rows), LARGEST):
                some = rows[start : start + LARGEST]
                keeper, alike = greedy(_vectors(path, some, width), view.threshold)
                gone = keeper >= 0
                of[some[gone]], values[some[gone]] = some[keeper[gone]], alike[gone]
    path.unlink()
    return {"duplicate_semantic_similarity": values, "duplicate_of": of}


def _hashed(view: View, worded: np.ndarray) -> HashedWords:
    frequency = np.zeros(BUCKETS)
    for rows, table in view.measured.parts("divergence_tokens"):
        tokens, offsets = lists(table["divergence_tokens"])
        inside = np.repeat(worded[rows], np.diff(offsets))
        frequency += np.bincount(tokens[inside], minlength=BUCKETS)
    return HashedWords(frequency, int(worded.sum()), view.settings.duplicates.semantic.dimensions)


def _vectors(path: Path, rows: np.ndarray, width: int) -> np.ndarray:
    return gather(path, rows, width).view("<f4")


def _sample(rows: np.ndarray, size: int) -> np.ndarray:
    draw = np.random.default_rng(len(rows))
    return np.sort(draw.choice(rows, size, replace=False)) if len(rows) > size else rows


def k_means(
    vectors: np.ndarray,  # (S, D) of length one
    clusters: int,
) -> np.ndarray:  # (C, D)
    """Centers of spherical k-means; a cluster that runs empty takes the vector that lies worst."""
    draw = np.random.default_rng(len(vectors))
    centers = vectors[np.sort(draw.choice(len(vectors), min(clusters, len(vectors)), replace=False))].copy()
    for _ in range(ROUNDS):
        label, cosine = nearest(vectors, centers)
        sums = np.zeros_like(centers)
        np.add.at(sums, label, vectors)
        empty = np.flatnonzero(np.bincount(label, minlength=len(centers)) == 0)
        sums[empty] = vectors[np.argsort(cosine)[: len(empty)]]
        centers = unit(sums)
    return centers


def nearest(vectors: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each vector's nearest center (n,) and the cosine (n,) to it."""
    label, cosine = np.zeros(len(vectors), dtype=np.int64), np.zeros(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), 1024):
        close = vectors[start : start + 1024] @ centers.T
        label[start : start + 1024] = close.argmax(axis=1)
        cosine[start : start + 1024] = close.max(axis=1)
    return label, cosine


def _clustered(view: View, path: Path, chosen: np.ndarray, centers: np.ndarray) -> Iterator[np.ndarray]:
    """The chosen rows, cluster by cluster."""
    with Spill(view.folder / "clusters", 2, len(chosen)) as spill:
        for start in range(0, len(chosen), 16_384):
            rows = chosen[start : start + 16_384]
            spill.add(nearest(_vectors(path, rows, centers.shape[1]), centers)[0], rows)
        for group in spill.groups():
            group = group[np.argsort(group[:, 0], kind="stable")]
            yield from np.split(group[:, 1], np.flatnonzero(np.diff(group[:, 0])) + 1)


def greedy(
    vectors: np.ndarray,  # (n, D) of length one, the best document first
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The vector before each (n,) that stays and is closer than the threshold, else -1; and its cosine (n,)."""
    close = vectors @ vectors.T
    keeper, alike = np.full(len(vectors), -1, dtype=np.int64), np.zeros(len(vectors))
    for place in np.flatnonzero(((close > threshold) & ~np.tri(len(vectors), dtype=bool)).any(axis=1)):
        if keeper[place] < 0:
            again = np.flatnonzero((close[place] > threshold) & (keeper < 0))
            again = again[again > place]
            keeper[again], alike[again] = place, close[place, again]
    return keeper, alike
