"""WARC, WET and ARC files to records, losing nothing but what is broken.

Readers at hand stop at the first bad byte, some without a word (see docs/corpus.md). Here the framing
is our own: when a gzip member or a record is damaged, the loss is described and reading goes on at the
next member or record header. A compressed file may be read in slices of byte ranges: a member belongs to the
slice it begins in, so slices together give exactly what the whole file gives.
"""

from __future__ import annotations

import base64
import hashlib
import mmap
import re
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from herdbook.corpus.streams import GZIP_MAGIC, ZSTD_MAGIC, DamagedStream, chunks

CHUNK = 1 << 16
MAX_HEADER = 1 << 17
BLANK = re.compile(rb"[\r\n]*")
HEADER_END = re.compile(rb"\r?\n\r?\n")
NEXT_WARC = re.compile(rb"(?=WARC/[01]\.\d\r?\n[A-Za-z-]{2,40}[ \t]*:)")
ARC_LINE = re.compile(rb"([a-z][a-z0-9+.-]{1,15}:[^\n]*) (\S+) (\d{8,}) (\S+) (-?\w+)\r?\n")
NEXT_ARC = re.compile(rb"\n(?=(?:https?|ftp|dns|filedesc):[^\n]* \S+ \d{14} \S+ \d+\r?\n)")


@dataclass
class Record:
    """One record: its headers (names in lower case), its block, and where it begins in the file."""

    headers: dict[str, str]
    block: bytes
    offset: int
    part: int = 0
    """How many records begin before it in the same gzip member."""

    @property
    def url(self) -> str | None:
        """The address it was fetched from."""
        return address(self.headers)


@dataclass
class Loss:
    """Something that could not be read: where, why, and the page it was, where that is known."""

    file: str
    offset: int
    reason: str
    url: str | None = None
    part: int = 0


@dataclass
class _Parser:
    """Cuts a byte stream into records; fed in pieces, it never holds more than one record of `max_bytes`."""

    file: str
    max_bytes: int
    compressed: bool
    buffer: bytearray = field(default_factory=bytearray)
    origin: int = 0
    member: int = 0
    parts: int = 0
    discard: int = 0
    arc: bool = False
    lost: bool = False

    def where(self) -> int:
        return self.member if self.compressed else self.origin

    def loss(self, reason: str, url: str | None = None) -> Loss:
        self.parts += 1
        return Loss(self.file, self.where(), reason, url, self.parts - 1)

    def start_member(self, offset: int) -> None:
        self.member, self.parts = offset, 0

    def take(self, count: int) -> None:
        del self.buffer[:count]
        self.origin += count

    def feed(self, data: bytes, final: bool = False) -> Iterator[Record | Loss]:
        if self.discard:
            skipped = min(self.discard, len(data))
            self.discard -= skipped
            self.origin += skipped
            data = data[skipped:]
        self.buffer += data
        while True:
            event, more = self._next(final)
            if event is not None:
                yield event
            if not more:
                return

    def _next(self, final: bool) -> tuple[Record | Loss | None, bool]:
        """The next event, and whether there may be another in the buffer."""
        buffer = self.buffer
        if blank := BLANK.match(buffer).end():  # type: ignore[union-attr]
            self.take(blank)
        if not buffer:
            self.lost = False if final else self.lost
            return None, False
        if not self.arc and buffer.startswith(b"filedesc:"):
            self.arc = True
        if self.arc and not buffer.startswith(b"WARC/"):
            return self._next_arc(final)
        if not buffer.startswith(b"WARC/"):
            if len(buffer) < 16 and not final:
                return None, False
            return self._resync("no record header here", 1, final)
        end = HEADER_END.search(buffer, 0, MAX_HEADER)
        if end is None:
            if len(buffer) >= MAX_HEADER or final:
                return self._resync("record header without an end", 5, final)
            return None, False
        headers = parse_headers(bytes(buffer[: end.end()]))
        url = address(headers)
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            return self._resync(f"record without a valid Content-Length ({length!r})", end.end(), final, url)
        return self._block(headers, end.end(), int(length), url, final)

    def _block(
        self, headers: dict[str, str], start: int, length: int, url: str | None, final: bool
    ) -> tuple[Record | Loss | None, bool]:
        buffer = self.buffer
        if length > self.max_bytes and len(buffer) < start + length:
            early = NEXT_WARC.search(buffer, start)
            if early or final:
                return self._resync("record ends before its Content-Length", start, final, url)
            if self.compressed or len(buffer) >= start + self.max_bytes:
                event = self.loss(f"record of {length / 1e6:.1f} MB is larger than the largest page allowed", url)
                self.discard = start + length - len(buffer)
                self.take(len(buffer))
                return event, False
            return None, False
        tail = bytes(buffer[start + length : start + length + 16])
        ended = tail.startswith(b"\r\n\r\n")
        if len(buffer) < start + length or (len(tail) < 16 and not final and not ended):
            if final:
                return self._resync("record ends before its Content-Length", start, final, url)
            return None, False
        after = tail.lstrip(b"\r\n")
        # Rubbish may follow a sound record; but a block that has run over the next record's header is not sound.
        odd = after and not b"WARC/".startswith(after[:5]) and not self.arc
        if odd and not (ended and NEXT_WARC.search(buffer, start, start + length) is None):
            return self._resync("record does not end where its Content-Length says", start, final, url)
        record = Record(headers, bytes(buffer[start : start + length]), self.where(), self.parts)
        self.parts += 1
        self.lost = False
        self.take(start + length)
        return record, True

    def _next_arc(self, final: bool) -> tuple[Record | Loss | None, bool]:
        line = ARC_LINE.match(self.buffer)
        if line is None:
            if b"\n" not in self.buffer and len(self.buffer) < MAX_HEADER and not final:
                return None, False
            return self._resync("no ARC record header here", 1, final)
        url, _, date, kind, size = (part.decode("utf-8", "replace") for part in line.groups())
        about = url.startswith("filedesc:")
        if not (size.isascii() and size.isdigit()):
            reason = f"ARC record without a valid length ({size!r})"
            return self._resync(reason, line.end(), final, None if about else url)
        headers = {
            "warc-type": "warcinfo" if about else "response",
            "warc-target-uri": url,
            "warc-date": arc_date(date),
            "content-type": kind,
        }
        return self._block(headers, line.end(), int(size), None if about else url, final)

    def _resync(self, reason: str, start: int, final: bool, url: str | None = None) -> tuple[Loss | None, bool]:
        """Give up what stands here and go on at the next header; several in a row are one loss."""
        event = None if self.lost else self.loss(reason, url)
        self.lost = True
        following = (NEXT_ARC if self.arc else NEXT_WARC).search(self.buffer, max(start - 1, 0))
        if following and following.end() > 0:
            self.take(following.end())
            self.lost = False
            return event, True
        self.take(len(self.buffer) if final else max(len(self.buffer) - 64, 1))
        return event, False

    def abort(self, reason: str) -> Loss:
        """Forget the unfinished record, because the bytes behind it are lost."""
        event = self.loss(reason, _address(bytes(self.buffer[:4096])))
        self.buffer.clear()
        self.discard, self.lost = 0, False
        return event


def parse_headers(data: bytes) -> dict[str, str]:
    """Header lines to a dictionary with lower-case names; the first line (version or status) is left out."""
    headers: dict[str, str] = {}
    last = None
    for line in data.decode("utf-8", "replace").splitlines()[1:]:
        if line[:1] in (" ", "\t") and last:
            headers[last] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        if colon:
            last = name.strip().lower()
            headers.setdefault(last, value.strip())
    return headers


def address(headers: dict[str, str]) -> str | None:
    """The address a record's headers give, without the brackets some writers put around it."""
    return headers.get("warc-target-uri", "").strip("<> ") or None


def arc_date(digits: str) -> str:
    """An ARC date (YYYYMMDDhhmmss) as WARC writes it."""
    d = digits.ljust(14, "0")
    return f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:10]}:{d[10:12]}:{d[12:14]}Z"


def _intact(record: Record) -> bool:
    """Whether a record out of a damaged member agrees with the digest it carries; without one it is not trusted."""
    algorithm, _, value = record.headers.get("warc-block-digest", "").partition(":")
    if algorithm.lower() != "sha1":
        return False
    return base64.b32encode(hashlib.sha1(record.block).digest()).decode() == value.strip().upper()


def read_records(
    path: Path, max_bytes: int, start: int = 0, end: int | None = None, name: str | None = None
) -> Iterator[Record | Loss]:
    """All records that begin in bytes [start, end) of a WARC, WET or ARC file, and the losses between them.

    `max_bytes` caps a record's block; a larger one is a loss. Plain files are read whole (start 0, end None).
    """
    name = name or path.name
    with open(path, "rb") as file:
        magic = file.read(4)
        if not magic:
            yield Loss(name, 0, "the file is empty")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if _compressed(data):
                yield from _read_gzip(data, name, max_bytes, start, len(data) if end is None else end)
                return
        file.seek(0)
        parser = _Parser(name, max_bytes, compressed=False)
        try:
            for chunk in chunks(file):
                yield from parser.feed(chunk)
        except DamagedStream as error:
            yield parser.abort(str(error))
            return
        yield from parser.feed(b"", final=True)


def _starts_record(data: mmap.mmap, position: int) -> bool:
    """Whether a gzip member that begins with a record header begins here."""
    if data[position : position + 3] != GZIP_MAGIC:
        return False
    head = _head(data, position)
    return head.lstrip(b"\r\n").startswith(b"WARC/") or ARC_LINE.match(head) is not None


def _head(data: mmap.mmap, position: int) -> bytes:
    """The first bytes of a member, as far as they are sound: damage further on does not hide a good beginning."""
    decoder, head = zlib.decompressobj(31), b""
    try:
        for start in range(position, min(position + 4096, len(data)), 64):
            head += decoder.decompress(data[start : start + 64], 2048)
            if len(head) >= 2048 or decoder.eof:
                break
    except zlib.error:
        pass
    return head


def _compressed(data: mmap.mmap) -> bool:
    """Whether a file is gzip: by its first bytes, or, where those are damaged, by members further on."""
    if data[:3] == GZIP_MAGIC:
        return True
    return not data[:5].startswith((b"WARC/", b"filed", ZSTD_MAGIC)) and _next_start(data, 0) is not None


def _address(head: bytes) -> str | None:
    """The address in the first bytes of a record, if they hold one."""
    return address(parse_headers(head)) if head.startswith(b"WARC/") else None


def _next_start(data: mmap.mmap, position: int) -> int | None:
    """Where the next gzip member that begins with a record begins, from `position` on."""
    while (position := data.find(GZIP_MAGIC, position)) >= 0:
        if _starts_record(data, position):
            return position
        position += 1
    return None


def _read_gzip(data: mmap.mmap, name: str, max_bytes: int, start: int, end: int) -> Iterator[Record | Loss]:
    parser = _Parser(name, max_bytes, compressed=True)
    position = 0 if start == 0 else _next_start(data, start)
    if position is not None and position >= end:
        return
    while position is not None and position < len(data):
        if position >= end and _starts_record(data, position):
            break
        if data[position : position + 3] != GZIP_MAGIC:
            following = _next_start(data, position)
            tail = data[position : len(data) if following is None else following]
            if tail.strip(b"\0"):
                parser.start_member(position)
                yield parser.abort(f"{len(tail)} bytes that are no gzip member")
            position = following
            continue
        result = yield from _read_member(data, position, parser)
        position = result if result is not None else _next_start(data, position + 1)
    yield from parser.feed(b"", final=True)


def _read_member(data: mmap.mmap, position: int, parser: _Parser) -> Generator[Record | Loss, None, int | None]:
    """Feed one gzip member to the parser; returns where it ends, or None when it is damaged.

    Records are held back until the member's checksum is seen (up to the largest page), so that a flipped bit
    is not taken for text.
    """
    decoder = zlib.decompressobj(31)
    held: list[Record | Loss] = []
    cursor, size, opening = position, 0, True
    reason = "gzip member is cut off"
    try:
        while not decoder.eof and cursor < len(data):
            piece = data[cursor : cursor + CHUNK]
            cursor += len(piece)
            while piece:
                output = decoder.decompress(piece, 1 << 20)
                piece = decoder.unconsumed_tail
                if opening and output:
                    if parser.buffer.strip() and output.startswith(b"WARC/"):
                        held.append(parser.abort("record ends before its Content-Length"))
                    parser.start_member(position)
                    opening = False
                size += len(output)
                held += parser.feed(output)
                if size > parser.max_bytes:
                    yield from held
                    held.clear()
                if decoder.eof:
                    break
    except zlib.error as error:
        reason = f"damaged gzip member ({str(error).split(': ')[-1]})"
    if decoder.eof:
        following = cursor - len(decoder.unused_data)
        # A record may run on in the next member, unless that one begins with a record of its own.
        if following >= len(data) or _starts_record(data, following):
            held += parser.feed(b"", final=True)
        yield from held
        return following
    whole = [event for event in held if isinstance(event, Loss) or _intact(event)]
    suspects = [event for event in held if isinstance(event, Record) and not _intact(event)]
    yield from whole
    if opening:
        parser.start_member(position)
    for record in suspects:
        yield parser.loss(reason, record.url)
    if not suspects or parser.buffer.strip(b"\r\n"):
        loss = parser.abort(reason)
        loss.url = loss.url or (_address(_head(data, position)) if not held else None)
        yield loss
    parser.buffer.clear()
    parser.discard, parser.lost = 0, False
    return None
