"""Makes small crawls and damages them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path


def record(
    url: str, body: bytes, headers: str = "Content-Type: text/html; charset=utf-8", date: str = "2024-05-01T00:00:00Z"
) -> bytes:
    """One WARC response record around an HTTP response."""
    head = f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\n" if headers else "HTTP/1.1 200 OK\r\n\r\n"
    block = head.encode() + body
    lines = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: {date}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return lines.encode() + block + b"\r\n\r\n"


def members(records: list[bytes]) -> list[bytes]:
    """Each record as a gzip member of its own, the same on every run."""
    return [gzip.compress(item, 6, mtime=0) for item in records]


def html(*paragraphs: str, title: str = "A page") -> bytes:
    """A page of paragraphs."""
    body = "\n".join(f"<p>{text}</p>" for text in paragraphs)
    head = f"<!doctype html><html><head><title>{title}</title></head>"
    return f"{head}<body><main><h1>{title}</h1>\n{body}</main></body></html>".encode()


def write_crawl(path: Path, records: list[bytes], compressed: bool = True) -> Path:
    """A crawl file of records."""
    path.write_bytes(b"".join(members(records)) if compressed else b"".join(records))
    return path


def deflate(data: bytes) -> bytes:
    """Raw deflate, as some servers send."""
    maker = zlib.compressobj(wbits=-15)
    return maker.compress(data) + maker.flush()
