"""The mix: shares reached within the limits, by closed forms and brute force; chosen by hash; what is short is told."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.corpus.allot import Cells, allot, fill, share_out, volume
from herdbook.corpus.mix import copies_of, mix
from herdbook.corpus.mix_settings import BestSettings, GroupSettings, MatchSettings, MixSettings
from herdbook.settings import UserError
from herdbook.tokens.texts import read_texts


def cells(rows: list[tuple[float, float, float, int]]) -> Cells:
    sizes, limits, preferences, topics = (np.array(part) for part in zip(*rows))
    return Cells(sizes.astype(float), limits.astype(float), preferences.astype(float), topics)


CELL = st.tuples(st.floats(0.1, 100), st.floats(0, 5), st.floats(0.1, 10), st.integers(0, 3))


@settings(max_examples=150, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=8), st.floats(0.01, 3))
def test_filling_finds_the_level_that_bisection_finds(rows: list[tuple[float, float, float, int]], part: float) -> None:
    made = cells(rows)
    wanted = part * float(made.sizes @ made.limits)
    low, high = 0.0, 1e4
    for _ in range(200):
        level = (low + high) / 2
        given_ = made.sizes @ np.minimum(level * made.preferences, made.limits)
        low, high = (level, high) if given_ < wanted else (low, level)
    assert fill(made, wanted) == pytest.approx(np.minimum(high * made.preferences, made.limits), rel=1e-4, abs=1e-4)
    assert volume(made, fill(made, wanted)) == pytest.approx(min(wanted, float(made.sizes @ made.limits)), rel=1e-6)


def test_no_topic_has_more_than_its_limit_and_the_rest_is_in_proportion() -> None:
    made = cells([(70, 9, 1, 0), (20, 9, 1, 1), (10, 9, 1, 2)])
    assert allot(made, 100, None) == pytest.approx([1, 1, 1])
    assert made.sizes * allot(made, 100, 0.4) == pytest.approx([40, 40, 20])
    assert made.sizes * allot(made, 100, 0.5) == pytest.approx([50, 50 * 2 / 3, 50 / 3])
    assert made.sizes * allot(made, 100, 0.1) == pytest.approx([100 / 3] * 3)  # three topics can't have a tenth each
    unknown = cells([(80, 9, 1, -1), (10, 9, 1, 0), (10, 9, 1, 1)])
    assert allot(unknown, 100, 0.05) == pytest.approx([1, 1, 1])  # what has no topic is not held back
    short = cells([(70, 9, 1, 0), (1, 2, 1, 1)])
    assert short.sizes * allot(short, 100, 0.6) == pytest.approx([60, 2])


def test_a_short_group_is_filled_by_the_others_or_shrinks_the_whole() -> None:
    groups = [cells([(100, 4, 1, 0)]), cells([(100, 4, 1, 0)]), cells([(1, 4, 1, 0)])]
    shares = np.array([0.5, 0.25, 0.25])
    filled = [volume(one, e) for one, e in zip(groups, share_out(groups, shares, 90, None, "fill"))]
    assert filled == pytest.approx([86 * 2 / 3, 86 / 3, 4])
    shrunk = [volume(one, e) for one, e in zip(groups, share_out(groups, shares, 90, None, "shrink"))]
    assert shrunk == pytest.approx([8, 4, 4])
    every = [volume(one, e) for one, e in zip(groups, share_out(groups, shares, 1e6, None, "fill"))]
    assert every == pytest.approx([400, 400, 4])


def entry(folder: Path, rows: list[dict[str, Any]], files: int = 2) -> Path:
    (folder / "documents").mkdir(parents=True)
    for part in range(files):
        table = pa.Table.from_pylist(rows[part::files])
        pq.write_table(table, folder / "documents" / f"{part:05d}.parquet")
    return folder


def web(folder: Path, count: int = 3000) -> dict[str, Path]:
    """Two stages: a web with topics and languages, and a library of code."""
    draw, rows = random.Random(1), []
    for number in range(count):
        language = draw.choices(["en", "de", "fi"], [80, 15, 5])[0]
        topic = draw.choices(["celebrities", "science", "mathematics"], [70, 20, 10])[0]
        row = {"id": f"w{number}", "url": f"u{number}", "source": "web", "language": language, "topic": topic}
        rows.append(row | {"text": "word " * draw.randint(20, 60), "quality_rank": draw.random()})
    code = [
        {"id": f"c{n}", "url": f"c{n}", "source": "git", "language": "code", "text": "x = 1\n" * draw.randint(20, 60)}
        for n in range(count // 10)
    ]
    return {"pages": entry(folder / "pages", rows), "library": entry(folder / "library", code, 1)}


def read(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "documents").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def volumes(rows: list[dict[str, Any]], column: str) -> dict[str, float]:
    found: Counter[str] = Counter()
    for row in rows:
        found[row[column]] += len(row["text"].encode())
    return {name: size / found.total() for name, size in found.items()}


def test_the_papers_mix_is_reached(tmp_path: Path) -> None:
    told = mix(MixSettings(short="shrink"), web(tmp_path), tmp_path / "out")
    shares = volumes(read(tmp_path / "out"), "mix_group")
    assert shares == pytest.approx({"general": 0.5, "reasoning": 0.25, "code": 0.17, "multilingual": 0.08}, abs=0.015)
    for name, share in shares.items():
        assert told["mix"][name]["reached"] == pytest.approx(share) and told["mix"][name]["epochs"] <= 4.0001
    assert told["documents"]["read"] == told["documents"]["kept"] + told["documents"]["dropped"] == 3300
    assert told["mb"] == pytest.approx(sum(len(row["text"]) for row in read(tmp_path / "out")) / 1e6)


def test_every_document_is_read_whole_numbers_of_times_and_never_too_often(tmp_path: Path) -> None:
    documents = web(tmp_path, 1000)
    mix(MixSettings(size_mb=1, epochs=3, epochs_of={"library": 1.5}), documents, tmp_path / "out")
    rows = read(tmp_path / "out")
    times = Counter(row["id"] for row in rows)
    assert all(times[row["id"]] == row["mix_copies"] for row in rows)
    assert max(times.values()) == 3 and max(n for id, n in times.items() if id.startswith("c")) == 2
    code = [row for row in rows if row["id"].startswith("c")]
    assert {row["mix_epochs"] for row in code} == {1.5} and 1.3 < len(code) / 100 < 1.7
    measured = [r for p in (tmp_path / "out" / "measurements").glob("*.parquet") for r in pq.read_table(p).to_pylist()]
    assert len(measured) == 1100 and {r["id"] for r in measured if not r["dropped_by"]} == set(times)
    # What packs documents reads them all, and the second reading lies behind the whole first one.
    ids = [id for batch in read_texts(tmp_path / "out") for id in batch.ids]
    assert Counter(ids) == times
    assert max(map(ids.index, times)) < min(at for at, id in enumerate(ids) if ids.index(id) < at)


def test_the_same_seed_gives_the_same_mix_and_a_larger_one_holds_a_smaller(tmp_path: Path) -> None:
    documents = web(tmp_path, 600)
    for name, size, seed in (("a", 0.05, 0), ("b", 0.05, 0), ("c", 0.08, 0), ("d", 0.05, 1)):
        mix(MixSettings(size_mb=size, seed=seed), documents, tmp_path / name)
    times = {name: Counter(row["id"] for row in read(tmp_path / name)) for name in "abcd"}
    assert times["a"] == times["b"] and times["a"] != times["d"] and times["a"] < times["c"]


def test_copies_follow_the_epochs() -> None:
    ids, epochs = np.array([f"i{n}" for n in range(4000)]), np.repeat([0.0, 0.3, 1.0, 2.75], 1000)
    copies = copies_of(ids, epochs, 0).reshape(4, 1000)
    assert (copies[0] == 0).all() and (copies[2] == 1).all() and set(copies[3]) == {2, 3}
    assert copies[1].mean() == pytest.approx(0.3, abs=0.05) and copies[3].mean() == pytest.approx(2.75, abs=0.05)


def one_group(**more: Any) -> MixSettings:
    return MixSettings(groups=(GroupSettings(name="all", share=1),), **more)


def test_over_represented_topics_are_read_less(tmp_path: Path) -> None:
    told = mix(one_group(topic_limit=0.4, size_mb=0.3), web(tmp_path), tmp_path / "out")
    topics = volumes([row for row in read(tmp_path / "out") if row.get("topic")], "topic")
    assert told["mix"]["all"]["topics"]["celebrities"] == pytest.approx(0.4, abs=0.02)
    assert topics["science"] / topics["mathematics"] == pytest.approx(2, abs=0.35)


def test_small_languages_are_lifted(tmp_path: Path) -> None:
    documents = web(tmp_path)
    there = volumes([row for path in documents.values() for row in read(path)], "language")
    mix(one_group(language_power=0.5, size_mb=0.3), documents, tmp_path / "out")
    shares = volumes(read(tmp_path / "out"), "language")
    wanted = {name: share**0.5 for name, share in there.items()}
    assert shares == pytest.approx({name: w / sum(wanted.values()) for name, w in wanted.items()}, abs=0.03)


def test_an_annealing_mix_reads_the_best_more_often(tmp_path: Path) -> None:
    best = BestSettings(top=0.2, weight=5)
    mix(one_group(best=best, size_mb=0.35), {"pages": web(tmp_path)["pages"]}, tmp_path / "out")
    rows = read(tmp_path / "out")
    high = [row["mix_epochs"] for row in rows if row["quality_rank"] > 0.82]
    low = [row["mix_epochs"] for row in rows if row["quality_rank"] < 0.78]
    assert set(np.round(high, 6)) == {round(low[0] * 5, 6)}


def test_what_is_short_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = mix(MixSettings(size_mb=1), web(tmp_path, 1000), tmp_path / "out")
    assert any("group code is too small" in line and "read 4.0 times" in line for line in told["short"])
    assert "group code is too small" in capsys.readouterr().out.replace("\n", " ")
    most = GroupSettings(name="most", share=0.9, match=(MatchSettings(topics=("celebrities", "mathematics")),))
    rest = GroupSettings(name="rest", share=0.1)
    limited = MixSettings(groups=(most, rest), topic_limit=0.5, size_mb=0.3)
    told = mix(limited, web(tmp_path / "c", 1000), tmp_path / "limited")
    assert any("topic_limit=0.5 holds its topics back" in line for line in told["short"])
    empty = MixSettings(groups=(GroupSettings(name="x", share=1, match=(MatchSettings(languages=("sw",)),)),))
    told = mix(empty, web(tmp_path / "b", 50), tmp_path / "none")
    assert "no documents at all" in told["short"][0] and told["documents"] == {"read": 55, "kept": 0, "dropped": 55}
    assert told["dropped"] == {"no_group": 55, "mixed_out": 0}


def test_matching_takes_every_given_part(tmp_path: Path) -> None:
    match = MatchSettings(languages=("en",), topics=("science",), at_least={"quality_rank": 0.5}, sources=("pages",))
    rest = GroupSettings(name="rest", share=0.5)
    fine_group = GroupSettings(name="fine", share=0.5, match=(match,))
    mix(MixSettings(groups=(fine_group, rest)), web(tmp_path), tmp_path / "o")
    for row in read(tmp_path / "o"):
        fine = row["language"] == "en" and row["topic"] == "science" and row["quality_rank"] >= 0.5
        assert row["mix_group"] == ("fine" if fine else "rest")


def test_mistakes_are_told(tmp_path: Path) -> None:
    match = (MatchSettings(at_least={"quality_rnk": 0.5}),)
    with pytest.raises(UserError, match=r"no document has the column 'quality_rnk' \(there is quality_rank\)"):
        mix(MixSettings(groups=(GroupSettings(name="a", share=1, match=match),)), web(tmp_path, 20), tmp_path / "out")
    with pytest.raises(ValueError, match="several are called a"):
        MixSettings(groups=(GroupSettings(name="a", share=1), GroupSettings(name="a", share=1)))
    with pytest.raises(ValueError, match="at least 0"):
        MixSettings(epochs_of={"web": -1})
