"""The whole exam: with the toy model for what is written down, with a real tiny model for what is run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from herdbook.evaluate import run
from herdbook.evaluate.run import evaluate, evaluate_folder
from herdbook.evaluate.settings import EvaluateSettings
from herdbook.evaluate.table import results_table
from herdbook.files import read_json
from herdbook.model.huggingface import save_model
from herdbook.settings import UserError
from herdbook.tokens.pack import PackSettings, pack
from herdbook.tokens.tokenizer import Tokenizer
from tests.evaluate.toy import ToyEngine
from tests.support.models import tiny_model
from tests.support.shared import shared
from tests.tokens.conftest import write_documents

FILES: dict[str, list[dict[str, Any]]] = {
    "facts": [
        {"id": f"f{i}", "question": "The ewe is", "choices": [" a", " b", " c", " d"], "answer": i % 4, "group": g}
        for i in range(8)
        for g in [{"exposures": (1, 10, 100)[i % 3]}]
    ],
    "multihop": [{"question": "The dam is", "choices": [" a", " b"], "answer": 0, "group": {"hops": 2}}],
    "mmlu": [{"question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1, "subject": "sums"}] * 3,
    "gsm8k": [{"question": "1 + 1?", "answer": "1 + 1 = 2. #### 2", "group": {"steps": 1}}] * 3,
    "mgsm": [{"question": "1 und 1?", "answer": 2, "language": "de"}] * 2,
    "humaneval": [
        {
            "task_id": "w/0",
            "prompt": "def f(x):\n",
            "canonical_solution": "    return x\n",
            "test": "def check(c):\n    assert c(1) == 1\n",
            "entry_point": "f",
        }
    ],
    "needle": [
        {"id": "n", "needle": "It is 7.", "question": "What?", "answer": "7", "filler": ["A b.", "C d e.", "F g h i."]}
    ],
}
TASK_NAMES = ["facts", "multihop", "mmlu", "gsm8k", "mgsm", "humaneval", "needle"]


def write_questions(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, rows in FILES.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_questions(tmp_path / "world" / "questions")
    return tmp_path / "world"


@pytest.fixture
def toy_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    engine = ToyEngine({" ": 0.5, "b": 0.3, "a": 0.2, "B": 0.3}, lambda prompt: " #### 2\n", max_length=256)
    monkeypatch.setattr(run, "load_engine", lambda folder, settings: engine)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def test_all_tasks_whose_questions_are_there_are_asked(world: Path, toy_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    settings = EvaluateSettings(needle_lengths=(96,), needle_depths=(0, 1), needle_questions=2)
    metrics = evaluate(settings, toy_model, world, None, out)
    results = read_json(out / "results.json")
    assert results["metrics"] == json.loads(json.dumps(metrics))
    assert list(results["tasks"]) == TASK_NAMES
    assert sorted(p.stem for p in (out / "samples").iterdir()) == sorted([*TASK_NAMES, "mmlu_cloze"])
    assert metrics["facts"]["accuracy"]["value"] == 0.25 and metrics["facts_1"]["accuracy"]["n"] == 3
    assert metrics["multihop_2"]["accuracy"]["n"] == 1
    assert metrics["mmlu"]["accuracy"]["value"] == 1
    assert metrics["problems_1"]["accuracy"]["value"] == metrics["mgsm_de"]["accuracy"]["value"] == 1
    assert metrics["humaneval"]["pass_at_1"]["value"] == 0 and results["sandbox"]["audit_hook"] is True
    rows = [json.loads(line) for line in (out / "samples" / "gsm8k.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and rows[0]["prompt"] == "Question: 1 + 1?\nAnswer:" and rows[0]["right"]
    assert not any("." in key for key in all_keys(metrics))


def all_keys(value: Any) -> list[str]:
    return [k for key, inner in value.items() for k in [key, *all_keys(inner)]] if isinstance(value, dict) else []


def test_the_table_lines_up_and_shows_intervals(world: Path, toy_model: Path, tmp_path: Path) -> None:
    metrics = evaluate_folder(toy_model, ["facts", "needle"], world, needle_lengths=(96,), needle_questions=1)
    table = results_table(metrics)
    lines = table.splitlines()
    assert lines[0].split("|")[1].strip() == "task"
    first = table.split("\n\n")[0].splitlines()
    assert len({len(line) for line in first}) == 1
    assert re.search(r"\| facts +\| accuracy +\| 0\.250 +\| 0\.071 – 0\.591 \| 8 +\|", table)
    assert "Needle found, by length" in table and "| 96 " in table


def test_limit_draws_the_same_questions_each_time(world: Path, toy_model: Path, tmp_path: Path) -> None:
    ids = []
    for name in ("one", "two"):
        evaluate_folder(toy_model, ["facts"], world, 3, out=tmp_path / name)
        rows = (tmp_path / name / "samples" / "facts.jsonl").read_text().splitlines()
        ids.append([json.loads(row)["id"] for row in rows])
    assert ids[0] == ids[1] and len(ids[0]) == 3 and ids[0] == sorted(ids[0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ("mbpp",)}, r"mbpp: no questions in .*world; looked for mbpp\.jsonl or mbpp/mbpp\.jsonl"),
        ({"tasks": ("bits",)}, "bits: needs the held-out documents of a tokens stage"),
        ({"tasks": ("gsm8k",), "shots": 3}, r"shots is 3, but .* has no gsm8k/train\.jsonl"),
        ({"pass_at": (1, 10)}, "pass_at has 10, but samples is 1"),
        ({"samples": 4}, "at temperature 0 all are the same"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(
    settings: dict[str, Any], said: str, world: Path, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load_engine", None)
    with pytest.raises(UserError, match=said):
        evaluate(EvaluateSettings(**settings), toy_model, world, None, tmp_path)


def test_other_mistakes(world: Path, toy_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no task is called 'humanevil'; did you mean humaneval\?"):
        EvaluateSettings(tasks=("humanevil",))
    with pytest.raises(UserError, match="nothing to evaluate: no folder given, and no tokens given"):
        evaluate(EvaluateSettings(), toy_model, None, None, tmp_path)
    with pytest.raises(UserError, match="no question files; feed a world"):
        evaluate(EvaluateSettings(tasks=("facts",)), toy_model, None, None, tmp_path)
    with pytest.raises(UserError, match=r"nothing to evaluate: .* holds none of facts\.jsonl"):
        evaluate_folder(toy_model, data=toy_model)
    with pytest.raises(UserError, match="no such folder"):
        evaluate_folder(toy_model, data=tmp_path / "absent")
    with pytest.raises(UserError, match=r"absent: no config\.json"):
        evaluate_folder(tmp_path / "absent", data=world)


def test_a_real_model_is_examined_end_to_end(world: Path, tmp_path: Path) -> None:
    Tokenizer({bytes([i]): i for i in range(256)}).save(tmp_path / "tokenizer")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    texts = {f"page-{i}": f"Ewe {i} had {i % 5} lambs.\n" * (i % 7 + 1) for i in range(60)}
    entry = write_documents(tmp_path / "entry", dict(texts))
    (tmp_path / "tokens").mkdir()
    pack(PackSettings(heldout=0.3, threads=1), {"corpus": entry}, tmp_path / "tokenizer", tmp_path / "tokens")
    model = tiny_model(vocab_size=tokenizer.vocab_size, max_length=160)
    folder = tmp_path / "entry" / "model"
    save_model(model, folder, bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    tokenizer.save(folder)
    out = tmp_path / "out"
    out.mkdir()
    settings = EvaluateSettings(needle_depths=(0.5,), needle_questions=2)
    metrics = evaluate(settings, tmp_path / "entry", world / "questions", tmp_path / "tokens", out)
    assert list(read_json(out / "results.json")["tasks"]) == [*TASK_NAMES, "bits"]
    assert {"needle_160", "needle_80", "needle_128"} <= set(metrics)
    assert metrics["bits"]["bits_per_byte"]["value"] > metrics["bits"]["xz"] > 0


def test_real_benchmarks_are_asked_with_their_examples(toy_model: Path) -> None:
    metrics = evaluate_folder(
        toy_model, ["mmlu", "gsm8k", "mgsm", "math", "humaneval", "mbpp"], shared("data/benchmarks"), 4
    )
    assert metrics["gsm8k"]["accuracy"]["n"] == 4 and metrics["mbpp"]["pass_at_1"]["n"] == 4
    assert metrics["mmlu_cloze"]["accuracy"]["n"] == 4


def test_settings_load_without_torch() -> None:
    code = "import herdbook.evaluate.run, herdbook.evaluate.quantize, sys\n"
    code += "assert not {'torch', 'daft', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
