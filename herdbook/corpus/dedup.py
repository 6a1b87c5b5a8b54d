"""Duplicates among documents: by address, by text, and nearly (§3.1.1).

Near duplicates: documents that share a band of their signatures are compared (likeness.py), pairs similar enough are
joined into components, and within a component the best document stays; another one goes only when it resembles one
that stays, so a chain of small differences does not swallow what lies at its far end.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from herdbook.corpus.engine import Engine
from herdbook.corpus.likeness import Component, Shingles, Signatures, alike, blocks, compare

EXHAUSTIVE = 1000
"""Most documents that stay in one component and are compared with each other member."""
COMPARED = 1 << 15
"""Pairs whose signatures are in memory at a time."""


def preference(moments: np.ndarray, lengths: np.ndarray, quality: np.ndarray | None = None) -> np.ndarray:
    """Rank (N,) int64 of each document: of highest quality, where given, then the newest, the longest, the first read.

    A quality that was not measured (NaN) is below all others.
    """
    order = [-np.arange(len(moments)), lengths, moments]
    if quality is not None:
        order.append(np.where(np.isnan(quality), -np.inf, quality))
    rank = np.empty(len(moments), dtype=np.int64)
    rank[np.lexsort(order)] = np.arange(len(moments))
    return rank


def near(
    pairs: Iterable[np.ndarray],  # parts (P, 2) of ranks, hub first
    row: np.ndarray,  # (N,) row of each rank
    held: Signatures,
    shingles: Shingles | None,  # None where there are no texts, and estimates must do
    engine: Engine,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks (M,) that nearly repeat a better document, the rank (M,) of that, and how similar they are (M,)."""
    none = np.zeros((0, 2), dtype=np.int64)
    parts = (part[start : start + COMPARED] for part in pairs for start in range(0, len(part), COMPARED))
    found = list(engine.each(compare, ((held, row[part]) for part in parts)))
    close = np.concatenate([none, *(part[0] for part in found)])
    likeness = np.concatenate([np.zeros(0), *(part[1] for part in found)])
    doubt = np.concatenate([none, *(part[2] for part in found)])
    if shingles is not None and len(doubt):
        counted = shingles.similarity(doubt)
        close = np.concatenate([close, doubt[counted > held.threshold]])
        likeness = np.concatenate([likeness, counted[counted > held.threshold]])
    rank = np.empty(len(row), dtype=np.int64)
    rank[row] = np.arange(len(row))
    return settle(rank[close], likeness, row, held, shingles, engine)


def settle(
    pairs: np.ndarray,  # (P, 2) ranks of similar documents, the better first
    likeness: np.ndarray,  # (P,) how similar
    row: np.ndarray,  # (N,) row of each rank
    held: Signatures,
    shingles: Shingles | None,
    engine: Engine,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `near`, once the similar pairs are known."""
    nodes, edges = np.unique(pairs, return_inverse=True)
    edges = edges.reshape(-1, 2)
    # Numbered from the best down, so that a component's smallest node is its best document.
    edges = len(nodes) - 1 - edges
    nodes = nodes[::-1]
    label = engine.components(edges, len(nodes))
    star = edges[:, 0] == label[edges[:, 0]]
    best = np.full(len(nodes), np.nan)
    best[edges[star, 1]] = likeness[star]
    best[label == np.arange(len(nodes))] = 1.0
    # Where all resemble the best, they repeat it and there is nothing to weigh; that is nearly every component.
    plain = ~np.isin(label, label[np.isnan(best)])
    member = np.flatnonzero(plain & (label != np.arange(len(nodes))))
    found = [(nodes[member], nodes[label[member]], best[member])]
    rest = np.flatnonzero(~plain)
    rest = rest[np.argsort(label[rest], kind="stable")]
    if len(rest):
        ranks = np.split(nodes[rest], np.flatnonzero(np.diff(label[rest])) + 1)
        if shingles is not None:
            shingles.add(row[nodes[rest]])
        components = [
            Component(row[some])
            if shingles is None
            else Component(row[some], shingles.places(row[some]), shingles.folder)
            for some in ranks
        ]
        weighed = engine.each(weigh, ((held, some) for some in blocks(components, COMPARED)))
        for some, (gone, keeper, alike) in zip(ranks, (one for block in weighed for one in block)):
            found.append((some[gone], some[keeper], alike))
    gone, keeper, similar = (np.concatenate(parts) for parts in zip(*found))
    return gone, keeper, similar


Weighed = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Places (M,) in a component that go, the place (M,) each repeats, and how similar these are (M,)."""


def weigh(held: Signatures, components: list[Component]) -> list[Weighed]:
    """What goes of each component: a document stays unless it resembles one that stayed before it."""
    return [_weigh(held, component) for component in components]


def _weigh(held: Signatures, component: Component) -> Weighed:
    stay: list[int] = []
    gone: list[tuple[int, int, float]] = []
    against = np.zeros((0, 0), dtype=np.uint32)  # signatures of those that stay
    for start in range(0, len(component.rows), COMPARED):
        for member, signature in enumerate(held.of(component.rows[start : start + COMPARED]), start):
            if stay:
                estimates = (against[: len(stay)] == signature).mean(axis=1)
                best, likeness = alike(held, component, member, stay, estimates)
                if likeness > held.threshold:
                    gone.append((member, stay[best], likeness))
                    continue
            if len(stay) == EXHAUSTIVE:
                continue
            if len(stay) == len(against):
                against = np.resize(against, (max(8, 2 * len(stay)), len(signature)))
            against[len(stay)] = signature
            stay.append(member)
    if not gone:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    parts = list(zip(*gone))
    return np.array(parts[0]), np.array(parts[1]), np.array(parts[2])
