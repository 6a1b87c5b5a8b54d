"""Group-bys larger than memory: rows go to files by a hash of their key, and each file is then small enough to sort.

Equal keys always meet in the same file. Memory is one file's rows, whatever the number of rows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

ROWS = 1 << 20
"""Rows a file should hold: tens of MB while it is sorted."""
MOST_FILES = 256
"""Open files of one group-by, of which two are open at once: systems allow a process 1,024. Beyond it files grow."""


class Spill:
    """Rows of int64 columns, the first of them the key, in files by the key's hash. Use it in a `with`."""

    def __init__(
        self,
        folder: Path,
        columns: int,
        expected: int,  # rows, roughly: it sets the number of files
    ) -> None:
        self.folder, self.columns = folder, columns
        self.bits = min((max(expected - 1, 0) // ROWS).bit_length(), MOST_FILES.bit_length() - 1)

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.files: list[BinaryIO] = [
            open(self.folder / f"{number:04d}.rows", "wb", buffering=1 << 15)  # noqa: SIM115
            for number in range(1 << self.bits)
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self.files:
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, *columns: np.ndarray) -> None:
        """Add rows, given as `self.columns` arrays (R,) int64."""
        rows = np.stack(columns, axis=1).astype("<i8", copy=False)
        if not self.bits:
            rows.tofile(self.files[0])
            return
        part = (columns[0].view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - self.bits)
        part = part.astype(np.uint16)  # sorted by radix at this width
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange((1 << self.bits) + 1))
        rows = rows[order]
        for number, file in enumerate(self.files):
            if bounds[number] < bounds[number + 1]:
                file.write(memoryview(rows[bounds[number] : bounds[number + 1]]))  # type: ignore[arg-type]

    def groups(self) -> Iterator[np.ndarray]:
        """Each file's rows (R, columns) int64; it is removed once they are read."""
        for file in self.files:
            file.close()
            rows = np.fromfile(file.name, dtype="<i8").reshape(-1, self.columns)
            Path(file.name).unlink()
            if len(rows):
                yield rows


def gather(path: Path, rows: np.ndarray, width: int) -> np.ndarray:
    """Rows (R,) of a file of records of `width` uint32 values, as (R, width): only those are read."""
    if not len(rows):
        return np.empty((0, width), dtype="<u4")
    wanted, inverse = np.unique(rows, return_inverse=True)
    found = np.empty((len(wanted), width), dtype="<u4")
    size = 4 * width
    # Neighbours are read together.
    starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1)
    stops = np.append(starts[1:], len(wanted))
    handle = os.open(path, os.O_RDONLY)
    try:
        view = memoryview(found).cast("B")  # type: ignore[arg-type]
        for start, stop, first in zip(starts.tolist(), stops.tolist(), wanted[starts].tolist()):
            if os.preadv(handle, [view[start * size : stop * size]], first * size) != (stop - start) * size:
                raise OSError(f"{path}: ended before row {first + stop - start - 1}")
    finally:
        os.close(handle)
    return found[inverse]
