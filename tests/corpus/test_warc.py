"""Reading crawls: whatever happens to some bytes, the records elsewhere are read and the loss is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from herdbook.corpus.warc import Loss, Record, read_records
from tests.corpus.crawls import html, members, record, write_crawl
from tests.support.shared import shared

LIMIT = 1_000_000
URLS = [f"https://a.example/{number}" for number in range(12)]
RECORDS = [record(url, html(f"Page {url} tells of many things. " * (5 + number))) for number, url in enumerate(URLS)]


def read(path: Path, **options: int) -> tuple[list[str], list[Loss]]:
    events = list(read_records(path, LIMIT, **options))
    return (
        [event.headers.get("warc-target-uri", "") for event in events if isinstance(event, Record)],
        [event for event in events if isinstance(event, Loss)],
    )


@pytest.mark.parametrize("compressed", [True, False])
def test_an_undamaged_crawl_is_read_whole(tmp_path: Path, compressed: bool) -> None:
    urls, losses = read(write_crawl(tmp_path / "a.warc", RECORDS, compressed))
    assert urls == URLS and not losses


def test_blocks_equal_those_fastwarc_reads() -> None:
    names = [
        "warcfile.warc.gz",
        "example.warc",
        "example.warc.gz",
        "example-iana.org-chunked.warc",
        "example-resource.warc.gz",
    ]
    for name in names:
        path = shared(f"data/web/edge-cases/{name}")
        theirs = [r.reader.read() for r in ArchiveIterator(str(path), parse_http=False)]
        events = list(read_records(path, 10 * LIMIT))
        assert [event.block for event in events if isinstance(event, Record)] == theirs, name


def test_one_damaged_member_costs_one_record(tmp_path: Path) -> None:
    parts = members(RECORDS)
    middle = bytearray(parts[5])
    middle[len(middle) // 2] ^= 0xFF
    parts[5] = bytes(middle)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(parts))
    urls, losses = read(path)
    assert urls == URLS[:5] + URLS[6:]
    assert len(losses) == 1 and losses[0].offset == sum(map(len, parts[:5]))


def test_a_flipped_bit_that_still_decompresses_is_not_taken_for_text(tmp_path: Path) -> None:
    stored = [gzip.compress(item, 0, mtime=0) for item in RECORDS]
    damaged = bytearray(stored[3])
    place = damaged.index(b"tells")
    damaged[place] ^= 1
    stored[3] = bytes(damaged)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(stored))
    urls, losses = read(path)
    assert urls == URLS[:3] + URLS[4:] and losses[0].url == URLS[3]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_truncated_tail_is_one_loss(tmp_path: Path, compressed: bool) -> None:
    path = write_crawl(tmp_path / "a.warc", RECORDS, compressed)
    path.write_bytes(path.read_bytes()[:-60])
    urls, losses = read(path)
    assert urls == URLS[:-1] and len(losses) == 1


def test_a_truncated_record_in_a_whole_member_is_one_loss(tmp_path: Path) -> None:
    cut = [*RECORDS[:4], RECORDS[4][:-200], *RECORDS[5:]]
    for compressed in (True, False):
        urls, losses = read(write_crawl(tmp_path / "a.warc", cut, compressed))
        assert urls == URLS[:4] + URLS[5:]
        assert [loss.url for loss in losses] == [URLS[4]]


def test_garbage_between_members_is_told(tmp_path: Path) -> None:
    parts = members(RECORDS)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(parts[:6]) + b"\x00garbage\x1f\x8b\x08 more" * 9 + b"".join(parts[6:]))
    urls, losses = read(path)
    assert urls == URLS and len(losses) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"this is no crawl at all\n" * 40, b"\x1f\x8b\x08 no gzip", gzip.compress(b"text " * 99, mtime=0)],
    ids=["empty", "text", "broken gzip", "gzip of text"],  # not their bytes: test processes must agree on names
)
def test_a_file_that_is_no_crawl_is_one_loss(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(content)
    urls, losses = read(path)
    assert not urls and len(losses) == 1


def test_many_records_in_one_gzip_member_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(b"".join(RECORDS), mtime=0))
    assert read(path) == (URLS, [])


def test_records_that_run_across_gzip_members_are_read(tmp_path: Path) -> None:
    whole = b"".join(RECORDS)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(whole[i : i + 700], mtime=0) for i in range(0, len(whole), 700)))
    assert read(path) == (URLS, [])


def test_a_record_larger_than_allowed_is_a_loss_and_the_rest_is_read(tmp_path: Path) -> None:
    big = record("https://a.example/big", b"x" * (3 * LIMIT))
    for compressed in (True, False):
        urls, losses = read(write_crawl(tmp_path / "a.warc", [*RECORDS[:3], big, *RECORDS[3:]], compressed))
        assert urls == URLS
        assert [loss.url for loss in losses] == ["https://a.example/big"] and "larger" in losses[0].reason


@pytest.mark.parametrize("step", [1, 97, 500, 3000, 10**6])
def test_slices_together_give_the_whole_file(tmp_path: Path, step: int) -> None:
    path = tmp_path / "a.warc.gz"
    parts = members(RECORDS)
    damaged = bytearray(parts[7])
    damaged[30] ^= 0x55
    path.write_bytes(b"".join([*parts[:7], bytes(damaged), b"noise", *parts[8:]]))
    size = path.stat().st_size
    urls, losses = [], []
    for start in range(0, size, step):
        found, lost = read(path, start=start, end=min(start + step, size))
        urls, losses = urls + found, losses + lost
    assert (urls, [loss.offset for loss in losses]) == (URLS[:7] + URLS[8:], [loss.offset for loss in read(path)[1]])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    member=st.integers(0, 11),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=30),
)
def test_damage_inside_one_member_never_costs_another(
    tmp_path: Path, member: int, damage: list[tuple[float, int]]
) -> None:
    parts = members(RECORDS)
    broken = bytearray(parts[member])
    for place, flip in damage:
        broken[int(place * len(broken))] ^= flip
    parts[member] = bytes(broken)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(parts))
    urls, losses = read(path)
    others = [url for number, url in enumerate(URLS) if number != member]
    assert [url for url in urls if url != URLS[member]] == others
    assert (URLS[member] in urls) != bool(losses)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), compressed=st.booleans())
def test_no_bytes_make_the_reader_raise(tmp_path: Path, data: st.DataObject, compressed: bool) -> None:
    content = bytearray(b"".join(members(RECORDS) if compressed else RECORDS))
    for _ in range(data.draw(st.integers(0, 12))):
        start = data.draw(st.integers(0, len(content)))
        piece = data.draw(st.binary(max_size=40))
        content[start : start + data.draw(st.integers(0, 300))] = piece
    path = tmp_path / "a.warc.gz"
    path.write_bytes(bytes(content))
    urls, losses = read(path)
    assert len(urls) == len(URLS) or losses or compressed is False


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 11), place=st.floats(0, 0.99), length=st.integers(1, 200))
@example(number=0, place=0.5, length=175)
def test_bytes_cut_from_a_plain_crawl_cost_at_most_the_records_they_touch(
    tmp_path: Path, number: int, place: float, length: int
) -> None:
    cut = RECORDS[number]
    start = int(place * len(cut))
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join([*RECORDS[:number], cut[:start] + cut[start + length :], *RECORDS[number + 1 :]]))
    urls, _ = read(path)
    # A cut at the end of a record takes the blank line that parts it from the next.
    touched = {URLS[number]}
    assert set(URLS) - touched <= set(urls)


def test_arc_files_are_read() -> None:
    for name in ("example.arc", "example.arc.gz"):
        urls, losses = read(shared(f"data/web/edge-cases/{name}"))
        assert urls[-1] == "http://example.com/" and not losses


def test_every_odd_file_is_read_without_raising() -> None:
    folder = shared("data/web/edge-cases")
    for path in sorted(folder.iterdir()):
        if path.name == "LICENSE":
            continue
        urls, losses = read(path)
        assert urls or losses, path.name
