"""Sources at addresses, Hugging Face datasets, code repositories, sources that are gone or larger than they seem."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.corpus.curate import curate
from herdbook.corpus.read import RawPage, plan, read_shard
from herdbook.corpus.repositories import classify, is_generated, is_vendored
from herdbook.corpus.settings import CurateSettings, MeasureSettings, SourceSettings
from herdbook.corpus.warc import Loss
from herdbook.settings import UserError
from tests.corpus.crawls import html, members, record

SETTINGS = MeasureSettings(max_text_mb=0.1)


def read(**options: Any) -> list[Any]:
    source = SourceSettings(**options)
    return [item for shard in plan([source], SETTINGS) for item in read_shard(shard, SETTINGS)]


def put(name: str, content: bytes) -> None:
    with fsspec.open(f"memory://{name}", "wb") as file:
        file.write(content)


def test_every_format_is_read_from_an_address(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["In Parquet.", "Twice."]}), tmp_path / "a.parquet", row_group_size=1)
    put("/crawl/one/a.parquet", (tmp_path / "a.parquet").read_bytes())
    put("/crawl/one/b.jsonl.gz", gzip.compress(b'{"text": "In JSON."}\n'))
    put("/crawl/c.warc.gz", b"".join(members([record("https://a.example/", html("In a crawl."))])))
    put("/crawl/d.txt", b"Plain.")
    put("/crawl/.hidden/e.txt", b"No.")
    pages = read(url="memory://crawl")
    assert all(isinstance(page, RawPage) for page in pages)
    texts = {page.url: page.content for page in pages}
    assert sorted(texts) == [
        "crawl/d.txt", "crawl/one/a.parquet#0", "crawl/one/a.parquet#1", "crawl/one/b.jsonl.gz#0", "https://a.example/",
    ]  # fmt: skip
    assert texts["crawl/d.txt"] == b"Plain." and texts["crawl/one/a.parquet#1"] == "Twice."
    assert [page.content for page in read(url="memory://crawl/d.txt")] == [b"Plain."]
    assert len(read(url="memory://crawl", glob="**/*.parquet")) == 2
    with pytest.raises(UserError, match="no such file or folder"):
        read(url="memory://nowhere")
    with pytest.raises(UserError, match="nosuchkind"):
        read(url="nosuchkind://x/y")


@pytest.mark.parametrize("options", [{}, {"path": "a", "url": "memory://a"}, {"url": "plain/folder"}])
def test_a_source_is_at_one_place(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"exactly one of|as `path`"):
        SourceSettings(**options)


def test_datasets_in_arrow_files_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": ["One.", "Two.", "Three."], "url": ["https://a.example/1", None, None]})
    for name, make in (("stream", pa.ipc.new_stream), ("file", pa.ipc.new_file)):
        with open(tmp_path / f"{name}.arrow", "wb") as file, make(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    pages = read(path=tmp_path)
    assert [page.content for page in pages] == ["One.", "Two.", "Three."] * 2
    cut = (tmp_path / "stream.arrow").read_bytes()[:-200]
    (tmp_path / "stream.arrow").write_bytes(cut)
    left = read(path=tmp_path / "stream.arrow")
    assert [page.content for page in left[:-1]] in (["One.", "Two."], []) and isinstance(left[-1], Loss)


def test_what_goes_while_it_is_read_is_quarantined(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "c.txt").write_text("x")
    (tmp_path / "d.warc.gz").write_bytes(b"".join(members([record("https://a.example/", html("x"))])))
    put("/gone/e.jsonl", b'{"text": "x"}\n')
    sources = [SourceSettings(path=tmp_path), SourceSettings(url="memory://gone")]
    shards = plan(sources, SETTINGS)
    for file in tmp_path.iterdir():
        file.unlink()
    fsspec.filesystem("memory").rm("/gone", recursive=True)
    found = [item for shard in shards for item in read_shard(shard, SETTINGS)]
    assert [item.file for item in found] == ["a.parquet", "b.jsonl", "d.warc.gz", "c.txt", "e.jsonl"]
    assert all(isinstance(item, Loss) and ("No such file" in item.reason or "fetched" in item.reason) for item in found)


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: zstandard.ZstdCompressor().compress(data)])
def test_a_line_that_unpacks_to_more_than_is_allowed_is_lost_alone(tmp_path: Path, pack: Any) -> None:
    huge = b'{"text": "' + b"x" * 30_000_000 + b'"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(pack(b'{"text": "before"}\n' + huge + b'{"text": "after"}\n'))
    found = read(path=tmp_path / "a.jsonl.gz", format="jsonl")
    assert [item.content for item in found if isinstance(item, RawPage)] == ["before", "after"]
    (loss,) = (item for item in found if isinstance(item, Loss))
    assert loss.reason == "line 2 is longer than max_text_mb allows"


MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"
GPL = "This program is free software under the GNU General Public License"


def test_files_of_a_repository_stand_under_the_nearest_licence(tmp_path: Path) -> None:
    for name, text in {
        "LICENSE": MIT, "a.py": "x = 1\n", "lib/COPYING": GPL, "lib/deep/b.py": "y = 2\n",
        "lib/c.py": "# SPDX-License-Identifier: Apache-2.0\nz = 3\n", "README.md": "About it.",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    pages = {Path(page.url).name: page.licence for page in read(path=tmp_path, format="code")}
    assert pages == {"a.py": "permissive", "b.py": "copyleft", "c.py": "permissive", "README.md": "permissive"}
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "d.py").write_text("w = 4\n")
    assert read(path=tmp_path / "bare", format="code")[0].licence == "unknown"
    assert read(path=tmp_path / "bare", format="text")[0].licence is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (MIT, "permissive"), (GPL, "copyleft"), ("Apache License\n   Version 2.0, January 2004", "permissive"),
        ("All rights reserved.", "unknown"), ("Mozilla Public License Version 2.0", "copyleft"),
        ("Redistribution and use in source and\nbinary forms", "permissive"), (f"{MIT}\n\n{GPL}", "copyleft"),
    ],
)  # fmt: skip
def test_a_licence_is_told_by_its_words(text: str, kind: str) -> None:
    assert classify(text) == kind


def test_generated_minified_and_vendored_files_are_told() -> None:
    assert is_generated("// Code generated by stringer; DO NOT EDIT.\npackage a") and is_generated("a=1;" * 1000)
    assert not is_generated("# Plots what was generated by the run; do not modify the input while it reads.\n")
    assert not is_generated("def generate():\n    pass\n" * 200)
    assert is_vendored("web/node_modules/x/index.js") and not is_vendored("web/src/vendor.py")


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(["page", "short", "broken", "no text", "big"]), max_size=12))
def test_documents_in_are_kept_dropped_or_quarantined(kinds: list[str]) -> None:
    rows = {
        "page": json.dumps({"text": "A long text of many words about the mill and the river. " * 3}),
        "short": json.dumps({"text": "Few words."}),
        "broken": '{"text": ',
        "no text": json.dumps({"title": "x"}),
        "big": json.dumps({"text": "x" * 300_000}),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "a.jsonl").write_text("".join(rows[kind] + "\n" for kind in ["page", *kinds]))
        chosen = CurateSettings(sources=(SourceSettings(path=path / "a.jsonl"),), measure=SETTINGS, workers=1)
        counts = curate(chosen, [], path / "out")["documents"]
    assert counts["read"] == len(kinds) + 1 == counts["kept"] + counts["dropped"] + counts["quarantined"]
    assert counts["quarantined"] == sum(kind in ("broken", "no text", "big") for kind in kinds)
