"""The demo's recipe with tiny sizes: from a raw crawl to a model that the commands and other libraries can use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from herdbook.world.settings import WorldSettings

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "laptop.yaml"
TINY = [
    *(f"world.{key}={value}" for key, value in WorldSettings.tiny() if isinstance(value, int | float)),
    "corpus.workers=1",
    "library.sources.0.path=${python_library}/json",
    "library.workers=1",
    "tokenizer.vocab_size=700",
    "tokenizer.heldout=0.05",
    "tokens.heldout=0.05",
    "base.model={dim: 32, layers: 2, heads: 2, kv_heads: 1, ffn_dim: 64, max_length: 256}",
    "base.length=256",
    "base.rows=2",
    "base.steps=12",
    "base.tokens=null",
    "base.checkpoint_every=0",
    "exam.limit=40",
    "exam.max_tokens=16",
    "exam.bits_tokens=2000",
    "exam.needle_questions=1",
    "exam.xz_train_mb=0",
]
STAGES = ["world", "corpus", "library", "audit", "tokenizer", "tokens", "base", "exam"]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("herd") / "book"


@pytest.fixture(scope="module")
def said(book: Path) -> str:
    """What the run printed at its end."""
    return herdbook(book, "run", str(RECIPE), *TINY)


def entry_folder(book: Path, stage: str) -> Path:
    """The stage's only entry; the exam of a model is called after it, but with more letters."""
    (found,) = book.glob(f"{stage}-{'[0-9a-f]' * 12}")
    return found


def herdbook(book: Path, *words: str, typed: str = "") -> str:
    command = [sys.executable, "-m", "herdbook.cli", *words]
    environment = {**os.environ, "HERDBOOK_BOOK": str(book), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, input=typed, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


def test_the_run_ends_with_every_aim_beside_its_figure(said: str) -> None:
    lines = said.splitlines()
    for name in ("audit.extraction_f1", "exam.facts_100.accuracy", "exam.problems_1_2.accuracy"):
        assert any(line.startswith(name) and "reached" in line for line in lines), said
    assert "not measured" not in said
    assert all(any(line.startswith(f"{stage} ") for line in lines) for stage in STAGES)
    assert "talk to it: herdbook chat base" in lines[-1]


def test_a_second_run_keeps_everything(said: str, book: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in book.rglob("*")}
    again = herdbook(book, "run", str(RECIPE), *TINY)
    assert [line for line in again.splitlines() if line.startswith(("base ", "exam "))]
    after = {path: path.stat().st_mtime_ns for path in book.rglob("*")}
    changed = {path for path in after if before.get(path) != after[path]}
    assert not {path for path in changed if path.is_file()}


def test_the_book_tells_the_models_whole_pedigree(said: str, book: Path) -> None:
    shown = herdbook(book, "show")
    assert all(f"{stage}-" in shown for stage in STAGES)
    tree = herdbook(book, "pedigree", "exam")
    assert all(f"{stage}-" in tree for stage in STAGES if stage != "audit")
    assert "world.people" not in tree and "people=6" in tree


def test_the_model_answers_in_the_terminal(said: str, book: Path) -> None:
    assert "tokens/s" in herdbook(book, "chat", "base", "--max-tokens", "5", typed="The birthplace of\n/quit\n")


def test_the_model_is_examined_on_its_own_worlds_questions(said: str, book: Path) -> None:
    table = herdbook(book, "evaluate", "base", "--tasks", "facts", "--limit", "3")
    assert "facts" in table and "kept as base-exam-" in table
    folder = entry_folder(book, "base") / "model"
    questions = next(book.glob("world-*")) / "questions"
    assert "facts" in herdbook(
        book, "evaluate", str(folder), "--tasks", "facts", "--limit", "3", "--data", str(questions)
    )


def test_why_a_page_was_dropped_is_told(said: str, book: Path) -> None:
    import pyarrow.parquet as pq

    measured = pq.read_table(next(book.glob("corpus-*")) / "measurements").to_pylist()
    dropped = next(row for row in measured if row["dropped_by"])
    told = herdbook(book, "why", dropped["url"])
    assert f"dropped by {dropped['dropped_by']}" in told
    kept = next(row for row in measured if not row["dropped_by"])
    assert "kept" in herdbook(book, "why", kept["url"], "--entry", "corpus")


def test_transformers_loads_what_was_raised_and_agrees(said: str, book: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from herdbook.model.huggingface import load_model
    from herdbook.tokens.tokenizer import Tokenizer

    folder = entry_folder(book, "base") / "model"
    text = "Héllo, world 1234!\n\tdef f(x):  return x  # 日本\n"
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.decode(ids) == text == ours.decode(ids)
    tokens = torch.tensor([[ours.bos_id, *ids]])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(tokens).logits
        found = load_model(folder, dtype=torch.float32).eval()(tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_every_entry_says_what_it_is(said: str, book: Path) -> None:
    for stage in STAGES:
        told = json.loads((entry_folder(book, stage) / "entry.json").read_text())
        assert told["stage"] == stage and told["metrics"] and told["seconds"] > 0 and told["energy"]
