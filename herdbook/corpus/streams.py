"""Compressed files as streams of bytes that say so when they end too early, which not every library does."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CHUNK = 1 << 20


class DamagedStream(ValueError):
    """The compressed bytes are damaged or cut off; the message says which."""


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The file's bytes, decompressed where it is gzip or zstd (several members or frames too).

    Raises DamagedStream after the last sound piece.
    """
    magic = file.read(4)
    file.seek(0)
    if magic[:3] == GZIP_MAGIC:
        yield from _decompressed(file, gzip=True)
    elif magic == ZSTD_MAGIC:
        yield from _decompressed(file, gzip=False)
    else:
        while piece := file.read(CHUNK):
            yield piece


def _decompressed(file: BinaryIO, gzip: bool) -> Iterator[bytes]:
    import zstandard

    def fresh() -> object:
        return zlib.decompressobj(31) if gzip else zstandard.ZstdDecompressor().decompressobj()

    decoder, begun, rest = fresh(), False, b""
    # zstd may unpack a piece to thirty thousand times its size.
    while piece := rest or file.read(1 << 16 if gzip else 1 << 12):
        rest = b""
        try:
            output = decoder.decompress(piece)  # type: ignore[attr-defined]
        except (zlib.error, zstandard.ZstdError) as error:
            raise DamagedStream(f"damaged compressed bytes: {error}") from error
        begun = True
        if output:
            yield output
        if decoder.eof:  # type: ignore[attr-defined]
            rest, decoder, begun = decoder.unused_data, fresh(), False  # type: ignore[attr-defined]
    if begun:
        raise DamagedStream("compressed bytes are cut off")


def lines(file: BinaryIO, limit: int) -> Iterator[bytes | None]:
    """The file's lines without their ends, None for one longer than `limit`, which is never held whole.

    Raises DamagedStream like `chunks`.
    """
    left, over = b"", False
    for piece in chunks(file):
        *whole, left = (left + piece).split(b"\n")
        for line in whole:
            yield None if over or len(line) > limit else line
            over = False
        if len(left) > limit:
            left, over = b"", True
    if left or over:
        yield None if over else left
