"""The crawl is a valid WARC but for the records meant to be broken, and truth knows every page in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from herdbook.world.crawl import write_world
from herdbook.world.defects import EXPECTED, DefectSettings
from herdbook.world.settings import WorldSettings
from tests.support.worlds import Raw, records, tiny_truth, tiny_world


class Socket:
    """As much of a socket as http.client asks for."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self.data)


def body_of(message: bytes) -> tuple[bytes, http.client.HTTPResponse]:
    """The body as the standard library's HTTP client reads it, unpacked."""
    response = http.client.HTTPResponse(Socket(message))  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    return (gzip.decompress(body) if response.headers["Content-Encoding"] == "gzip" else body), response


def responses() -> dict[str, Raw]:
    data = (tiny_world() / "crawl.warc.gz").read_bytes()
    return {raw.headers["WARC-Record-ID"]: raw for raw in records(data) if raw.headers.get("WARC-Type") == "response"}


def test_every_row_of_truth_has_its_record_and_every_page_its_row() -> None:
    found = responses()
    assert set(found) == {row["record_id"] for row in tiny_truth()}
    for row in tiny_truth():
        headers = found[row["record_id"]].headers
        assert (headers["WARC-Target-URI"], headers["WARC-Date"]) == (row["url"], row["date"])


def test_exactly_the_truncated_records_are_broken() -> None:
    found = responses()
    broken = {record for record, raw in found.items() if not raw.whole}
    assert broken == {row["record_id"] for row in tiny_truth() if row["defect"] == "truncated_record"}


def test_digests_hold_wherever_the_record_is_whole() -> None:
    data = (tiny_world() / "crawl.warc.gz").read_bytes()
    whole = [raw for raw in records(data) if raw.whole]
    assert {raw.headers["WARC-Type"] for raw in whole} == {"response", "request", "metadata", "warcinfo"}
    for raw in whole:
        assert raw.headers["WARC-Block-Digest"] == "sha1:" + base64.b32encode(hashlib.sha1(raw.block).digest()).decode()


def test_a_reader_that_stops_at_the_first_error_loses_pages() -> None:
    with pytest.raises((OSError, EOFError, zlib.error)):
        gzip.decompress((tiny_world() / "crawl.warc.gz").read_bytes())
    seen = 0
    with pytest.raises(Exception), open(tiny_world() / "crawl.warc.gz", "rb") as file:  # noqa: B017
        for record in ArchiveIterator(file, WarcRecordType.response):
            record.reader.read()
            seen += 1
    assert seen < len(tiny_truth()) - 4


def test_an_undamaged_crawl_is_read_whole_by_fastwarc(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    sound = WorldSettings.tiny().model_copy(update={"defects": DefectSettings(truncated_record=0)})
    write_world(sound, tmp_path)
    truth = {row["record_id"]: row for row in pq.read_table(tmp_path / "truth.parquet").to_pylist()}
    types: Counter[str] = Counter()
    with open(tmp_path / "crawl.warc.gz", "rb") as file:
        for record in ArchiveIterator(file, verify_digests=True, strict_mode=True):
            types[record.headers["WARC-Type"]] += 1
            if record.record_type == WarcRecordType.response:
                assert record.headers["WARC-Target-URI"] == truth[record.record_id]["url"]
    assert types["response"] == len(truth)
    assert types["warcinfo"] == 1 and types["request"] > 0


def test_transfer_and_content_encodings_give_back_the_page() -> None:
    found, encodings = responses(), Counter[str]()
    for row in tiny_truth():
        if row["defect"] in ("truncated_record", "wrong_charset", "broken_encoding"):
            continue
        body, response = body_of(found[row["record_id"]].block)
        encodings[f"{response.headers['Transfer-Encoding']} {response.headers['Content-Encoding']}"] += 1
        charset = response.headers.get_content_charset() or (
            "utf-8" if b'<meta charset="utf-8"' in body else "windows-1252"
        )
        text = body.decode(charset)
        assert text.rstrip().endswith("</html>")
        assert f'<html lang="{row["declared_language"]}">' in text
        assert response.headers["Content-Language"] == row["declared_language"]
    assert len(encodings) == 4


def test_truth_says_what_is_to_become_of_each_page() -> None:
    rows = tiny_truth()
    by_record = {row["record_id"]: row for row in rows}
    for row in rows:
        assert row["expected"] == EXPECTED[row["defect"]]
        assert row["keep"] == (row["expected"] == "kept")
        assert bool(row["duplicate_of"]) == (row["expected"] == "deduplicated")
        if row["duplicate_of"]:
            assert by_record[row["duplicate_of"]]["keep"]
        assert all(code in row["clean_text"] for code in row["code"])
        assert all(latex in row["clean_text"] for latex in row["math"])
        assert not row["facts"] or row["expected"] in ("kept", "deduplicated")
    assert len({(row["url"], row["date"]) for row in rows}) == len(rows)
    assert any(row["code"] for row in rows) and any(row["math"] for row in rows)


def test_urls_are_unique_but_for_url_duplicates() -> None:
    urls = Counter(row["url"] for row in tiny_truth() if row["defect"] != "url_duplicate")
    assert urls.total() == len(urls)


def test_a_world_is_a_function_of_its_settings(tmp_path: Path) -> None:
    metrics = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        metrics.append(write_world(WorldSettings.tiny(seed), tmp_path / name))
    bytes_of = {name: (tmp_path / name / "crawl.warc.gz").read_bytes() for name in "abc"}
    assert bytes_of["a"] == bytes_of["b"] == (tiny_world() / "crawl.warc.gz").read_bytes()
    assert bytes_of["a"] != bytes_of["c"]
    assert (tmp_path / "a/truth.parquet").read_bytes() == (tmp_path / "b/truth.parquet").read_bytes()
    assert metrics[0] == metrics[1]


def test_metrics_count_what_was_written(tmp_path: Path) -> None:
    metrics = write_world(WorldSettings.tiny(), tmp_path)
    rows = tiny_truth()
    assert metrics["pages"] == len(rows)
    assert metrics["keep"] == sum(row["keep"] for row in rows)
    assert metrics["characters"] == sum(len(row["clean_text"]) for row in rows if row["keep"])
    assert metrics["defects"] == Counter(row["defect"] for row in rows if row["defect"])
    for name, count in metrics["questions"].items():
        assert len((tmp_path / "questions" / f"{name}.jsonl").read_text().splitlines()) == count
