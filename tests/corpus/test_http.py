"""Responses to bytes: chunks, encodings, bombs, and headers that lie."""

from __future__ import annotations

import gzip
import io
import zlib

import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter

from herdbook.corpus.http import PageError, dechunk, parse_response
from tests.corpus.crawls import deflate, html

BODY = html("Words and more words, so that a compressor has something to do. " * 20)


def brotli(data: bytes) -> bytes:
    target = io.BytesIO()
    writer = BrotliWriter(target)
    writer.write(data)
    writer.close()
    return target.getvalue()


def response(body: bytes, *headers: str) -> bytes:
    return (
        "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: text/html; charset=ISO-8859-1", *headers, "", ""]).encode()
        + body
    )


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", deflate),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("identity", bytes),
    ],
)
def test_content_encodings_are_undone(encoding: str, encode: object) -> None:
    got = parse_response(response(encode(BODY), f"Content-Encoding: {encoding}"), 10**6)  # type: ignore[operator]
    assert (got.body, got.media_type, got.charset, got.status) == (BODY, "text/html", "iso-8859-1", 200)


def test_brotli_is_undone() -> None:
    try:
        packed = brotli(BODY)
    except Exception as error:  # the writer needs a library that the reader does not
        pytest.skip(f"nothing here can write brotli: {error}")
    assert parse_response(response(packed, "Content-Encoding: br"), 10**6).body == BODY


def test_chunks_are_joined_and_what_is_not_chunked_is_left_alone() -> None:
    chunked = (
        b"".join(b"%x\r\n%s\r\n" % (len(BODY[i : i + 100]), BODY[i : i + 100]) for i in range(0, len(BODY), 100))
        + b"0\r\n\r\n"
    )
    assert parse_response(response(chunked, "Transfer-Encoding: chunked"), 10**6).body == BODY
    assert parse_response(response(BODY, "Transfer-Encoding: chunked"), 10**6).body == BODY
    assert dechunk(chunked[:-200]).startswith(BODY[:-400])
    both = response(chunked, "Transfer-Encoding: chunked", "Content-Encoding: gzip")
    assert parse_response(both, 10**6).body == BODY  # stored decoded, the header kept


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_compressed_bomb_is_refused_without_being_unpacked(encoding: str) -> None:
    zeros = b"\0" * 50_000_000
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.ZstdCompressor().compress}[encoding](
        zeros
    )
    with pytest.raises(PageError, match="unpacks to more"):
        parse_response(response(bomb, f"Content-Encoding: {encoding}"), 10**6)


def test_a_body_that_is_not_what_its_header_says_is_told() -> None:
    with pytest.raises(PageError, match="not the gzip"):
        parse_response(response(b"\x1f\x8b nonsense", "Content-Encoding: gzip"), 10**6)
    with pytest.raises(PageError, match="larger"):
        parse_response(response(b"x" * 2000), 1000)


@pytest.mark.parametrize(
    ("block", "status", "body"),
    [
        (b"", 200, b""),
        (b"HTTP/1.1", 0, b""),
        (b"HTTP/1.1 abc\r\n\r\n", 0, b""),
        (b"\xff\xfe", 200, b"\xff\xfe"),
        (b"HTTP/1.1 200 OK\nContent-Type: a\n\nbody", 200, b"body"),
    ],
)
def test_odd_responses_are_read_as_far_as_they_go(block: bytes, status: int, body: bytes) -> None:
    found = parse_response(block, 1000)
    assert (found.status, found.body) == (status, body)
