"""Duplicates among documents: by address, by text, and nearly (§3.1.1).

Near duplicates: documents that share a band of their signatures are compared, pairs similar enough are joined into
components, and within a component the best document stays; another one goes only when it resembles one that
stays, so a chain of small differences does not swallow what lies at its far end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from herdbook.corpus.engine import Engine
from herdbook.corpus.minhash import similarity

EXHAUSTIVE = 1000
"""Most documents that stay in one component and are compared with each other member."""
COMPARED = 1 << 15
"""Pairs whose signatures are in memory at a time."""

Fetch = Callable[[np.ndarray], np.ndarray]
"""Ranks (R,) to their signatures (R, K) uint32."""


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
    fetch: Fetch,
    threshold: float,
    engine: Engine,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks (M,) that nearly repeat a better document, the rank (M,) of that, and how similar they are (M,)."""
    close, alike = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)]
    for part in pairs:
        for start in range(0, len(part), COMPARED):
            some = part[start : start + COMPARED]
            likeness = similarity(fetch(some[:, 0]), fetch(some[:, 1]))
            close.append(some[likeness > threshold])
            alike.append(likeness[likeness > threshold])
    return settle(np.concatenate(close), np.concatenate(alike), fetch, threshold, engine)


def settle(
    pairs: np.ndarray,  # (P, 2) ranks of similar documents, the better first
    alike: np.ndarray,  # (P,) how similar
    fetch: Fetch,
    threshold: float,
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
    best[edges[star, 1]] = alike[star]
    best[label == np.arange(len(nodes))] = 1.0
    # Where all resemble the best, they repeat it and there is nothing to weigh; that is nearly every component.
    plain = ~np.isin(label, label[np.isnan(best)])
    member = np.flatnonzero(plain & (label != np.arange(len(nodes))))
    found = [(nodes[member], nodes[label[member]], best[member])]
    rest = np.flatnonzero(~plain)
    rest = rest[np.argsort(label[rest], kind="stable")]
    for members in np.split(rest, np.flatnonzero(np.diff(label[rest])) + 1):
        if len(members):
            found.append(_weigh(nodes[members], fetch, threshold))
    gone, keeper, likeness = (np.concatenate(parts) for parts in zip(*found))
    return gone, keeper, likeness


def _weigh(members: np.ndarray, fetch: Fetch, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Within one component, best first: a document stays unless it resembles one that stayed before it."""
    stay: list[int] = []
    gone: list[tuple[int, int, float]] = []
    against = np.zeros((0, 0), dtype=np.uint32)  # signatures of those that stay
    for start in range(0, len(members), COMPARED):
        some = members[start : start + COMPARED]
        for member, signature in zip(some.tolist(), fetch(some)):
            if stay:
                likeness = (against[: len(stay)] == signature).mean(axis=1)
                best = int(likeness.argmax())
                if likeness[best] > threshold:
                    gone.append((member, stay[best], float(likeness[best])))
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
