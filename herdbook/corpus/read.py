"""Sources to raw pages: crawls, Parquet, JSONL, folders of text and code, cut into shards.

A shard is a file or a slice of one: what one process measures at a time and publishes whole. Everything
that can't be read becomes a line of quarantine, never silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from herdbook.corpus.formats import CODE_SUFFIXES, HTML_SUFFIXES, format_of_head, format_of_name, guess_format, suits
from herdbook.corpus.http import HTML_START, PageError, media_type, parse_response
from herdbook.corpus.remote import fetched, first_bytes, list_files
from herdbook.corpus.repositories import file_licence
from herdbook.corpus.settings import MeasureSettings, SourceSettings
from herdbook.corpus.streams import GZIP_MAGIC, DamagedStream, lines
from herdbook.corpus.warc import Loss, Record, read_records
from herdbook.files import left_out
from herdbook.settings import UserError

UNTYPED = frozenset(
    ("", "application/octet-stream", "text/plain", "application/xml", "text/xml", "unknown/unknown", "no-type")
)
"""Types that may yet be HTML: the page's first bytes decide."""


@dataclass(frozen=True)
class Shard:
    """A piece of a source: one file (or byte or row-group range of it), or a list of small files."""

    source: str
    format: str
    root: str
    files: tuple[str, ...]
    start: int
    end: int
    text_field: str
    stamp: tuple[tuple[int, int], ...]
    """Size in bytes and change time in ns of each file, so that changed input is not taken for measured."""

    @property
    def size(self) -> int:
        """Bytes of input."""
        sliced = self.format == "warc" and self.end > self.start
        return self.end - self.start if sliced else sum(size for size, _ in self.stamp)

    @property
    def remote(self) -> bool:
        """Whether it lies at an address."""
        return "://" in self.root

    def as_json(self) -> dict[str, Any]:
        """The shard as it stands in the plan file."""
        return json.loads(json.dumps(asdict(self)))


@dataclass
class RawPage:
    """One page as read: `content` is bytes (html) or text (everything already decoded)."""

    url: str
    date: str
    key: str
    """Where it stands: unique within the source."""
    kind: str
    """`html`, `text` or `code`."""
    content: bytes | str
    charset: str | None = None
    licence: str | None = None
    """`permissive`, `copyleft` or `unknown`; None where nothing is asked about it."""


@dataclass
class Skipped:
    """A record that is no page (a request, a picture, an error status): counted, not kept."""

    reason: str


def plan(sources: list[SourceSettings], settings: MeasureSettings) -> list[Shard]:
    """Cut the sources into shards, in a fixed order; raises UserError where there is nothing to read."""
    shards: list[Shard] = []
    names: dict[str, int] = {}
    for source in sources:
        name = source.name or source.place.rstrip("/").rpartition("/")[2]
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
            name = f"{name}-{names[name]}"
        found = _plan_remote(source, name) if source.url else _plan_source(source, name, settings)
        if not found:
            raise UserError(
                f"{source.place}: nothing here that the format {source.format!r} reads"
                + (f" and the glob {source.glob!r} matches" if source.glob else "")
                + "; give another path, `format` or `glob`"
            )
        shards += found
    if not shards:
        raise UserError("nothing to curate: name `sources`, or feed the stage with `from: {pages: …}`")
    return shards


def _plan_source(source: SourceSettings, name: str, settings: MeasureSettings) -> list[Shard]:
    path = source.path
    assert path is not None
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; mend the `path` of the source {name!r}")
    root = path if path.is_dir() else path.parent
    if path.is_dir():
        files = sorted(p for p in path.glob(source.glob or "**/*") if p.is_file() and not _hidden(p, path))
    else:
        files = [path]
    step = max(int(settings.shard_mb * 1e6), 1)
    shards: list[Shard] = []
    small: list[tuple[Path, int, int]] = []
    for file in files:
        kind = source.format if source.format != "auto" else guess_format(file, only=path.is_file())
        if kind is None or (source.format != "auto" and path.is_dir() and not source.glob and not suits(file, kind)):
            continue
        stat = file.stat()
        if kind in ("text", "code"):
            small.append((file, stat.st_size, stat.st_mtime_ns))
            continue
        kind = "warc" if kind in ("wet", "arc") else kind
        for start, end in _slices(file, kind, stat.st_size, step):
            stamp = ((stat.st_size, stat.st_mtime_ns),)
            shards.append(Shard(name, kind, str(root), (str(file),), start, end, source.text_field, stamp))
    batch: list[tuple[Path, int, int]] = []
    for index, item in enumerate(small):
        batch.append(item)
        if sum(size for _, size, _ in batch) >= step or index == len(small) - 1:
            stamps = tuple((size, changed) for _, size, changed in batch)
            paths = tuple(str(file) for file, _, _ in batch)
            kind = "code" if source.format == "code" else "text"
            shards.append(Shard(name, kind, str(root), paths, 0, 0, source.text_field, stamps))
            batch = []
    return shards


def _plan_remote(source: SourceSettings, name: str) -> list[Shard]:
    """A shard per file at an address, whose files are fetched whole."""
    assert source.url is not None
    files = list_files(source.url, source.glob)
    shards = []
    for file in files:
        kind = source.format if source.format != "auto" else format_of_name(file.name)
        if kind is None:
            kind = format_of_head(first_bytes(file.url), only=len(files) == 1)
        if kind is None or (source.format != "auto" and len(files) > 1 and not suits(Path(file.name), kind)):
            continue
        kind = "warc" if kind in ("wet", "arc") else kind
        root = file.url.removesuffix(file.name)
        stamp = ((file.size, file.changed),)
        end = -1 if kind == "parquet" else file.size
        shards.append(Shard(name, kind, root, (file.url,), 0, end, source.text_field, stamp))
    return shards


def _hidden(path: Path, root: Path) -> bool:
    return any(map(left_out, path.relative_to(root).parts))


def _slices(path: Path, kind: str, size: int, step: int) -> list[tuple[int, int]]:
    """Byte ranges (WARC in gzip members) or row-group ranges (Parquet) to measure separately; else the whole file."""
    if kind == "warc" and size > step:
        with open(path, "rb") as file:
            if file.read(3) == GZIP_MAGIC:
                return [(start, min(start + step, size)) for start in range(0, size, step)]
    if kind == "parquet":
        import pyarrow.parquet as pq

        try:
            groups = pq.ParquetFile(path).metadata.num_row_groups
        except Exception:  # not Parquet after all: the reader says so in quarantine
            return [(0, 1)]
        return [(group, group + 1) for group in range(groups)]
    return [(0, size)]


def read_shard(shard: Shard, settings: MeasureSettings) -> Iterator[RawPage | Loss | Skipped]:
    """All pages of a shard, and all that is lost or passed over; a file that is gone by now is lost too."""
    try:
        if not shard.remote:
            yield from _read_local(shard, settings)
            return
        names = [url.removeprefix(shard.root) for url in shard.files]
        with fetched(shard.files, names) as folder:
            local = replace(shard, root=str(folder), files=tuple(str(folder / name) for name in names))
            yield from _read_local(local, settings)
    except OSError as error:
        name = shard.files[0].removeprefix(shard.root).lstrip("/")
        yield Loss(name, shard.start, f"unreadable file ({error.strerror or error})")


def _read_local(shard: Shard, settings: MeasureSettings) -> Iterator[RawPage | Loss | Skipped]:
    limit = int(settings.max_text_mb * 1e6)
    if shard.format == "warc":
        yield from _read_warc(shard, int(settings.max_page_mb * 1e6))
    elif shard.format in ("text", "code"):
        for file in shard.files:
            yield _read_text(shard, Path(file), settings)
    else:
        if shard.format == "jsonl":
            rows = _json_rows(shard, limit)
        else:
            rows = _parquet_rows(shard) if shard.format == "parquet" else _arrow_rows(shard)
        for index, row in rows:
            yield row if isinstance(row, Loss) else _row_page(shard, index, row, limit)


def _name(shard: Shard) -> str:
    return str(Path(shard.files[0]).relative_to(shard.root))


def _read_warc(shard: Shard, max_bytes: int) -> Iterator[RawPage | Loss | Skipped]:
    name = _name(shard)
    compressed_slice = shard.end if shard.end < shard.stamp[0][0] or shard.start else None
    # The block may be larger than the page by its HTTP headers.
    for event in read_records(Path(shard.files[0]), max_bytes + 65536, shard.start, compressed_slice, name):
        if isinstance(event, Loss):
            yield event
            continue
        url = event.url or ""
        try:
            yield _record_page(event, name, url, max_bytes)
        except PageError as error:
            yield Loss(name, event.offset, str(error), url or None, event.part)


def _record_page(record: Record, name: str, url: str, max_bytes: int) -> RawPage | Skipped:
    kind = record.headers.get("warc-type", "").lower()
    declared, charset = media_type(record.headers.get("content-type", ""))
    if kind not in ("response", "resource", "conversion"):
        return Skipped(f"{kind or 'untyped'} record")
    if not url or url.startswith("metadata:"):
        return Skipped("record without an address")
    key = f"{name}:{record.offset}:{record.part}"
    page = RawPage(url, record.headers.get("warc-date", ""), key, "html", b"", charset)
    if kind == "conversion":
        page.kind, page.content = "text", record.block.decode("utf-8", "replace")
        return page
    response = parse_response(record.block, max_bytes)
    if response.status and not 200 <= response.status < 300:
        return Skipped(f"status {response.status}")
    page.content, page.charset = response.body, response.charset or (charset if kind == "resource" else None)
    media = response.media_type or ("" if declared == "application/http" else declared)
    if "html" in media:
        return page
    if media in UNTYPED:
        if HTML_START.search(response.body[:1024]):
            return page
        if media == "text/plain":
            page.kind = "text"
            return page
    return Skipped(f"type {media or 'unknown'}")


def _read_text(shard: Shard, path: Path, settings: MeasureSettings) -> RawPage | Loss | Skipped:
    name = path.relative_to(shard.root).as_posix()
    try:
        stat = path.stat()
        if stat.st_size > settings.max_text_mb * 1e6:
            return Loss(name, 0, f"text of {stat.st_size / 1e6:.1f} MB is larger than max_text_mb", name)
        content = path.read_bytes()
    except OSError as error:
        return Loss(name, 0, f"unreadable file ({error.strerror})", name)
    if b"\0" in content[:4096] and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Skipped("binary file")
    suffix = path.suffix.lower()
    kind = "html" if suffix in HTML_SUFFIXES else "code" if suffix in CODE_SUFFIXES else "text"
    licence = file_licence(content, path.parent, Path(shard.root)) if shard.format == "code" else None
    # Two folders may each have a README.
    return RawPage(f"{shard.source}/{name}", "", name, kind, content, licence=licence)


def _parquet_rows(shard: Shard) -> Iterator[tuple[int, dict[str, Any] | Loss]]:
    import pyarrow.parquet as pq

    name = _name(shard)
    index = 0
    try:
        file = pq.ParquetFile(shard.files[0])
        groups = range(shard.start, file.metadata.num_row_groups if shard.end < 0 else shard.end)
        index = sum(file.metadata.row_group(group).num_rows for group in range(shard.start))
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow raises many types for damaged files
        yield index, Loss(name, shard.start, f"unreadable Parquet file ({_said(error)})")
        return
    for group in groups:
        try:
            table = file.read_row_group(group)
        except FileNotFoundError:
            raise
        except Exception as error:
            yield index, Loss(name, group, f"unreadable Parquet row group ({_said(error)})")
        else:
            yield from _table_rows(name, index, table)
        index += file.metadata.row_group(group).num_rows


def _table_rows(name: str, first: int, table: Any) -> Iterator[tuple[int, dict[str, Any] | Loss]]:
    """Rows of a table or batch, numbered from `first`; one that is no UTF-8 is lost alone."""
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError:
        for row in range(table.num_rows):
            try:
                yield first + row, table.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield first + row, Loss(name, first + row, f"row {first + row} is no UTF-8 ({error})")
    else:
        yield from enumerate(rows, first)


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _arrow_rows(shard: Shard) -> Iterator[tuple[int, dict[str, Any] | Loss]]:
    """Rows of an Arrow file, as Hugging Face's `save_to_disk` writes them (a stream) or with an index at its end."""
    import pyarrow as pa

    index = 0
    try:
        with open(shard.files[0], "rb") as file:
            if file.read(6) == b"ARROW1":
                reader = pa.ipc.open_file(file)
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            else:
                file.seek(0)
                batches = iter(pa.ipc.open_stream(file))
            for batch in batches:
                yield from _table_rows(_name(shard), index, batch)
                index += batch.num_rows
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow raises many types for damaged files
        yield (
            index,
            Loss(_name(shard), index, f"unreadable Arrow batch after row {index} ({_said(error)})"),
        )


def _json_rows(shard: Shard, limit: int) -> Iterator[tuple[int, dict[str, Any] | Loss]]:
    path, name = Path(shard.files[0]), _name(shard)
    number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(lines(file, 2 * limit)):  # JSON may write two characters for one
                if line is None:
                    yield number, Loss(name, number, f"line {number + 1} is longer than max_text_mb allows")
                elif line.strip():
                    yield number, _json_row(name, number, line)
        if not path.stat().st_size:
            yield 0, Loss(name, 0, "the file is empty")
    except DamagedStream as error:
        yield number, Loss(name, number + 1, f"unreadable from line {number + 2} on ({error})")


def _json_row(name: str, number: int, line: bytes) -> dict[str, Any] | Loss:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Loss(name, number, f"line {number + 1} is not JSON ({error})")
    return row if isinstance(row, dict) else Loss(name, number, f"line {number + 1} is JSON but not an object")


def _row_page(shard: Shard, index: int, row: dict[str, Any], limit: int) -> RawPage | Loss:
    name = _name(shard)
    fields = (shard.text_field, "text", "content", "raw_content")
    text = next((row[key] for key in fields if isinstance(row.get(key), str)), None)
    if text is None:
        return Loss(name, index, f"row without a text field {shard.text_field!r}", row.get("url"))
    if len(text) > limit:
        return Loss(name, index, f"text of {len(text) / 1e6:.1f} MB is larger than max_text_mb", row.get("url"))
    url = str(row.get("url") or row.get("id") or "")
    if "://" not in url:  # two sources may each have a row 1
        url = f"{shard.source}/{name}#{url or index}"
    html = HTML_START.match(text[:200].lstrip().encode()) is not None
    kind = "html" if html else "text"
    return RawPage(url, str(row.get("date") or ""), f"{name}:{shard.start}:{index}", kind, text)
