"""Many engines answer a folder of prompts as one engine would, and go on where a killed command was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.fleet import GenerateSettings, alone, begin, generate
from herdbook.inference.fleet_worker import EngineWorker
from herdbook.inference.layout import Layout
from herdbook.inference.prompts import Part, cut_parts, prompt_files, prompt_ids, read_part
from herdbook.model.huggingface import save_model
from herdbook.settings import UserError
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
DRAWN = Sampling(max_tokens=9, temperature=1.0, top_p=0.95, seed=5, logprobs=0)
DIALOG = [{"role": "user", "content": "hi"}]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "The cow"},
    {"id": "b", "prompt": "The cow"},  # the same prompt is drawn for anew
    {"id": "c", "messages": DIALOG},
    {"id": "d", "prompt": DIALOG},
    {"id": "e", "prompt": [TOKENIZER.bos_id, 65, 66]},
    {"id": "f", "prompt": "x" * 500},  # more than the model's context
    {"id": "g", "text": "no prompt"},
    {"id": "h", "prompt": "The cow", "seed": 77},
    {"id": "i", "messages": [*DIALOG, {"role": "assistant", "content": "hello"}]},
    {"id": "j", "prompt": ""},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = {"vocab_size": TOKENIZER.vocab_size, "max_length": 96}
    save_model(tiny_model(3, **config), folder, bos_id=TOKENIZER.bos_id, eos_ids=[TOKENIZER.eos_id])
    TOKENIZER.save(folder)
    return folder


def write_json_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n\n" for row in rows))  # blank lines are no rows
    return file


def answers(out: Path) -> list[dict[str, Any]]:
    files = sorted(out.glob("part-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]


def by_one_engine(model: Path, n: int) -> dict[str, list[list[int]]]:
    """The tokens of each row's answers, asked one row at a time."""
    engine, found = Engine.load(model), {}
    for number, row in enumerate(ROWS):
        asked = row.get("messages", row.get("prompt"))
        if row["id"] in "fgi":
            continue
        ends: tuple[int, ...] = ()
        if asked == DIALOG:
            asked, ends = TOKENIZER.chat(DIALOG), (TOKENIZER.eot_id,)
        sampling = DRAWN.model_copy(update={"seed": row.get("seed", 5 + number), "stop_ids": ends})
        found[row["id"]] = [one.token_ids for one in engine.generate([asked] * n, sampling)]
    return found


def test_engines_of_a_fleet_answer_as_one_engine_does(model: Path, tmp_path: Path) -> None:
    write_json_lines(tmp_path / "asked" / "1.jsonl", ROWS[:3])
    write_json_lines(tmp_path / "asked" / "more" / "2.jsonl", ROWS[3:])
    settings = GenerateSettings(n=3, sampling=DRAWN, part=2, engines=2, token_ids=True)
    figures = generate(model, tmp_path / "asked", tmp_path / "out", settings)
    rows = answers(tmp_path / "out")
    assert [{key: value for key, value in row.items() if key not in ("answers", "error")} for row in rows] == ROWS
    want = by_one_engine(model, 3)
    got = {row["id"]: [one["token_ids"] for one in row["answers"]] for row in rows if "answers" in row}
    assert got == want
    assert want["a"] != want["b"] and want["a"][0] != want["a"][1]
    assert all(len(one["logprobs"]) == one["tokens"] for row in rows for one in row.get("answers", []))
    said = {row["id"]: row["error"] for row in rows if "error" in row}
    assert said["f"].startswith("row 3 of 2.jsonl: the prompt has 501 tokens")
    assert "it asks nothing" in said["g"] and "ends with the assistant's turn" in said["i"] and len(said) == 3
    assert (figures["prompts"], figures["answers"], figures["failed"], figures["engines"]) == (10, 21, 3, 2)
    assert figures["first_failure"] == said["f"]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("part-*")}
    assert len(before) == 6
    again = generate(model, tmp_path / "asked", tmp_path / "out", settings.model_copy(update={"engines": 7}))
    assert again["parts_now"] == 0 and again["tokens"] == figures["tokens"]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("part-*")} == before


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_parts_hold_every_row_once(size: int, tmp_path: Path) -> None:
    rows = [{"id": number, "prompt": "ä" * number} for number in range(11)]
    write_json_lines(tmp_path / "a.jsonl", rows[:5])
    pq.write_table(pa.Table.from_pylist(rows[5:]), tmp_path / "b.parquet", row_group_size=4)
    (tmp_path / "empty.jsonl").touch()
    parts = cut_parts(prompt_files(tmp_path), size)
    assert [row for part in parts for row in read_part(Part.heard(part.told()))] == rows
    assert [part.first for part in parts] == [sum(before.rows for before in parts[:k]) for k in range(len(parts))]
    assert max(part.rows for part in parts) <= size


def test_a_part_does_not_depend_on_what_else_is_answered(model: Path, tmp_path: Path) -> None:
    file = write_json_lines(tmp_path / "asked.jsonl", ROWS[:5])
    told = {"model": str(model), "out": str(tmp_path), "engines": 1, "gpus": 0, "parent": 0}
    found = []
    for size, rows in ((5, 64), (2, 1)):
        settings = GenerateSettings(sampling=DRAWN, part=size, rows=rows)
        worker = EngineWorker(json.dumps({**told, "settings": settings.model_dump(mode="json")}))
        for part in cut_parts([file], size):
            worker.publish(part)
        found.append(answers(tmp_path))
        for part in cut_parts([file], size):
            (tmp_path / part.name).unlink()
    assert found[0] == found[1] and len(found[0]) == 5


@pytest.mark.parametrize(
    ("lines", "said"),
    [("{}\n[1]\n", "a.jsonl line 2: b'\\[1\\]"), ('{"prompt": "x"}\n{"pro', "line 2: not JSON .*was the file cut")],
)
def test_damaged_files_are_told_before_anything_is_written(lines: str, said: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines)
    with pytest.raises(UserError, match=said):
        generate(model, tmp_path / "a.jsonl", tmp_path / "out", GenerateSettings())
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="damaged or not Parquet"):
        cut_parts(prompt_files(tmp_path), 4)
    with pytest.raises(UserError, match=r"no \.jsonl or \.parquet files here"):
        prompt_files(tmp_path / "nowhere")


def test_answers_of_another_job_are_not_mixed_in(model: Path, tmp_path: Path) -> None:
    file = write_json_lines(tmp_path / "asked.jsonl", ROWS[:1])
    begin(tmp_path / "out", model, [file], GenerateSettings())
    begin(tmp_path / "out", model, [file], GenerateSettings(engines=3, rows=2))  # these change no answer
    with pytest.raises(UserError, match="begun with other settings"):
        begin(tmp_path / "out", model, [file], GenerateSettings(n=2))
    write_json_lines(file, ROWS[:2])
    with pytest.raises(UserError, match="begun with other prompts"):
        begin(tmp_path / "out", model, [file], GenerateSettings())
    with pytest.raises(UserError, match="is not empty"):
        begin(tmp_path, model, [file], GenerateSettings())


def test_two_commands_do_not_write_the_same_answers(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(UserError, match="another command is writing"), alone(tmp_path):
        pass


def test_tools_are_told_and_may_be_text() -> None:
    tools = [{"type": "function", "function": {"name": "moo", "parameters": {"type": "object", "properties": {}}}}]
    want = TOKENIZER.chat(DIALOG, tools)
    for given in (tools, json.dumps(tools)):
        assert prompt_ids({"messages": DIALOG, "tools": given}, TOKENIZER) == (want, True)
    assert want != TOKENIZER.chat(DIALOG)


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(model: Path, tmp_path: Path) -> None:
    file = write_json_lines(tmp_path / "asked.jsonl", [{"id": k, "prompt": f"cow {k % 7}"} for k in range(160)])
    words = [sys.executable, "-m", "herdbook", "generate", str(model), str(file)]
    options = ["--engines", "2", "--part", "2", "-n", "4", "--temperature", "1", "--max-tokens", "40"]
    subprocess.run([*words, str(tmp_path / "whole"), *options, "--rows", "3"], check=True, timeout=300)
    out, done = tmp_path / "killed", dict[Path, int]()
    for least in (3, 20):
        command = subprocess.Popen([*words, str(out), *options])
        while len(list(out.glob("part-*"))) < least:
            assert command.poll() is None
            time.sleep(0.01)
        command.send_signal(signal.SIGKILL)
        command.wait()
        time.sleep(2)  # its engines end by themselves
        now = {part: part.stat().st_mtime_ns for part in out.glob("part-*")}
        assert done.items() <= now.items() and least <= len(now) < 80
        done = now
    finished = subprocess.run([*words, str(out), *options], check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    assert f"parts_now={80 - len(done)}" in finished.stdout
    assert {part: part.stat().st_mtime_ns for part in done} == done
    assert answers(out) == answers(tmp_path / "whole") and len(answers(out)) == 160


@pytest.mark.slow
def test_an_engine_of_a_fleet_may_lie_on_several_ranks(model: Path, tmp_path: Path) -> None:
    file = write_json_lines(tmp_path / "asked.jsonl", ROWS)
    found = []
    for number, layout in enumerate((Layout(), Layout(tensor_parallel=2))):
        settings = GenerateSettings(sampling=Sampling(max_tokens=9), part=4, layout=layout, token_ids=True)
        generate(model, file, tmp_path / str(number), settings)
        found.append(answers(tmp_path / str(number)))
    assert found[0] == found[1] and len(found[0]) == len(ROWS)
