"""The page of a curation and `why`: their totals are those of the files, and hostile pages stay text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.corpus.settings import CurateSettings, MeasureSettings
from herdbook.corpus.why import Lost, Why, checks, printable, why
from herdbook.report import curation, curation_data
from tests.corpus.crawls import html, members, record
from tests.support.worlds import tiny_world

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'
WORDS = "the miller walked along the river and counted every wheel that turned before the winter came to the valley"


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world, curated in several shards as the stage does it."""
    out = tmp_path_factory.mktemp("curated")
    settings = CurateSettings(workers=1, measure=MeasureSettings(shard_mb=0.2))
    curation.curate(settings, [tiny_world()], out)
    return out


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(f) for f in sorted((out / name).glob("*.parquet"))]).to_pylist()


def test_the_totals_of_page_funnel_and_measurements_agree(curated: Path) -> None:
    found, measured = curation_data.gather(curated), rows(curated, "measurements")
    funnel = json.loads((curated / "funnel.json").read_text())["rules"]
    assert len(list((curated / "measurements").iterdir())) > 1
    assert found.rows == len(measured) == funnel[1]["left"]
    assert {row["rule"]: row["dropped"] for row in funnel[2:] if row["dropped"]} == dict(found.dropped)
    assert sum(map(sum, found.languages.values())) == len(measured)
    assert sum(kept for kept, _ in found.languages.values()) == funnel[-1]["left"] == len(rows(curated, "documents"))
    for histogram in found.histograms.values():
        assert histogram.kept.sum() + histogram.dropped.sum() + histogram.missing == len(measured)
    assert (
        sum(found.reasons.values())
        == funnel[1]["dropped"]
        == len(list(curation_data.losses(curated / "quarantine.jsonl")))
    )
    assert sum((size - 1) * n for size, n in found.cluster_sizes.items()) == sum(
        bool(row["dropped_by"] and row["duplicate_of"]) for row in measured
    )
    page = (curated / "curation.html").read_text()
    said = re.search(r"([\d,]+) pages read = ([\d,]+) kept \+ ([\d,]+) dropped by rules \+ ([\d,]+) in", page)
    assert said is not None
    read, kept, dropped, lost = (int(number.replace(",", "")) for number in said.groups())
    assert read == kept + dropped + lost and (read, kept, lost) == (
        funnel[0]["left"],
        funnel[-1]["left"],
        funnel[1]["dropped"],
    )


def test_samples_are_of_their_rule_and_the_same_each_time(curated: Path) -> None:
    by_id = {row["id"]: row for row in rows(curated, "measurements")}
    found = curation_data.gather(curated)
    assert set(found.samples) == {row["dropped_by"] or "" for row in by_id.values()}
    for rule, samples in found.samples.items():
        assert 1 <= len(samples) <= curation_data.SAMPLES
        assert all((by_id[sample.id]["dropped_by"] or "") == rule for sample in samples)
        assert all(sample.value for sample in samples if rule)
    assert curation.render(found, "x") == curation.render(curation_data.gather(curated), "x")
    assert {s.id for s in curation_data.gather(curated, seed=1).samples[""]} != {s.id for s in found.samples[""]}


def test_why_agrees_with_deciding_for_every_document(curated: Path) -> None:
    from herdbook.corpus.rules import Rule

    rules = [Rule(**rule) for rule in json.loads((curated / "rules.json").read_text())]
    measured = rows(curated, "measurements")
    for row in measured:
        dropped = [check.rule for check in checks(row, rules) if check.verdict == "dropped"]
        assert dropped == ([row["dropped_by"]] if row["dropped_by"] else []), row["url"]
    by_id = {row["id"]: row for row in measured}
    for row in measured[::150] + [row for row in measured if row["duplicate_of"]][:5]:
        answer = next(item for item in why(curated, row["url"]) if isinstance(item, Why) and item.id == row["id"])
        assert answer.dropped_by == row["dropped_by"]
        if row["dropped_by"] and row["duplicate_of"]:
            assert answer.duplicate_of == by_id[row["duplicate_of"]]["url"]


def test_why_names_the_lines_that_were_removed_and_how_often_they_stood(tmp_path: Path) -> None:
    shared = "This notice is repeated at the foot of every page here."
    pages = []
    for number in range(9):
        own = [f"{WORDS} of the year {number}{place} in place {place * 7 + number}" for place in range(6)]
        own = [line if number % 2 else line.replace("miller", f"baker{number}") for line in own]
        body = html(*own[:3], *([shared] if number < 8 else []), *own[3:], title=f"Page {number}")
        pages.append(record(f"https://a.example/{number}", body))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.warc.gz").write_bytes(b"".join(members(pages)))
    settings = CurateSettings(workers=1, off=("near_duplicate", "ngram_repetition", "token_divergence", "few_words"))
    curation.curate(settings, [tmp_path / "in"], tmp_path / "out")
    (answer,) = why(tmp_path / "out", "https://a.example/0")
    assert isinstance(answer, Why) and answer.dropped_by is None
    assert [(line.text, line.documents) for line in answer.removed] == [(shared, 8)]
    assert f"line removed, in 8 documents of the language: {shared}" in "\n".join(answer.lines())
    (other,) = why(tmp_path / "out", "https://a.example/8")
    assert isinstance(other, Why) and not other.removed


class Tags(HTMLParser):
    """The tags and attributes a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages whose address, title and text try to act on whoever looks at them."""
    folder, out = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("out")
    shown = EVIL.replace("<", "&lt;") + " \x1b[2J\x1b]0;owned\x07 \u202egnp.exe </pre></details>".replace("<", "&lt;")
    records = [
        record(f"https://a.example/{number}?{EVIL}\x1b[31m", html(shown, *[WORDS] * (number + 1), title=shown))
        for number in range(4)
    ]
    (folder / "a.warc.gz").write_bytes(b"".join(members(records)) + b"\x1f\x8b\x08\0\0\0\0\0\0\0" + EVIL.encode())
    curation.curate(CurateSettings(workers=1), [folder], out)
    return out


def test_a_hostile_page_is_shown_and_does_nothing(hostile: Path) -> None:
    page = (hostile / "curation.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    seen = Tags(page)
    assert not seen.tags & {"script", "img", "a", "iframe", "link", "object", "form", "base"}
    assert not {name for name in seen.names if name.startswith("on")} and not seen.names & {"src", "href"}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)
    assert "default-src 'none'" in page and "http-equiv" in seen.names


def test_why_sends_a_terminal_no_control_characters(hostile: Path) -> None:
    urls = [row["url"] for row in rows(hostile, "measurements")]
    assert urls
    for url in urls:
        said = "\n".join(line for answer in why(hostile, url) for line in answer.lines())
        assert EVIL in said or "script" in said
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said)
    assert printable("a\x1b\u202e\ud800") == r"a\u001b\u202e\ud800"


def test_why_of_a_lost_page_tells_where_and_wherefore(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "measurements").symlink_to(hostile / "measurements")
    (tmp_path / "rules.json").symlink_to(hostile / "rules.json")
    loss = {"source": "s", "file": "a.warc.gz", "offset": 77, "reason": "cut off", "url": "https://a.example/lost"}
    (tmp_path / "quarantine.jsonl").write_text(json.dumps(loss) + "\n")
    (answer,) = why(tmp_path, "https://a.example/lost")
    assert isinstance(answer, Lost) and (answer.file, answer.offset) == ("a.warc.gz", 77)
    assert "cut off (a.warc.gz, offset 77)" in "\n".join(answer.lines())


def test_the_page_stays_small_and_the_funnel_is_a_picture(curated: Path, tmp_path: Path) -> None:
    assert (curated / "curation.html").stat().st_size < 300_000
    curation.funnel_png(json.loads((curated / "funnel.json").read_text()), tmp_path / "funnel.png")
    assert (tmp_path / "funnel.png").read_bytes().startswith(b"\x89PNG")
