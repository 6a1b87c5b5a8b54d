"""What a stage found out so far, in a file that only grows: a killed one goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

K = TypeVar("K")


class Memory:
    """Values that are JSON, by key; in the file before they count."""

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, dict[str, Any]()
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
                self.known[row["key"]] = row["value"]
            except (ValueError, KeyError, TypeError):
                continue  # a line that a killed run did not finish

    def add(self, values: Mapping[str, Any]) -> None:
        """Keep these values."""
        if not values:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"key": key, "value": value}, ensure_ascii=False) for key, value in values.items()]
        with open(self.path, "ab") as file:
            # The line end before ends what a killed run left unfinished.
            file.write("".join(f"\n{line}" for line in lines).encode("utf-8", "replace") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.known.update(values)

    def fill(
        self, items: Mapping[str, K], find: Callable[[Sequence[K]], Sequence[Any]], batch: int = 1024
    ) -> dict[str, Any]:
        """The value of each item: what is known, and what `find` gives for the others, `batch` at a time."""
        new = [key for key in items if key not in self.known]
        for start in range(0, len(new), batch):
            some = new[start : start + batch]
            self.add(dict(zip(some, find([items[key] for key in some]), strict=True)))
        return {key: self.known[key] for key in items}
