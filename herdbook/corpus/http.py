"""The HTTP response inside a record to the bytes of a page: status, headers, chunks, content encodings.

Crawls hold every kind of deviation, so a body that is not what its headers say is taken as it is, and
decompression stops at the largest page allowed, which keeps compressed bombs small.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass

from herdbook.corpus.warc import parse_headers


class PageError(ValueError):
    """A page that can't be read; the message is the reason quarantine shows."""


@dataclass
class Response:
    """One decoded response: body bytes, media type (empty if none was sent), charset and status."""

    body: bytes
    media_type: str
    charset: str | None
    status: int


CHUNK_LINE = re.compile(rb"\s*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\n]*)?\r?\n")
HTML_START = re.compile(
    rb"<(?:!doctype\s+html|html|head|title|body|meta|link|script|style|div|p|h[1-6]|table|article|section|main|span|br|ul|ol)\b",
    re.IGNORECASE,
)


def media_type(value: str) -> tuple[str, str | None]:
    """`text/html; charset=utf-8` to its type and charset, in lower case."""
    kind, _, rest = value.partition(";")
    charset = re.search(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", rest, re.IGNORECASE)
    return kind.strip().lower(), charset.group(1).lower() if charset else None


def parse_response(block: bytes, max_bytes: int) -> Response:
    """Parse an HTTP response; raises PageError when its body can't be decoded or is too large."""
    if not block.startswith(b"HTTP/"):
        return Response(block, "", None, 200)
    end = re.search(rb"\r?\n\r?\n", block)
    head, body = (block[: end.end()], block[end.end() :]) if end else (block, b"")
    words = head.split(None, 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    headers = parse_headers(head)
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = dechunk(body)
    for encoding in reversed([e.strip().lower() for e in headers.get("content-encoding", "").split(",")]):
        body = decompress(body, encoding, max_bytes)
    if len(body) > max_bytes:
        raise PageError(f"page of {len(body) / 1e6:.1f} MB is larger than the largest page allowed")
    kind, charset = media_type(headers.get("content-type", ""))
    return Response(body, kind, charset, status)


def dechunk(body: bytes) -> bytes:
    """Join the chunks of a chunked body; a body that is not chunked after all is returned as it is."""
    parts: list[bytes] = []
    position = 0
    while True:
        line = CHUNK_LINE.match(body, position)
        if line is None:
            # Nothing chunked at all, or an end cut off: keep what is there.
            return b"".join(parts) + body[position:] if position < len(body) else b"".join(parts)
        size = int(line.group(1), 16)
        if size == 0:
            return b"".join(parts)
        if not parts and line.end() + size > len(body) + 2:
            return body
        parts.append(body[line.end() : line.end() + size])
        position = line.end() + size


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo one content encoding; bodies that were stored decoded are returned as they are."""
    if encoding in ("", "identity", "none") or not body:
        return body
    if encoding in ("gzip", "x-gzip") and not body.startswith(b"\x1f\x8b"):
        return body
    try:
        if encoding in ("gzip", "x-gzip", "deflate"):
            output = _inflate(body, encoding, max_bytes + 1)
        elif encoding == "br":
            from fastwarc.stream_io import BrotliReader

            output = BrotliReader(io.BytesIO(body)).read(max_bytes + 1)
        elif encoding == "zstd":
            import zstandard

            output = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body)).read(max_bytes + 1)
        else:
            return body
    except Exception as error:  # every library has its own error type
        if HTML_START.search(body[:1024]):
            return body
        raise PageError(f"body is not the {encoding} its header says ({error})") from error
    if len(output) > max_bytes:
        raise PageError(f"{encoding} body unpacks to more than the largest page allowed ({max_bytes / 1e6:.1f} MB)")
    return output


def _inflate(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding != "deflate":
        return zlib.decompressobj(31).decompress(body, limit)
    try:
        return zlib.decompressobj(15).decompress(body, limit)
    except zlib.error:
        return zlib.decompressobj(-15).decompress(body, limit)
