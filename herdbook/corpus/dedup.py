"""Duplicates among documents: by address, by text, and nearly (§3.1.1).

Near duplicates: documents that share a band of their signatures are compared, pairs similar enough are joined into
components, and within a component the best document stays; another one goes only when it resembles one that
stays, so a chain of small differences does not swallow what lies at its far end.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from herdbook.corpus.engine import best_per_key, candidate_pairs
from herdbook.corpus.minhash import band_keys, similarity

EXHAUSTIVE = 1000
"""Largest component in which every document is compared with every one that stays."""


def preference(dates: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Rank (N,) int64 of each document: the newest highest, among equals the longest, then the first read."""
    order = np.lexsort((-np.arange(len(dates)), lengths, dates))
    rank = np.empty(len(dates), dtype=np.int64)
    rank[order] = np.arange(len(dates))
    return rank


def by_key(keys: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """For each document (N,), the row that stays of those with its key: itself, or a better one."""
    order = np.argsort(rank)
    dense = np.empty(len(rank), dtype=np.int64)
    dense[order] = np.arange(len(rank))
    return order[best_per_key(keys, dense)] if len(keys) else np.zeros(0, dtype=np.int64)


def near(
    signatures: np.ndarray,  # (N, K) uint32
    rank: np.ndarray,  # (N,) int64
    rows: int,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """For each document the row it nearly repeats (N,) int64, itself if none, and how similar they are (N,) float64."""
    count = len(signatures)
    keeper, alike = np.arange(count), np.zeros(count)
    order = np.argsort(rank)
    dense = np.empty(count, dtype=np.int64)
    dense[order] = np.arange(count)
    pairs = candidate_pairs(band_keys(signatures, rows), dense)
    if not len(pairs):
        return keeper, alike
    close = pairs[similarity(signatures[pairs[:, 0]], signatures[pairs[:, 1]]) > threshold]
    for members in components(close, count):
        _settle(members[np.argsort(-rank[members])], signatures, threshold, keeper, alike)
    return keeper, alike


def components(pairs: np.ndarray, count: int) -> list[np.ndarray]:
    """Connected components with more than one member of a graph of `count` nodes, from its edges (P, 2)."""
    if not len(pairs):
        return []
    graph = coo_matrix((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    nodes = np.unique(pairs)
    nodes = nodes[np.argsort(labels[nodes], kind="stable")]
    return np.split(nodes, np.flatnonzero(np.diff(labels[nodes])) + 1)


def _settle(
    members: np.ndarray, signatures: np.ndarray, threshold: float, keeper: np.ndarray, alike: np.ndarray
) -> None:
    """Within one component, best first: a document stays unless it resembles one that stayed before it."""
    stay = [members[0]]
    for member in members[1:]:
        against = stay[:EXHAUSTIVE]
        likeness = (signatures[against] == signatures[member]).mean(axis=1)
        best = int(likeness.argmax())
        if likeness[best] > threshold:
            keeper[member], alike[member] = against[best], likeness[best]
        else:
            stay.append(member)
