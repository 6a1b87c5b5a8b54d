"""The joins and group-bys over all documents, on Daft: the same plans run on one machine and on a cluster.

Keys are int64 throughout. Rows go in and come back as numpy arrays.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")


def frame(**columns: np.ndarray) -> Any:
    """Columns of equal length as a Daft frame."""
    import daft

    return daft.from_arrow(pa.table(columns))


def arrays(result: Any) -> dict[str, np.ndarray]:
    """A Daft frame's columns as numpy arrays."""
    table = result.to_arrow()
    return {name: table[name].to_numpy() for name in table.column_names}


def best_per_key(
    keys: np.ndarray,  # (N,) int64
    rank: np.ndarray,  # (N,) int64, distinct; the highest of a key wins
) -> np.ndarray:  # (N,) int64: the rank of each row's winner
    """For each row, the highest rank among the rows with its key."""
    from daft import col

    if not len(keys):
        return np.zeros(0, dtype=np.int64)
    rows = frame(key=keys, rank=rank)
    best = rows.groupby("key").agg(col("rank").max().alias("best"))
    joined = arrays(rows.join(best, on="key").select("rank", "best"))
    position = np.empty(int(rank.max()) + 1, dtype=np.int64)
    position[joined["rank"]] = joined["best"]
    return position[rank]


def candidate_pairs(
    keys: np.ndarray,  # (N, B) int64 band keys
    rank: np.ndarray,  # (N,) int64, distinct; the best of a bucket is its hub
) -> np.ndarray:  # (P, 2) int64 distinct pairs of row numbers, hub first
    """Pairs of documents that share a band: every member with the best of its bucket."""
    from daft import col

    count, bands = keys.shape
    if count < 2:
        return np.zeros((0, 2), dtype=np.int64)
    order = np.argsort(rank)
    rows = frame(key=keys.reshape(-1), rank=np.repeat(rank, bands))
    buckets = rows.groupby("key").agg(col("rank").max().alias("hub"))
    edges = rows.join(buckets, on="key").where(col("rank") < col("hub")).select("hub", "rank").distinct()
    found = arrays(edges)
    # Ranks are a permutation of 0 … N-1 here; `order` turns them back into row numbers.
    pairs = np.stack([order[found["hub"]], order[found["rank"]]], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def keys_in_many(
    keys: np.ndarray,  # (R,) int64, one row per key and document, no key twice in a document
    least: int,
) -> tuple[np.ndarray, np.ndarray]:  # keys found in more than `least` rows, and in how many
    """Keys that stand in more than `least` documents."""
    import daft
    from daft import col

    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ones = np.ones(len(keys), dtype=np.int64)
    counted = frame(key=keys, one=ones).groupby("key").agg(col("one").sum().alias("count"))
    found = arrays(counted.where(col("count") > daft.lit(least)))
    order = np.argsort(found["key"])
    return found["key"][order], found["count"][order]
