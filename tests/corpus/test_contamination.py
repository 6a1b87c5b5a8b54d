"""Contamination against brute force over words, on made-up texts and on real benchmarks."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.corpus.benchmarks import (
    Benchmark,
    BenchmarkSettings,
    ContaminationSettings,
    find_benchmarks,
    read_questions,
)
from herdbook.corpus.contamination import Index, contamination
from herdbook.corpus.why import why
from herdbook.corpus.words import TOKENS
from herdbook.settings import UserError
from tests.support.shared import shared

WORDS = [f"w{number}" for number in range(6)]


def word_runs(text: str, size: int) -> list[tuple[str, ...]]:
    words = TOKENS.findall(text.lower())
    return [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]


def brute(text: str, benchmarks: list[Benchmark], size: int, common: int) -> tuple[float, float]:
    """Both shares by comparing words with words."""
    left: list[set[tuple[str, ...]]] = []
    for benchmark in benchmarks:
        sets = [set(word_runs(question, size)) for question in benchmark.questions]
        left += [{run for run in one if sum(run in other for other in sets) <= common} for one in sets]
    words, found = TOKENS.findall(text.lower()), word_runs(text, size)
    covered = {at + step for at, run in enumerate(found) if any(run in one for one in left) for step in range(size)}
    parts = [len(one & set(found)) / len(one) for one in left if one]
    return len(covered) / len(words) if words else 0.0, max(parts, default=0.0)


def sentence(draw: random.Random, length: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(length))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_both_shares_are_those_of_brute_force(size: int) -> None:
    draw = random.Random(size)
    for _ in range(25):
        made = [Benchmark(name, [sentence(draw, draw.randint(0, 14)) for _ in range(6)]) for name in "ab"]
        index = Index.of(made, size, 3)
        for _ in range(8):
            leaked = draw.choice(draw.choice(made).questions)
            text = f"{sentence(draw, draw.randint(0, 9))} {leaked} {sentence(draw, draw.randint(0, 9))}"
            share, part, _ = index.search(text)
            assert (share, part) == pytest.approx(brute(text, made, size, 3))


def test_case_punctuation_and_line_breaks_hide_nothing() -> None:
    index = Index.of([Benchmark("b", ["How many jars are on the shelf, if Noah puts five there?"])], 8, 10)
    share, part, name = index.search("Solved: HOW many jars\nare on the  shelf -- if noah puts five there!")
    assert part == 1 and name == "b" and share == pytest.approx(12 / 13)
    assert index.search("How many jars are on that shelf if Noah puts five there") == (0.0, 0.0, None)


def test_usual_wording_of_a_benchmark_is_no_contamination() -> None:
    wording = "Please reason step by step and put your final answer within a box"
    questions = [f"What is {n} plus {n * n} minus {n + 7} times {n + 1}? {wording}" for n in range(20)]
    index = Index.of([Benchmark("math", questions)], 8, 10)
    assert index.search(f"A page that says: {wording}.") == (0.0, 0.0, None)
    assert index.search(questions[7])[1] == 1
    assert Index.of([Benchmark("math", questions)], 8, 20).search(wording)[0] == 1


def test_short_questions_are_counted_not_passed_over_in_silence() -> None:
    index = Index.of([Benchmark("b", ["Too short.", "one two three four five six seven eight"])], 8, 10)
    assert index.unsearchable == {"b": 1}


def entry(folder: Path, texts: list[str]) -> Path:
    (folder / "entry" / "documents").mkdir(parents=True)
    rows = [{"id": f"d{n}", "url": f"https://a.example/{n}", "language": "en", "text": t} for n, t in enumerate(texts)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "entry" / "documents" / "00000.parquet")
    return folder / "entry"


QUESTION = "Clara starts with twenty five tickets and earns three more on a rainy day at the fair"
CLEAN = "Nothing on this page has ever been asked in any exam, as far as its author can tell you here."


def made(folder: Path, **more: Any) -> tuple[ContaminationSettings, Path]:
    """A benchmark of one question; a page with all of it, with half of it in a long page, and a clean one."""
    (folder / "b.jsonl").write_text(json.dumps({"question": QUESTION}))
    words = QUESTION.split()
    half = f"{CLEAN * 20} {' '.join(words[:12])} {CLEAN}"
    settings = ContaminationSettings(benchmarks=(BenchmarkSettings(name="fair", path=folder / "b.jsonl"),), **more)
    return settings, entry(folder, [f"{CLEAN} {QUESTION} {CLEAN}", half, CLEAN])


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / name / "00000.parquet").to_pylist()


def test_contaminated_documents_are_dropped_by_a_rule_and_say_why(tmp_path: Path) -> None:
    settings, documents = made(tmp_path)
    told = contamination(settings, [documents], None, tmp_path / "out")
    assert told["documents"] == {"read": 3, "kept": 2, "dropped": 1} and told["dropped"] == {"contaminated": 1}
    assert [row["id"] for row in rows(tmp_path / "out", "documents")] == ["d1", "d2"]
    measured = rows(tmp_path / "out", "measurements")
    assert [row["contamination_benchmark"] for row in measured] == ["fair", "fair", None]
    assert [row["contamination_question"] for row in measured] == pytest.approx([1, 5 / 10, 0])
    assert told["benchmarks"] == {"fair": {"questions": 1, "unsearchable": 0, "documents_touched": 2}}
    assert why(tmp_path / "out", "https://a.example/0")[0].dropped_by == "contaminated"


def test_marking_drops_nothing_and_a_threshold_moves_the_line(tmp_path: Path) -> None:
    settings, documents = made(tmp_path, off=("contaminated",))
    assert contamination(settings, [documents], None, tmp_path / "out")["documents"]["kept"] == 3
    assert rows(tmp_path / "out", "documents")[0]["contamination_question"] == 1
    stricter = settings.model_copy(update={"off": (), "thresholds": {"contamination_question": 0.4}})
    assert contamination(stricter, [documents], None, tmp_path / "out")["documents"]["kept"] == 1
    laxer = {"off": (), "thresholds": {"contamination_question": 1.0, "contamination_share": 1.0}}
    laxest = settings.model_copy(update=laxer)
    assert contamination(laxest, [documents], None, tmp_path / "out")["documents"]["kept"] == 3


def test_longer_runs_find_less(tmp_path: Path) -> None:
    settings, documents = made(tmp_path, ngram=13)
    contamination(settings, [documents], None, tmp_path / "out")
    assert [row["contamination_question"] for row in rows(tmp_path / "out", "measurements")] == [1, 0, 0]


def test_files_of_every_format_give_their_questions(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n\n{"prompt": "two"}\n')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"question": "three"}'))
    (tmp_path / "c.csv").write_text('question,answer\n"four, five",A\n')
    (tmp_path / "d.csv").write_text("six,A\nseven,B\n")
    (tmp_path / "e.tsv").write_text("eight\t8\n")
    pq.write_table(pa.table({"text": ["nine"]}), tmp_path / "f.parquet")
    found = [read_questions(path, ("question", "prompt", "text", "0")) for path in sorted(tmp_path.iterdir())]
    assert found == [["one", "two"], ["three"], ["four, five"], ["six", "seven"], ["eight"], ["nine"]]
    every = BenchmarkSettings(name="x", path=tmp_path, fields=("prompt", "question", "text", "0"))
    settings = ContaminationSettings(benchmarks=(every,))
    assert len(find_benchmarks(settings)[0].questions) == 8


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "it is empty"),
        ("a.jsonl", b'{"q": "x"}', "no row has question.*it has q"),
        ("a.jsonl", b'{"question": "x"}\n{"q', "row 2: it can't be read"),
        ("a.jsonl", b"[1]", "is no object"),
        ("a.jsonl.gz", b"no gzip", "can't be read"),
        ("a.parquet", b"PAR1 no", "can't be read"),
        ("a.csv", b"\xff\xfe\xff", "can't be read"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_questions(tmp_path / name, ("question",))


def test_missing_benchmarks_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no benchmarks to search for"):
        find_benchmarks(ContaminationSettings())
    with pytest.raises(UserError, match=r"benchmark mbpp: not there; looked for mbpp/mbpp\.jsonl"):
        find_benchmarks(ContaminationSettings(folder=tmp_path, names=("mbpp",)))
    with pytest.raises(ValueError, match="there is no benchmark 'gsm9k'"):
        ContaminationSettings(names=("gsm9k",))


def test_real_benchmarks_are_found_in_pages_that_hold_them(tmp_path: Path) -> None:
    folder = shared("data/benchmarks")
    benchmarks = find_benchmarks(ContaminationSettings(folder=folder))
    assert {one.name for one in benchmarks} == {"gsm8k", "humaneval", "ifeval", "math", "mbpp", "mgsm", "mmlu"}
    index = Index.of(benchmarks, 8, 10)
    for one in benchmarks:
        searched = len(one.questions) - index.unsearchable[one.name]
        assert searched > 0.6 * len(one.questions), one.name
        found = [index.search(f"{CLEAN} {question} {CLEAN}") for question in one.questions[:40]]
        assert sum(part == 1 for _, part, _ in found) >= 0.6 * len(found)
    assert index.search(CLEAN * 5) == (0.0, 0.0, None)
