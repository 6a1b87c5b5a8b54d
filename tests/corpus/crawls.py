"""Makes small crawls and damages them."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


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


def sound_text(draw: random.Random, words: int = 150) -> str:
    """English enough for every rule."""
    nouns = ["mill", "river", "wheel", "stone", "bridge", "village", "orchard", "boat", "lantern", "winter", "barn"]
    verbs = ["turns", "carries", "keeps", "holds", "follows", "leaves", "meets", "crosses", "guards", "feeds"]
    lines = (
        f"The {draw.choice(nouns)} near the {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)} "
        f"of the old {draw.choice(nouns)} and {draw.choice(verbs)} it for {draw.randint(10, 9999)} days."
        for _ in range(words // 18)
    )
    return "\n".join(lines)


GONE = "gone.jsonl"
"""Of `bad_sources`: to be removed once the sources have been planned."""


def bad_sources(folder: Path) -> tuple[int, list[str]]:
    """Fill a folder with everything bad among good documents: how many are kept, and parts of the losses' reasons.

    With `max_text_mb` 2 and the usual `max_page_mb`. What can be read and is no text has words enough to be judged.
    """
    draw = random.Random(3)
    folder.mkdir(parents=True, exist_ok=True)
    noise = bytes(draw.choices(range(1, 256), k=3000))
    _bad_crawl(folder, draw, noise)
    rows = [json.dumps({"text": sound_text(draw), "url": f"https://b.example/{n}"}).encode() for n in range(3)]
    bad = [b'{"text": "' + noise.replace(b"\n", b" ") + b'"}', b'{"text": 7}', b"{}", b'{"text": "\xff\xfe a \xc3"}']
    bad += [b'{"text": "' + b"x" * 3_000_000 + b'"}', b"\xff\xfe\x00", b"[" * 100_000, b""]
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(b"\n".join(rows + bad) + b"\n"))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(rows[0] * 1000)[:-30])
    (folder / GONE).write_bytes(rows[1])
    invalid = pa.array([sound_text(draw).encode(), b"\xff\xc3 bytes \x80", None, sound_text(draw).encode()])
    texts = pa.Array.from_buffers(pa.string(), 4, invalid.buffers())
    pq.write_table(pa.table({"text": texts}), folder / "rows.parquet", row_group_size=3)
    (folder / "cut.parquet").write_bytes((folder / "rows.parquet").read_bytes()[:-50])
    (folder / "noise.txt").write_bytes(noise)
    (folder / "empty.txt").write_bytes(b"")
    crawl = ["damaged gzip member", "record of 64", "gzip body unpacks to more", "page allowed", "member is cut off"]
    lines = ["line 4 is not JSON", *["row without a text"] * 2, "line 7 is not", "text of 3.0 MB", "line 9 is not"]
    tables = ["row 1 is no UTF-8", "row without a text", "unreadable Parquet file"]
    return 10, [*crawl, *lines, "line 10 is not JSON", *tables, "cut off", "No such file"]


def _bad_crawl(folder: Path, draw: random.Random, noise: bytes) -> None:
    gzipped = "Content-Type: text/html\r\nContent-Encoding: gzip"
    good = [record(f"https://a.example/{n}", html(*sound_text(draw).split("\n"))) for n in range(4)]
    parts = members(
        [
            *good,
            record("https://a.example/bomb", gzip.compress(b"<p>" + bytes(40_000_000)), gzipped),
            record("https://a.example/large", bytes(64_000_000)),
            record("https://a.example/deep", b"<body>" + b"<div>" * 1_000_000 + b"<p>" + sound_text(draw).encode()),
            record("https://a.example/noise", b"<html><body><p>" + noise + b"</p>"),
            record("https://a.example/odd-QQ", html("Few words.")).replace(b"QQ", b"\xff\xfe"),
            record("https://a.example/huge", b"<p>" + b"many words here " * 600_000),
        ]
    )
    parts[2:2] = [b"\x1f\x8b\x08\0\0\0\0\0\0\0damaged"]
    (folder / "crawl.warc.gz").write_bytes(b"".join(parts) + members(good)[0][:-400])
