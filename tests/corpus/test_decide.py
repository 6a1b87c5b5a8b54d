"""Deciding by shards equals deciding in memory, to the document; what is taken again is what would come out anew."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.corpus import curate as curation
from herdbook.corpus import decide
from herdbook.corpus.curate import decide_again
from herdbook.corpus.daft_engine import Dataframes
from herdbook.corpus.measure import as_table, measure
from herdbook.corpus.measured import Measured
from herdbook.corpus.read import RawPage
from herdbook.corpus.settings import CurateSettings, MeasureSettings
from herdbook.files import write_json
from herdbook.settings import UserError
from tests.corpus.brute import Brute

LETTERS = ["k", "t", "r", "m", "s", "l"]
BOILERPLATE = [f"This line of boilerplate number {'abcdefgh'[n]} is on many of the pages." for n in range(8)]


def crawl(folder: Path, seed: int, documents: int = 160, shards: int = 7) -> Path:
    """Measured shards of made-up pages full of copies, edits of copies, and repeated lines."""
    draw = np.random.default_rng(seed)
    words = [f"{a}{e}{b}{o}" for a in LETTERS for b in LETTERS for e in "aeiou" for o in "aeiou"]
    texts: list[list[str]] = []
    for _ in range(documents):
        if len(texts) > 5 and draw.random() < 0.5:
            found = list(texts[draw.integers(len(texts))])
            for place in draw.choice(len(found), int(len(found) * draw.choice([0, 0.02, 0.1, 0.3])), replace=False):
                found[place] = words[draw.integers(len(words))]
        else:
            found = [words[i] for i in draw.integers(0, len(words), draw.integers(0, 120))]
        texts.append(found)
    settings = MeasureSettings(minhash_permutations=48)
    rows = []
    for number, found in enumerate(texts):
        lines = [" ".join(found[start : start + 12]) for start in range(0, len(found), 12)]
        lines += [line for line in BOILERPLATE if draw.random() < 0.15]
        url = f"https://{'ab'[draw.integers(2)]}.example/{draw.integers(documents)}"
        date = f"2024-0{draw.integers(1, 4)}-01T00:00:00Z" if draw.random() < 0.9 else ""
        row = measure(RawPage(url, date, str(number), "text", "\n".join(lines)), "made", settings)
        row["language"] = str(draw.choice(["en", "de", "xx", ""], p=[0.55, 0.35, 0.05, 0.05]))
        rows.append(row)
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(documents), shards)):
        pq.write_table(as_table([rows[i] for i in part], settings), folder / f"{number:05d}.parquet")
        write_json(folder / f"{number:05d}.json", {"losses": [], "skipped": {}, "pages": len(part)})
    return folder


def settings_of(seed: int) -> CurateSettings:
    prefer = [None, "length_characters", "repetition_top_2gram"][seed % 3]
    small = {"line_documents": 4, "line_site_documents": 1, "line_bucket": 40, "prefer": prefer, "band_rows": 3}
    off = [["broken_encoding"], ["url_duplicate"], ["near_duplicate"], ["exact_duplicate"]][seed % 4]
    thresholds = {"divergence_excess": 1.5, "length_words": 8, "duplicate_near_similarity": [0.5, 0.8][seed % 2]}
    thresholds = {key: value for key, value in thresholds.items() if not ("near" in key and "near_duplicate" in off)}
    return CurateSettings.model_validate({"workers": 2, "duplicates": small, "off": off, "thresholds": thresholds})


def rows_of(out: Path, name: str) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(f) for f in sorted((out / name).glob("*.parquet"))]).to_pylist()


@pytest.mark.parametrize("seed", range(8))
def test_deciding_by_shards_equals_deciding_in_memory(tmp_path: Path, seed: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("herdbook.corpus.spill.ROWS", 64)  # many files even here
    measured, settings = crawl(tmp_path / "measured", seed), settings_of(seed)
    decide_again(settings, tmp_path)
    wanted = Brute(measured, settings)
    found = rows_of(tmp_path, "measurements")
    assert [row["dropped_by"] for row in found] == wanted.dropped
    assert len({name for name in wanted.dropped if name}) >= 4
    ids = [row["id"] for row in wanted.rows]
    keepers = {i: ids.index(row["duplicate_of"]) for i, row in enumerate(found) if row["duplicate_of"]}
    assert keepers == wanted.of
    assert {row["id"]: row["text"] for row in rows_of(tmp_path, "documents")} == wanted.texts()


def test_dataframes_decide_and_write_what_this_machine_does(tmp_path: Path, monkeypatch: Any) -> None:
    measured, settings = crawl(tmp_path / "native" / "measured", 0), settings_of(0)
    decide_again(settings, tmp_path / "native")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "measured").symlink_to(measured)
    calls: list[str] = []

    def sent(function: Any, arguments: Any) -> Any:
        """Functions and arguments as they come out on another node."""
        for some in arguments:
            calls.append(getattr(function, "__name__", ""))
            away, given = pickle.loads(pickle.dumps((function, some)))
            yield away(*given)

    monkeypatch.setattr(curation, "_engine", lambda _, folder: Dataframes(folder, 0, sent))
    decide_again(settings, tmp_path / "frames")
    assert {"compare", "count", "weigh", "write_shingles", "_write_shard"} <= set(calls)
    for name in ("measurements", "documents"):
        assert rows_of(tmp_path / "frames", name) == rows_of(tmp_path / "native", name)


@pytest.mark.parametrize("seed", [1, 2])
def test_deciding_again_equals_deciding_for_the_first_time(tmp_path: Path, seed: int, monkeypatch: Any) -> None:
    measured, first = crawl(tmp_path / "a" / "measured", seed), settings_of(seed)
    decide_again(first, tmp_path / "a")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "a").glob("documents/*")}
    decide_again(first, tmp_path / "a")
    assert before and before == {f: f.stat().st_mtime_ns for f in (tmp_path / "a").glob("documents/*")}
    other = first.model_copy(update={"thresholds": {**first.thresholds, "divergence_excess": 0.8, "length_words": 30}})
    again = decide_again(other, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "measured").symlink_to(measured)
    assert again == decide_again(other, tmp_path / "b")
    for name in ("measurements", "documents"):
        assert rows_of(tmp_path / "a", name) == rows_of(tmp_path / "b", name)


def test_only_what_lies_behind_a_changed_rule_is_worked_out_again(tmp_path: Path, monkeypatch: Any) -> None:
    crawl(tmp_path / "measured", 3)
    asked: list[str] = []
    for column, provider in list(decide.PROVIDERS.items()):

        def counted(view: Any, column: str = column, provider: Any = provider) -> Any:
            asked.append(column)
            return provider(view)

        counted.__name__ = counted.__qualname__ = column
        monkeypatch.setitem(decide.PROVIDERS, column, counted)
    settings = CurateSettings()
    decide_again(settings, tmp_path)
    assert asked[:2] == ["duplicate_url_newer", "duplicate_exact_better"] and len(asked) == 7
    asked.clear()
    decide_again(settings, tmp_path)
    assert asked == []
    decide_again(settings.model_copy(update={"thresholds": {"duplicate_near_similarity": 0.95}}), tmp_path)
    assert asked[0] == "duplicate_near_similarity"


def test_the_preferred_column_must_be_measured(tmp_path: Path) -> None:
    crawl(tmp_path / "measured", 4, 20, 2)
    settings = CurateSettings.model_validate({"duplicates": {"prefer": "quality_of_life"}})
    with pytest.raises(UserError, match="quality_of_life"):
        decide_again(settings, tmp_path)


def test_measured_shards_are_read_as_one_table(tmp_path: Path) -> None:
    folder = crawl(tmp_path / "measured", 5, 50, 6)
    measured = Measured(folder.glob("*.parquet"))
    whole = pq.read_table(sorted(folder.glob("*.parquet"))).to_pylist()
    assert measured.count == 50 and measured.numbers("length_words").tolist() == [r["length_words"] for r in whole]
    codes = measured.languages
    assert [codes.names[code] for code in codes.codes] == [row["language"] for row in whole]
    wanted = np.array([0, 3, 8, 9, 31, 49])
    assert measured.pick("id", wanted).to_pylist() == [whole[i]["id"] for i in wanted]
    moments = measured.moments()
    order = sorted(range(50), key=lambda i: whole[i]["date"])
    assert (np.diff(moments[order]) >= 0).all() and len(set(moments)) == len({row["date"] for row in whole})


def test_a_changed_list_of_domains_is_read_again(tmp_path: Path) -> None:
    crawl(tmp_path / "measured", 6, 40, 2)
    (tmp_path / "blocked.txt").write_text("c.example\n")
    settings = CurateSettings.model_validate({"workers": 1, "domains": {"blocked": [str(tmp_path / "blocked.txt")]}})
    assert decide_again(settings, tmp_path)["dropped"]["blocked_domain"] == 0
    (tmp_path / "blocked.txt").write_text("c.example\na.example\n")
    assert decide_again(settings, tmp_path)["dropped"]["blocked_domain"] > 10
