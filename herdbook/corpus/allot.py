"""How often the documents of each cell are read, so that groups have their shares (§3.1.2). Arithmetic alone.

A cell is what documents with the same group, topic, language and source have in common. Within a group every cell is
read `level × preference` times, and never more than its limit; the level is the one at which the group has the bytes it
should have. Topics over their limit are held at it, and the others take what they leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Cells:
    """C cells of one group."""

    sizes: np.ndarray  # (C,) bytes
    limits: np.ndarray  # (C,) most epochs
    preferences: np.ndarray  # (C,) relative epochs
    topics: np.ndarray  # (C,) int64, -1 where it is not known

    def some(self, rows: np.ndarray) -> Cells:
        """The cells of these rows (bool)."""
        return Cells(self.sizes[rows], self.limits[rows], self.preferences[rows], self.topics[rows])


def fill(cells: Cells, wanted: float) -> np.ndarray:
    """Epochs (C,) such that `sizes @ epochs` is `wanted`, or all their limits where that is not enough."""
    if wanted <= 0 or not len(cells.sizes):
        return np.zeros(len(cells.sizes))
    if float(cells.sizes @ cells.limits) <= wanted:
        return cells.limits.copy()
    ends = cells.limits / cells.preferences  # the level at which a cell is full
    order = np.argsort(ends, kind="stable")
    full = np.concatenate([[0.0], np.cumsum((cells.sizes * cells.limits)[order])])
    slope = (cells.sizes * cells.preferences)[order]
    rising = slope.sum() - np.concatenate([[0.0], np.cumsum(slope)])
    for index, end in enumerate(ends[order]):
        if full[index] + rising[index] * end >= wanted:
            return np.minimum((wanted - full[index]) / rising[index] * cells.preferences, cells.limits)
    return cells.limits.copy()


def allot(cells: Cells, wanted: float, topic_limit: float | None) -> np.ndarray:
    """Epochs (C,) for `wanted` bytes, no known topic having more than its share of them; a lone one may have all."""
    known = np.unique(cells.topics[cells.topics >= 0])
    if topic_limit is None or not len(known):
        return fill(cells, wanted)
    topic_limit = max(topic_limit, 1 / len(known))
    epochs, held, most = np.zeros(len(cells.sizes)), np.zeros(len(cells.sizes), bool), topic_limit * wanted
    while True:
        left = wanted - float(cells.sizes[held] @ epochs[held])
        epochs[~held] = fill(cells.some(~held), left)
        volumes = np.bincount(cells.topics + 1, weights=cells.sizes * epochs)[1:]
        over = [topic for topic in np.flatnonzero(volumes > most * (1 + 1e-9)) if not held[cells.topics == topic].any()]
        if not over:
            return epochs
        for topic in over:
            rows = cells.topics == topic
            epochs[rows] = fill(cells.some(rows), most)
            held |= rows


def share_out(
    groups: list[Cells], shares: np.ndarray, total: float, topic_limit: float | None, short: str
) -> list[np.ndarray]:
    """Epochs of every group's cells: `total` bytes by `shares` (G,), or as near as the limits allow (`short`)."""
    shares = shares / shares.sum()
    if short == "shrink":
        for _ in range(200):
            epochs = [allot(cells, total * share, topic_limit) for cells, share in zip(groups, shares)]
            reached = [volume(cells, one) / (total * share) for cells, one, share in zip(groups, epochs, shares)]
            if min(reached) >= 1 - 1e-9 or min(reached) == 0:
                break
            total *= min(reached)
        return epochs
    epochs = [np.zeros(len(cells.sizes)) for cells in groups]
    full = np.zeros(len(groups), bool)  # groups that gave all they may
    while True:
        rest = total - sum(volume(groups[index], epochs[index]) for index in np.flatnonzero(full))
        wanted = rest * shares / max(shares[~full].sum(), 1e-300)
        for index in np.flatnonzero(~full):
            epochs[index] = allot(groups[index], float(wanted[index]), topic_limit)
        got = np.array([volume(cells, one) for cells, one in zip(groups, epochs)])
        short_now = ~full & (got < wanted * (1 - 1e-9))
        if not short_now.any():
            return epochs
        full |= short_now


def volume(cells: Cells, epochs: np.ndarray) -> float:
    """Bytes that a group's cells give."""
    return float(cells.sizes @ epochs)
