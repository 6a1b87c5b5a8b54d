"""The crawl of the known world: pages as a crawler stores them, and beside it the truth about each.

`crawl.warc.gz` is WARC 1.1 with one gzip member per record, so that a reader can go on after a damaged one. Servers
differ as real ones do: spelling of the content type, chunked transfer, gzip encoding, the charset in the header, in
the page or in both.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from herdbook.console import progress
from herdbook.world.article import Article, Block
from herdbook.world.defects import EXPECTED, cut_characters, misdeclare
from herdbook.world.facts import make_register
from herdbook.world.html import hash_text
from herdbook.world.library import articles
from herdbook.world.pages import Page, Planner
from herdbook.world.questions import write_questions
from herdbook.world.requests import write_requests
from herdbook.world.settings import WorldSettings
from herdbook.world.sites import Frame, Site, make_site, menu_html, page_html

RELATED = 5


class Bytes:
    """Pages as bytes: the HTML in its charset, and the HTTP message around it."""

    def __init__(self, pages: Sequence[Page], seed: int) -> None:
        hosts = list(dict.fromkeys(page.article.site for page in sorted(pages, key=lambda page: page.article.site)))
        self.sites = {host: make_site(host, number) for number, host in enumerate(hosts)}
        for page in pages:  # a mirror must not look like the site it mirrors
            if page.defect == "mirrored_site" and page.original:
                original = hosts.index(page.original.article.site)
                self.sites[page.article.site] = make_site(page.article.site, original + 1)
        self.titles: dict[str, list[tuple[str, str]]] = {host: [] for host in hosts}
        for page in pages:  # sites link to their good pages; hosts of junk link to what they have
            if page.article.genre != "junk" or page.defect in ("ngram_spam", "adult"):
                self.titles[page.article.site].append(("/" + page.url.split("/", 3)[3], page.article.title))
        self.seed = seed

    def html(self, page: Page) -> tuple[bytes, str]:
        """(bytes of the HTML, charset to declare in the header or "") of a page."""
        site = self.sites[page.article.site]
        draw = random.Random(f"page-{self.seed}-{page.number}")
        charset = self._charset(site)
        if page.defect == "wrong_charset":
            text = self._render(page, site, ("iso-8859-1", "utf-8", "")[page.variant % 3], draw)
            body, declared, _ = misdeclare(draw, text, page.variant)
            return body, declared
        if page.defect == "broken_encoding":
            body = self._render(page, site, "utf-8", draw).encode("utf-8")
            return (cut_characters(body) if page.variant % 5 == 4 else body), "utf-8"
        where = hash_text(site.host) // 8 % 3  # charset declared in the page, in the header, or in both
        text = self._render(page, site, charset if where != 1 else "", draw)
        return text.encode(charset, "xmlcharrefreplace"), charset if where != 0 else ""

    def _charset(self, site: Site) -> str:
        return {0: "iso-8859-1", 1: "windows-1252"}.get(hash_text(site.host) % 8, "utf-8")

    def _render(self, page: Page, site: Site, charset: str, draw: random.Random) -> str:
        titles = self.titles[site.host]
        start = draw.randrange(len(titles))
        related = tuple((titles + titles)[start : start + min(RELATED, len(titles))])
        path = "/" + page.url.split("/", 3)[3]
        language = page.declared_language or page.article.language
        frame = Frame(site, path, page.published, language, charset, related, draw.randrange(1 << 30))
        if page.defect == "thin":
            return menu_html(page.article.language, frame)
        return page_html(with_boilerplate(page, draw) if page.boilerplate else page.article, frame)

    def message(self, page: Page) -> bytes:
        """The HTTP response: status line, headers, and the body as it was transferred."""
        body, charset = self.html(page)
        draw = random.Random(f"http-{self.seed}-{page.number}")
        media = "application/xhtml+xml" if hash_text(page.article.site) % 11 == 3 else "text/html"
        kind = media
        if charset:
            kind = draw.choice(
                (f"{media}; charset={charset}", f"{media};charset={charset.upper()}", f'{media}; charset="{charset}"')
            )
        headers = [
            ("Date", f"{page.crawled:%a, %d %b %Y %H:%M:%S} GMT"),
            ("Server", draw.choice(("nginx", "Apache/2.4", "lighttpd"))),
        ]
        headers.append((draw.choice(("Content-Type", "content-type")), kind))
        headers.append(("Content-Language", page.declared_language or page.article.language))
        if draw.random() < 0.15:
            body = gzip.compress(body, 6, mtime=0)
            headers.append(("Content-Encoding", "gzip"))
        if draw.random() < 0.15:
            body = chunked(body, draw)
            headers.append(("Transfer-Encoding", "chunked"))
        else:
            headers.append(("Content-Length", str(len(body))))
        head = "HTTP/1.1 200 OK\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
        return head.encode("ascii") + b"\r\n" + body


def with_boilerplate(page: Page, draw: random.Random) -> Article:
    """The page's article with the site's repeated sentences as paragraphs between its own."""
    blocks = list(page.article.blocks)
    for line in page.boilerplate:
        blocks.insert(draw.randint(1, len(blocks)), Block("paragraph", text=line))
    return replace(page.article, blocks=tuple(blocks))


def chunked(body: bytes, draw: random.Random) -> bytes:
    """`body` in HTTP/1.1 chunks of varying size."""
    pieces, start = [], 0
    while start < len(body):
        size = draw.choice((512, 1000, 4096, 8192))
        piece = body[start : start + size]
        pieces.append(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        start += size
    return b"".join(pieces) + b"0\r\n\r\n"


def member(data: bytes) -> bytes:
    """One gzip member that holds `data`, the same bytes on every day."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def digest(data: bytes) -> str:
    """SHA-1 in base 32, as WARC files write it."""
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()


def record(kind: str, block: bytes, headers: Sequence[tuple[str, str]], extra_length: int = 0) -> bytes:
    """One WARC record, not yet compressed; `extra_length` makes its Content-Length a lie."""
    fields = [
        ("WARC-Type", kind),
        *headers,
        ("WARC-Block-Digest", digest(block)),
        ("Content-Length", str(len(block) + extra_length)),
    ]
    head = "WARC/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    return head.encode("utf-8") + b"\r\n" + block + b"\r\n\r\n"


def damaged(block: bytes, headers: Sequence[tuple[str, str]], variant: int, draw: random.Random) -> bytes:
    """A member no reader can read whole: cut off (0), overwritten in the middle (1), or with a Content-Length too
    large (2)."""
    if variant % 3 == 2:
        return member(record("response", block, headers, extra_length=draw.randint(2_000, 9_000)))
    whole = member(record("response", block, headers))
    middle = int(len(whole) * draw.uniform(0.4, 0.7))
    if variant % 3 == 0:
        return whole[:middle]
    # Ones in the place of data: no deflate stream survives this with its checksum right.
    return whole[:middle] + b"\xff" * 40 + whole[middle + 40 :]


def record_id(draw: random.Random) -> str:
    """A WARC-Record-ID out of the world's own dice."""
    return f"<urn:uuid:{uuid.UUID(int=draw.getrandbits(128), version=4)}>"


def write_warc(pages: Sequence[Page], seed: int, file: BinaryIO) -> None:
    """Write all pages in order, with a warcinfo record in front and requests and metadata here and there."""
    draw = random.Random(f"warc-{seed}")
    maker = Bytes(pages, seed)
    info = b"software: herdbook known world\r\nformat: WARC File Format 1.1\r\n"
    fields = [
        ("WARC-Record-ID", record_id(draw)),
        ("WARC-Date", "2024-01-01T00:00:00Z"),
        ("WARC-Filename", "crawl.warc.gz"),
    ]
    file.write(member(record("warcinfo", info, [*fields, ("Content-Type", "application/warc-fields")])))
    with progress("world: write crawl", len(pages), "pages") as bar:
        for page in pages:
            date = f"{page.crawled:%Y-%m-%dT%H:%M:%SZ}"
            common = [("WARC-Target-URI", page.url), ("WARC-Date", date)]
            block = maker.message(page)
            headers = [
                ("WARC-Record-ID", page.record_id),
                *common,
                ("WARC-IP-Address", f"192.0.2.{draw.randrange(256)}"),
            ]
            headers += [("Content-Type", "application/http; msgtype=response")]
            headers.append(("WARC-Payload-Digest", digest(block.partition(b"\r\n\r\n")[2])))
            if draw.random() < 0.1:
                host = page.article.site
                asked = (
                    f"GET /{page.url.split('/', 3)[3]} HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n\r\n".encode()
                )
                request = [("WARC-Record-ID", record_id(draw)), *common, ("WARC-Concurrent-To", page.record_id)]
                file.write(
                    member(record("request", asked, [*request, ("Content-Type", "application/http; msgtype=request")]))
                )
            if page.defect == "truncated_record":
                file.write(damaged(block, headers, page.variant, draw))
            else:
                file.write(member(record("response", block, headers)))
            if draw.random() < 0.03:
                about = [("WARC-Record-ID", record_id(draw)), *common, ("WARC-Concurrent-To", page.record_id)]
                file.write(
                    member(
                        record(
                            "metadata", b"fetchTimeMs: 120\r\n", [*about, ("Content-Type", "application/warc-fields")]
                        )
                    )
                )
            bar.advance()


def truth_rows(pages: Sequence[Page]) -> Iterator[dict[str, Any]]:
    """What is true of each page, in the crawl's order; see write_truth for the columns."""
    for page in pages:
        article, expected = page.article, EXPECTED[page.defect]
        blocks = () if page.defect == "thin" else article.blocks
        yield {
            "record_id": page.record_id,
            "url": page.url,
            "date": f"{page.crawled:%Y-%m-%dT%H:%M:%SZ}",
            "language": article.language,
            "declared_language": page.declared_language or article.language,
            "topic": article.topic,
            "genre": article.genre,
            "site": article.site,
            "facts": list(article.facts),
            "defect": page.defect,
            "variant": page.variant,
            "edit_rate": page.edit_rate,
            "keep": expected == "kept",
            "expected": expected,
            "duplicate_of": page.original.record_id if page.original else "",
            "boilerplate": list(page.boilerplate),
            "code": [block.text for block in blocks if block.kind == "code"],
            "math": [block.latex for block in blocks if block.kind == "math"],
            "clean_text": "" if page.defect == "thin" else article.clean_text(),
        }


def write_truth(pages: Sequence[Page], path: Path) -> None:
    """Write one row per page.

    Columns: record_id, url, date (WARC-Date), language and declared_language (ISO 639-1), topic, genre, site (host),
    facts (ids told), defect (kind or ""), variant (form of the defect), edit_rate (share of words changed in a near
    duplicate), keep, expected (kept, deduplicated, dropped, quarantined), duplicate_of (record_id or ""), boilerplate
    (lines to remove), code and math (blocks of the text that must come through to the character), clean_text (what a
    perfect extractor gives back).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = pa.list_(pa.string())
    types = {"variant": pa.int32(), "edit_rate": pa.float64(), "keep": pa.bool_()}
    lists = dict.fromkeys(("facts", "boilerplate", "code", "math"), strings)
    rows = list(truth_rows(pages))
    schema = pa.schema([(name, types.get(name) or lists.get(name) or pa.string()) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def write_world(settings: WorldSettings, out: Path) -> dict[str, Any]:
    """Write `crawl.warc.gz`, `truth.parquet`, `questions/*.jsonl`, `requests/*.jsonl` and `dialogs/*.jsonl` into `out`.

    Gives numbers of pages, characters of clean text of pages to keep, pages of each defect, and rows of each file.
    """
    found: list[Article] = []
    with progress("world: write articles", None, "articles") as bar:
        for article in articles(settings):
            found.append(article)
            bar.advance()
    pages = Planner(settings.defects, found, settings.seed).plan()
    draw = random.Random(f"ids-{settings.seed}")
    for page in pages:
        page.record_id = record_id(draw)
    with open(out / "crawl.warc.gz", "wb") as file:
        write_warc(pages, settings.seed, file)
    write_truth(pages, out / "truth.parquet")
    (out / "questions").mkdir(exist_ok=True)
    questions = write_questions(settings, out / "questions")
    requests = write_requests(settings, make_register(settings), out)
    counts = Counter(page.defect for page in pages if page.defect)
    return {
        "pages": len(pages),
        "articles": len(found),
        "keep": sum(EXPECTED[page.defect] == "kept" for page in pages),
        "characters": sum(len(page.article.clean_text()) for page in pages if EXPECTED[page.defect] == "kept"),
        "defects": {kind: counts[kind] for kind in EXPECTED if kind},
        "questions": questions,
        "requests": requests,
    }
