"""Sources of every format to pages; what can't be read is told, and a wrong path is the user's to mend."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from herdbook.corpus.read import RawPage, Skipped, plan, read_shard
from herdbook.corpus.settings import MeasureSettings, SourceSettings
from herdbook.corpus.warc import Loss
from herdbook.settings import UserError
from tests.corpus.crawls import html, record, write_crawl
from tests.support.shared import shared

SETTINGS = MeasureSettings(max_page_mb=0.1, max_text_mb=0.2)


def read(path: Path, settings: MeasureSettings = SETTINGS, **options: Any) -> list[RawPage | Loss | Skipped]:
    source = SourceSettings(path=path, **options)
    return [item for shard in plan([source], settings) for item in read_shard(shard, settings)]


ROWS = [{"url": f"https://a.example/{n}", "text": f"Text number {n}.", "date": "2024"} for n in range(5)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_rows_of_every_format_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    else:
        pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.ZstdCompressor().compress}[suffix]
        path.write_bytes(pack(lines))  # type: ignore[operator]
    pages = [item for item in read(path) if isinstance(item, RawPage)]
    assert [(p.url, p.content, p.date, p.kind) for p in pages] == [(r["url"], r["text"], "2024", "text") for r in ROWS]
    assert len({p.key for p in pages}) == 5


def test_bad_rows_are_told_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "good"}\nnot json\n[1]\n{"other": 1}\n\n{"text": "' + "x" * 300_000 + '"}\n{"text": "last"}\n'
    )
    found = read(path)
    assert [item.content for item in found if isinstance(item, RawPage)] == ["good", "last"]
    reasons = [item.reason for item in found if isinstance(item, Loss)]
    assert len(reasons) == 4 and "line 2 is not JSON" in reasons[0] and "larger than max_text_mb" in reasons[3]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"])
def test_a_damaged_file_of_rows_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in ROWS * 200).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else zstandard.ZstdCompressor().compress(lines))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"damage"
    path.write_bytes(bytes(content))
    assert any(isinstance(item, Loss) for item in read(path))


def test_a_folder_gives_one_document_per_text_file(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_text("x = 1\n")
    (tmp_path / "b.txt").write_bytes("Grüße\n".encode("cp1252"))
    (tmp_path / "c.html").write_bytes(html("Hello there."))
    (tmp_path / "big.txt").write_text("y" * 300_000)
    (tmp_path / "pic.png").write_bytes(b"\x89PNG")
    (tmp_path / "zeros.txt").write_bytes(b"\0" * 100)
    (tmp_path / ".hidden.py").write_text("no")
    found = read(tmp_path, format="text")
    assert {(p.url, p.kind) for p in found if isinstance(p, RawPage)} == {
        (f"{tmp_path.name}/pkg/a.py", "code"),
        (f"{tmp_path.name}/b.txt", "text"),
        (f"{tmp_path.name}/c.html", "html"),
    }
    assert [item.url for item in found if isinstance(item, Loss)] == ["big.txt"]
    only = [p.url for p in read(tmp_path, format="text", glob="**/*.py", name="code") if isinstance(p, RawPage)]
    assert only == ["code/pkg/a.py"]


def test_html_without_a_type_is_read_and_other_things_are_counted(tmp_path: Path) -> None:
    records = [
        record("https://a.example/1", html("One."), headers=""),
        record("https://a.example/2", html("Two."), headers="Content-Type: application/octet-stream"),
        record("https://a.example/3", b"\x89PNG....", headers="Content-Type: image/png"),
        record("https://a.example/4", b"{}", headers=""),
        record("https://a.example/5", b"plain words", headers="Content-Type: text/plain"),
        record("https://a.example/6", html("x" * 200_000)),
        record("https://a.example/7", html("gone")).replace(b"200 OK", b"404 No"),
    ]
    found = read(write_crawl(tmp_path / "a.warc.gz", records))
    assert [(p.url[-1], p.kind) for p in found if isinstance(p, RawPage)] == [
        ("1", "html"),
        ("2", "html"),
        ("5", "text"),
    ]
    assert sorted(item.reason for item in found if isinstance(item, Skipped)) == [
        "status 404",
        "type image/png",
        "type unknown",
    ]
    assert [item.url for item in found if isinstance(item, Loss)] == ["https://a.example/6"]


def test_wet_and_wat_files_of_common_crawl() -> None:
    wet = [p for p in read(shared("data/web/common-crawl/whirlwind.warc.wet.gz")) if isinstance(p, RawPage)]
    assert len(wet) == 1 and wet[0].kind == "text" and len(wet[0].content) > 500
    page = [p for p in read(shared("data/web/common-crawl/whirlwind.warc.gz")) if isinstance(p, RawPage)]
    assert len(page) == 1 and page[0].url == wet[0].url and page[0].kind == "html"


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (lambda p: None, {}, "no such file"),
        (lambda p: p.mkdir(), {}, "nothing here"),
        (lambda p: p.mkdir(), {"glob": "*.xyz"}, r"glob '\*\.xyz'"),
    ],
)
def test_a_source_with_nothing_to_read_is_the_users_mistake(
    tmp_path: Path, make: Any, options: dict[str, Any], says: str
) -> None:
    path = tmp_path / "source"
    make(path)
    with pytest.raises(UserError, match=says):
        read(path, **options)
    with pytest.raises(UserError, match="nothing to curate"):
        plan([], SETTINGS)


def test_files_and_rows_of_one_name_in_two_sources_have_addresses_of_their_own(tmp_path: Path) -> None:
    sources = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.txt").write_text(folder)
        (tmp_path / folder / "rows.jsonl").write_text(json.dumps({"id": 1, "text": folder}) + "\n")
        sources += [SourceSettings(path=tmp_path / folder, format=f) for f in ("text", "jsonl")]
    pages = [item for shard in plan(sources, SETTINGS) for item in read_shard(shard, SETTINGS)]
    urls = [page.url for page in pages if isinstance(page, RawPage)]
    assert len(set(urls)) == len(urls) == 4


def test_rows_of_a_table_in_groups_have_addresses_of_their_own_and_a_bad_one_is_lost_alone(tmp_path: Path) -> None:
    stored = pa.array([b"zero", b"one", b"\xff two", b"three", b"four"])
    texts = pa.Array.from_buffers(pa.string(), 5, stored.buffers())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=2)
    with (
        open(tmp_path / "b.arrow", "wb") as file,
        pa.ipc.new_stream(file, pa.schema([("text", pa.string())])) as writer,
    ):
        writer.write_table(pa.table({"text": texts}), max_chunksize=2)
    for name in ("a.parquet", "b.arrow"):
        source = SourceSettings(path=tmp_path / name)
        found = [item for shard in plan([source], MeasureSettings()) for item in read_shard(shard, MeasureSettings())]
        pages = {item.url: item.content for item in found if isinstance(item, RawPage)}
        wanted = {0: "zero", 1: "one", 3: "three", 4: "four"}
        assert pages == {f"{name}/{name}#{row}": text for row, text in wanted.items()}
        (loss,) = (item for item in found if isinstance(item, Loss))
        assert loss.offset == 2 and loss.reason.startswith("row 2 is no UTF-8")
