"""The three questions about all documents at once, and who answers them: this machine, or a cluster.

Which rows share a key, which keys stand in many documents, which documents hang together. `Native` answers them with
files on disk and numpy (spill.py), so memory stays small; `daft_engine.Dataframes` with joins and group-bys only, which
Daft runs here or on a Ray cluster. Both give the same answers. Keys and ranks are int64 throughout. What can be done a
part at a time, such as comparing pairs, an engine does with `each`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from herdbook.corpus.spill import Spill

Parts = Iterable[Callable[[], tuple[np.ndarray, np.ndarray]]]
"""Functions that each make keys (R,) int64 and ranks (R,) int64 of some documents; a document may have several keys.
They can be pickled, to run elsewhere."""


class Engine(Protocol):
    """What deciding asks of an engine."""

    def hub_pairs(self, parts: Parts, ranks: int, expected: int) -> Iterator[np.ndarray]:
        """Every document that shares a key with a better one, with the best of that key: (P, 2), hub first.

        Pairs are ranks below `ranks`, each given once; `expected` is roughly how many rows will come.
        """
        ...

    def keys_in_many(self, parts: Parts, least: int, within: int, expected: int) -> np.ndarray:
        """Sorted keys (R,) int64 that come in more than `least` rows, or in more than `within` rows all of one group.

        Parts make keys (R,) and groups (R,) int64.
        """
        ...

    def components(self, pairs: np.ndarray, count: int) -> np.ndarray:
        """For each of `count` nodes the smallest node it hangs together with (count,), by edges (P, 2)."""
        ...

    def each(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], here: int = 1) -> Iterator[Any]:
        """What a function gives for each tuple of arguments, in their order.

        Function and arguments can be pickled: a cluster calls it where there is room, this machine `here` at a time.
        """
        ...


class Native:
    """Answers on this machine, in bounded memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hub_pairs(self, parts: Parts, ranks: int, expected: int) -> Iterator[np.ndarray]:
        """See `Engine`."""
        with Spill(self.folder / "keys", 2, expected) as keys, Spill(self.folder / "pairs", 1, expected // 4) as pairs:
            for part in parts:
                keys.add(*part())
            for rows in keys.groups():
                hub, member = _hubs(rows[:, 0], rows[:, 1])
                pairs.add(hub * np.int64(ranks) + member)
            for rows in pairs.groups():
                code = np.unique(rows)
                yield np.stack([code // ranks, code % ranks], axis=1)

    def keys_in_many(self, parts: Parts, least: int, within: int, expected: int) -> np.ndarray:
        """See `Engine`."""
        found = [np.zeros(0, dtype=np.int64)]
        with Spill(self.folder / "lines", 2, expected) as keys:
            for part in parts:
                keys.add(*part())
            for rows in keys.groups():
                found.append(_in_many(rows[:, 0], rows[:, 1], least, within))
        return np.sort(np.concatenate(found))

    def components(self, pairs: np.ndarray, count: int) -> np.ndarray:
        """See `Engine`."""
        label = np.arange(count)
        while True:
            ends = label[pairs]
            low, high = ends.min(axis=1), ends.max(axis=1)
            apart = low != high
            if not apart.any():
                return label
            np.minimum.at(label, high[apart], low[apart])
            while (further := label[label])[label != further].size:
                label = further

    def each(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], here: int = 1) -> Iterator[Any]:
        """See `Engine`."""
        if here == 1:
            yield from (function(*arguments) for arguments in calls)
            return
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(here) as pool:
            for arguments in calls:
                waiting.append(pool.submit(function, *arguments))
                if len(waiting) > here:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _hubs(key: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hub and member (P,) of each row that is not the best of its key."""
    order = np.argsort(key)
    key, rank = key[order], rank[order]
    same = key[1:] == key[:-1]
    # Most keys stand alone: the others are few, and only they are grouped.
    shared = np.zeros(len(key), dtype=bool)
    shared[1:] |= same
    shared[:-1] |= same
    key, rank = key[shared], rank[shared]
    if not len(key):
        return key, rank
    starts = np.flatnonzero(np.diff(key, prepend=~key[0]))
    sizes = np.diff(starts, append=len(key))
    hub = np.repeat(np.maximum.reduceat(rank, starts), sizes)
    return hub[rank < hub], rank[rank < hub]


def _in_many(key: np.ndarray, group: np.ndarray, least: int, within: int) -> np.ndarray:
    """Keys that come in more than `least` rows, or in more than `within` of one group."""
    order = np.argsort(key)
    key, group = key[order], group[order]
    starts = np.flatnonzero(np.diff(key, prepend=~key[:1]))
    sizes = np.diff(starts, append=len(key))
    alone = np.minimum.reduceat(group, starts) == np.maximum.reduceat(group, starts)
    return key[starts[(sizes > least) | (alone & (sizes > within))]]
