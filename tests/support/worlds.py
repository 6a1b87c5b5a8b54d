"""The tiny world, written once per test run, and its pages as planned; and the plainest reader of its crawl."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herdbook.world.crawl import write_world
from herdbook.world.library import articles
from herdbook.world.pages import Page, Planner
from herdbook.world.settings import WorldSettings


@functools.cache
def tiny_world() -> Path:
    """Folder of a tiny world; tests must not write into it."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-world-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_world(WorldSettings.tiny(), folder)
    return folder


@functools.cache
def tiny_pages() -> tuple[Page, ...]:
    """The plan of the tiny world's pages."""
    settings = WorldSettings.tiny()
    return tuple(Planner(settings.defects, list(articles(settings)), settings.seed).plan())


@functools.cache
def tiny_truth() -> tuple[dict[str, Any], ...]:
    """Rows of the tiny world's truth."""
    import pyarrow.parquet as pq

    return tuple(pq.read_table(tiny_world() / "truth.parquet").to_pylist())


@dataclass
class Raw:
    """A record as its gzip member gives it."""

    headers: dict[str, str]
    block: bytes
    whole: bool  # the member is intact and as long as its Content-Length says


def records(data: bytes) -> Iterator[Raw]:
    """Records of a crawl, member by member, written without any WARC library.

    Members are found by their first ten bytes, which zlib writes alike; a damaged one is given as far as it goes.
    """
    magic = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
    starts = []
    place = data.find(magic)
    while place >= 0:
        starts.append(place)
        place = data.find(magic, place + 1)
    for start, end in zip(starts, [*starts[1:], len(data)]):
        unpacker, text, intact = zlib.decompressobj(31), b"", True
        try:
            for place in range(start, end, 64):
                text += unpacker.decompress(data[place : min(place + 64, end)])
        except zlib.error:
            intact = False
        head, _, rest = text.partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        length = int(headers.get("Content-Length", "0"))
        whole = intact and unpacker.eof and rest[length:] == b"\r\n\r\n"
        yield Raw(headers, rest[:length], whole)
