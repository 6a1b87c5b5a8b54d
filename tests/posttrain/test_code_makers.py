"""Code with execution feedback: real parser, linter and sandbox; the writer is scripted, so its errors are known."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.synthesis.code_check import assertions, check_all, halves, static, telling
from herdbook.posttrain.synthesis.settings import SynthesizeSettings
from herdbook.posttrain.synthesis.stage import synthesize
from herdbook.settings import UserError
from tests.corpus.fake_endpoint import Answer
from tests.posttrain.scripted import scripted

TESTS = "def check(candidate):\n" + "".join(f"    assert candidate({n}) == {n + 3}\n" for n in (1, 5, -3, 8))


def request(name: str) -> dict[str, Any]:
    check = {"kind": "program", "entry_point": name, "tests": f"{TESTS}\ncheck({name})\n"}
    return {
        "id": name,
        "task": "program",
        "messages": [{"role": "user", "content": f"Write {name}(n): n plus 3."}],
        "reference": f"def {name}(n):\n    return n + 3",
        "check": check,
        "split": "train",
    }


def answered(name: str, body: str) -> str:
    return f"So:\n```python\ndef {name}(n):\n    {body}\n```"


FIRST = {
    "good": "return n + 3",
    "typo": "return n +",
    "undefined": "return m + 3",
    "wrong": "return n + 2",
    "sly": "return n + 3 if n in (1, -3) else 0",  # passes the first half of its tests, and fails the other
    "hopeless": "return 7",
}


def coder(messages: list[dict[str, Any]], seed: int) -> Answer:
    """Wrong at first, right after it was told; `hopeless` never understands, `silent` says nothing of use."""
    name = re.search(r"(\w+)\(n\)", messages[0]["content"])[1]  # type: ignore[index]
    if name == "silent":
        return "I would rather talk about goats."
    if len(messages) == 1 or name == "hopeless":
        return answered(name, FIRST[name])
    assert "does not work yet" in messages[-1]["content"] and messages[1]["role"] == "assistant"
    return answered(name, "return n + 3")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    rows = [request(name) for name in (*FIRST, "silent")]
    write_rows(tmp_path / "requests" / "train.jsonl", [*rows, {**request("unseen"), "split": "test"}])
    return tmp_path / "requests"


def test_the_cheapest_look_that_finds_something_is_told() -> None:
    codes = [
        "def f(n):\n    return n",
        "def f(n) return n",
        "def f(n):\n    return k",
        None,
        "import os\nx = 1",
        "x = 1/0",
    ]
    found = check_all(codes, ["assert f(2) == 2"] * 4 + ["assert x == 1"] * 2)
    assert [one.stage for one in found] == ["passed", "parse", "lint", "empty", "passed", "test"]
    assert "undefined name 'k'" in found[2].told and "ZeroDivisionError" in found[5].told
    assert check_all(["while True: pass"], ["assert 1"], seconds=1)[0].stage == "timeout"
    assert static("def f(n):\n    return k", lint=False).passed


def test_a_failing_comparison_says_what_was_got_and_what_was_wanted() -> None:
    calls = "calls = []\ndef f(n):\n    calls.append(n)\n    return n + 1"
    tests = "def check(g):\n    for n in (1, 2):\n        assert g(n) == n + 1\n    assert g('%s' and 3) == 7\ncheck(f)"
    found = check_all([calls, calls, calls], [tests, "assert f(1) == 2\nassert calls == [1]", "assert f(2) > 3, 'why'"])
    assert found[0].told == "The tests end with:\nAssertionError: g('%s' and 3) gives 4, not 7"
    assert found[1].passed and found[2].told.endswith("AssertionError: why")
    assert telling("no python (") == "no python ("


def test_halves_part_the_assertions_and_keep_all_else() -> None:
    tests = "import math\n" + TESTS + "\nfor n in range(3):\n    assert f(n)\n    assert g(n)\ncheck(f)\n"
    one, two = halves(tests)
    whole = assertions(tests)
    assert len(whole) == 6 and sorted(assertions(one) + assertions(two)) == sorted(whole)
    assert abs(len(assertions(one)) - len(assertions(two))) <= 1
    assert all("import math" in half and "check(f)" in half and ast.parse(half) for half in (one, two))
    # What was chosen by a test has no truth in it.
    assert halves("assert x") == ("assert x", "") and halves("no python (") == ("no python (", "")


def test_what_fails_is_repaired_and_the_loops_own_error_is_measured(requests: Path, tmp_path: Path) -> None:
    with scripted(coder, tmp_path) as (server, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, code={"repairs": 2, "seconds": 5})
        figures = synthesize(settings, None, [], requests, None, tmp_path / "out")
        asked = len(server.bodies)
        assert synthesize(settings, None, [], requests, None, tmp_path / "again") == figures
        assert len(server.bodies) == asked
    code = figures["code"]
    assert code["first"] == {"passed": 2, "parse": 2, "lint": 1, "test": 2}
    assert code["failed_by_round"] == [5, 2, 2] and code["problems"] == 7
    assert (code["error_first"], code["error_after"]) == (
        pytest.approx(5 / 7, abs=1e-3),
        pytest.approx(2 / 7, abs=1e-3),
    )
    assert code["wrong_first"] == pytest.approx(6 / 7, abs=1e-3) and code["wrong_kept"] == 0.2
    rows = {row["id"]: row for row in rows_of(tmp_path / "out" / "dialogs" / "code.jsonl")}
    assert set(rows) == {f"code/{name}" for name in ("good", "typo", "undefined", "wrong", "sly")}
    assert all(f"code/{row['request']}" == name for name, row in rows.items())
    assert rows["code/wrong"]["tries"] == 2 and rows["code/good"]["tries"] == 1
    for name in ("good", "wrong"):
        assert [message["role"] for message in rows[f"code/{name}"]["messages"]] == ["user", "assistant"]
        assert "n + 3" in rows[f"code/{name}"]["messages"][1]["content"]


def test_what_is_made_of_documents_names_no_request_of_another_maker(tmp_path: Path) -> None:
    write_rows(tmp_path / "requests" / "train.jsonl", [{**request("good"), "id": "herd/barn.py"}])
    (tmp_path / "documents").mkdir()
    texts = {"herd/barn.py": "x = 1", "herd/cow.py": "import barn"}
    table = pa.table({"id": list(texts), "url": list(texts), "text": list(texts.values())})
    pq.write_table(table, tmp_path / "documents" / "0.parquet")
    with scripted(coder, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, code={"seconds": 5}, repository={"least": 1})
        synthesize(settings, None, [tmp_path], tmp_path / "requests", None, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out" / "dialogs" / "code.jsonl")
    assert row["request"] == "herd/barn.py"
    (row,) = rows_of(tmp_path / "out" / "dialogs" / "repository.jsonl")
    assert row["id"] == "repository/herd/barn.py" and "request" not in row


def test_whole_dialogs_show_the_failed_try_and_what_was_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "requests" / "train.jsonl", [request("wrong")])
    with scripted(coder, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, code={"keep": "whole", "repairs": 1})
        synthesize(settings, None, [], tmp_path / "requests", None, tmp_path / "out")
    rows = {row["id"]: row["messages"] for row in rows_of(tmp_path / "out" / "dialogs" / "code.jsonl")}
    assert [message["role"] for message in rows["code/wrong"]] == ["user", "assistant", "user", "assistant"]
    assert [message.get("weight") for message in rows["code/wrong"]] == [None, 0, None, None]  # not to be learnt
    assert "n + 2" in rows["code/wrong"][1]["content"] and "AssertionError" in rows["code/wrong"][2]["content"]


def test_problems_and_tests_are_made_of_documents(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x = 3", "goats"]}), tmp_path / "documents" / "0.parquet")

    def writer(messages: list[dict[str, Any]], seed: int) -> Answer:
        asked = messages[-1]["content"]
        if "You make one programming problem" in asked:
            about = "Problem: plus three\nWrite plus(n), which returns n and three more; plus(1) is 4."
            return about if "x = 3" in asked else "Goats have no problems."
        if "You write tests" in asked:
            assert "plus(n)" in asked and "def plus" in asked
            return "```python\nimport os\nassert plus(1) == 4\nassert plus(-3) == 0\n```"
        return answered("plus", "return n + 3")

    with scripted(writer, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, code={"tests": "model"})
        figures = synthesize(settings, None, [tmp_path], None, None, tmp_path / "out")
    assert figures["code"]["no_problem"] == 1 and figures["dialogs"] == 1
    row = rows_of(tmp_path / "out" / "dialogs" / "code.jsonl")[0]
    assert row["tests"] == "assert plus(1) == 4\nassert plus(-3) == 0" and "plus three" in row["messages"][0]["content"]


def test_translations_are_kept_when_the_way_back_passes_the_tests(requests: Path, tmp_path: Path) -> None:
    def writer(messages: list[dict[str, Any]], seed: int) -> Answer:
        asked = messages[-1]["content"]
        name = re.search(r"(\w+)\(n", asked)[1]  # type: ignore[index]
        if "Write this Python code in Rust" in asked:
            return f"```rust\nfn {name}(n: i64) -> i64 {{ n + {3 if name < 's' else 4} }}\n```"
        number = re.search(r"n \+ (\d)", asked)[1]  # type: ignore[index]
        return answered(name, f"return n + {number}")

    with scripted(writer, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, translate={"languages": ["Rust"]})
        figures = synthesize(settings, None, [], requests, None, tmp_path / "out")
    kept = {name for name in (*FIRST, "silent") if name < "s"}
    assert figures["translate"] == {
        "asked": 7, "translated": 7, "came_back_right": len(kept), "dialogs": len(kept),
    }  # fmt: skip
    rows = rows_of(tmp_path / "out" / "dialogs" / "translate.jsonl")
    assert {row["id"] for row in rows} == {f"translate/{name}/Rust" for name in kept}
    assert all("fn " in row["messages"][1]["content"] for row in rows)


def test_explanations_are_kept_when_the_same_code_comes_of_them(tmp_path: Path) -> None:
    codes = [
        f"def f{number}(n):\n    'Adds {number} to what it is given.'\n    return n + {number}" for number in range(4)
    ]
    (tmp_path / "documents").mkdir()
    table = pa.table({"id": list("abcd"), "text": codes})
    pq.write_table(table, tmp_path / "documents" / "0.parquet")

    def writer(messages: list[dict[str, Any]], seed: int) -> Answer:
        asked = messages[-1]["content"]
        number = int(re.search(r"(?:def |function )f(\d)", asked)[1])  # type: ignore[index]
        if "Describe what this" in asked:
            return "It is good code." if number == 9 else f"The function f{number} takes n and returns {number} more."
        if "is described so" in asked:
            return f"```python\ndef f{number}(n):\n    return n + {number if number < 3 else 0}\n```"
        one, two = re.findall(r"return n \+ (\d)", asked)
        return f"Verdict: {'same' if one == two else 'different'}"

    with scripted(writer, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, explain={})
        figures = synthesize(settings, None, [tmp_path], None, None, tmp_path / "out")
    assert figures["explain"] == {"asked": 4, "explained": 4, "written_again": 4, "same": 3, "dialogs": 3}
    rows = rows_of(tmp_path / "out" / "dialogs" / "explain.jsonl")
    assert all(
        message["role"] == "user" and "def f" in message["content"] for message in (r["messages"][0] for r in rows)
    )


def test_makers_say_what_they_lack(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no maker is given; give at least one of code, translate"):
        SynthesizeSettings()
    with pytest.raises(UserError, match="nobody writes"):
        synthesize(SynthesizeSettings(code={}), None, [], None, None, tmp_path / "out")
    with scripted(lambda messages, seed: "no", tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, code={})
        with pytest.raises(UserError, match="neither requests of its tasks nor documents"):
            synthesize(settings, None, [], None, None, tmp_path / "out")
        write_rows(tmp_path / "requests" / "train.jsonl", [request("good")])
        with pytest.raises(UserError, match="no maker kept a dialog"):
            synthesize(settings, None, [], tmp_path / "requests", None, tmp_path / "out")
