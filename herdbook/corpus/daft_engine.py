"""The questions about all documents as dataframe plans, joins and group-bys alone, for Daft here or on a Ray cluster.

Keys come from functions that each make one part; on Ray they run as tasks on the nodes. What passes between steps are
Parquet files in a folder that all nodes must see. The answers are those of `engine.Native`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from herdbook.corpus.engine import Parts

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""What a function gives for each tuple of arguments, in their order; called wherever there is room."""


class Dataframes:
    """Answers as plans of Daft, on the runner that is set."""

    def __init__(
        self,
        folder: Path,
        partitions: int,  # 0 leaves it to the runner
        calls_each: Each,
    ) -> None:
        self.folder, self.partitions, self.calls_each = folder.absolute(), partitions, calls_each

    def hub_pairs(self, parts: Parts, ranks: int, expected: int) -> Iterator[np.ndarray]:
        """See `engine.Engine`."""
        from daft import col

        rows = self._rows(parts, ("key", "rank"))
        if rows is None:
            return
        best = rows.groupby("key").agg(col("rank").max().alias("hub"))
        shared = rows.join(best, on="key").where(col("rank") < col("hub"))
        found = shared.select("hub", "rank").distinct()
        for table in self._written(found, "pairs"):
            yield np.stack([table["hub"].to_numpy(), table["rank"].to_numpy()], axis=1)

    def keys_in_many(self, parts: Parts, least: int, within: int, expected: int) -> np.ndarray:
        """See `engine.Engine`."""
        from daft import col, lit

        rows = self._rows(parts, ("key", "group"))
        if rows is None:
            return np.zeros(0, dtype=np.int64)
        sums = (col("one").sum().alias("count"), col("group").min().alias("low"), col("group").max().alias("high"))
        counted = rows.with_column("one", lit(1)).groupby("key").agg(*sums)
        many = (col("count") > lit(least)) | ((col("count") > lit(within)) & (col("low") == col("high")))
        found = [np.zeros(0, dtype=np.int64)]
        found += [table["key"].to_numpy() for table in self._written(counted.where(many), "many")]
        return np.sort(np.concatenate(found))

    def components(self, pairs: np.ndarray, count: int) -> np.ndarray:
        """See `engine.Engine`. Each round takes the neighbours' smallest label, then that label's own label."""
        import daft
        from daft import col

        label = np.arange(count)
        if not len(pairs):
            return label
        nodes = np.unique(pairs)
        left, right = np.concatenate([pairs, pairs[:, ::-1], np.stack([nodes, nodes], axis=1)]).T
        edges = self._parted(daft.from_arrow(pa.table({"node": left, "to": right}))).collect()
        labels = daft.from_arrow(pa.table({"node": nodes, "label": nodes})).collect()
        total = int(nodes.sum())
        while True:
            reached = edges.join(labels, left_on="to", right_on="node").groupby("node")
            near = reached.agg(col("label").min().alias("near"))
            jump = labels.select(col("node").alias("near"), col("label"))
            labels = self._parted(near.join(jump, on="near").select("node", "label")).collect()
            # Labels only fall, so they are at rest when their sum is.
            before, total = total, int(labels.agg(col("label").sum()).to_arrow()["label"][0].as_py())
            if total == before:
                break
        found = labels.to_arrow()
        label[found["node"].to_numpy()] = found["label"].to_numpy()
        return label

    def each(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], here: int = 1) -> Iterator[Any]:
        """See `engine.Engine`."""
        return self.calls_each(function, calls)

    def _rows(self, parts: Iterable[Any], columns: tuple[str, ...]) -> Any:
        """The rows that the parts make, as a frame; None when there are none."""
        import daft

        keys = self.folder / "keys"
        shutil.rmtree(keys, ignore_errors=True)
        keys.mkdir(parents=True)
        calls = ((part, columns, keys / f"{number:06d}.parquet") for number, part in enumerate(parts))
        for _ in self.each(_write_part, calls):
            pass
        files = sorted(str(file) for file in keys.glob("*.parquet"))
        if not files:
            keys.rmdir()
            return None
        return self._parted(daft.read_parquet(files))

    def _parted(self, frame: Any) -> Any:
        """Left to itself on Ray, Daft stalls in loops for want of a sensible number of partitions."""
        return frame.into_partitions(self.partitions) if self.partitions else frame

    def _written(self, frame: Any, name: str) -> Iterator[pa.Table]:
        """Run a plan and read what it gave file by file."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        frame.write_parquet(str(place))
        for file in sorted(place.rglob("*.parquet")):
            yield pq.ParquetFile(file).read()
        for left in (place, self.folder / "keys"):
            shutil.rmtree(left, ignore_errors=True)


def here(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Calls one after the other in this process."""
    return (function(*arguments) for arguments in calls)


def _write_part(part: Callable[[], Any], columns: tuple[str, ...], target: Path) -> None:
    made = part()
    values = made if isinstance(made, tuple) else (made,)
    if len(values[0]):
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        pq.write_table(pa.table(dict(zip(columns, values))), temporary)
        temporary.replace(target)
