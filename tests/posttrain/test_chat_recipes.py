"""The recipes that fine-tune the demo's base: whole by their check, and the expert's run through with tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from herdbook.recipe import read_recipe
from tests.test_end_to_end import TINY, entry_folder, herdbook

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
EXAMS = (("skills", "generalist"), ("skills", "coder"), ("tongues", "generalist"), ("tongues", "polyglot"))
DEMO = [setting for setting in TINY if not setting.startswith("exam.")]


@pytest.mark.parametrize("name", ["laptop-chat", "laptop-experts", "laptop-tuning", "laptop-methods"])
def test_recipes_are_whole_and_their_bases_are_the_demos(name: str) -> None:
    recipe, demo = read_recipe(RECIPES / f"{name}.yaml", ()), read_recipe(RECIPES / "laptop.yaml", ())
    for stage in ("world", "corpus", "library", "tokenizer", "tokens", "base"):
        assert recipe.stages[stage].settings == demo.stages[stage].settings
    assert all(not aim.astray(recipe.stages) for aim in recipe.aims)


@pytest.mark.slow
def test_an_expert_is_raised_from_the_base_and_answers_beside_the_generalist(tmp_path: Path) -> None:
    small = [
        "lessons.workers=1", "code.heldout=0.05", "expert.tokens=2048", "expert.length=256", "expert.rows=2",
        "linguist.tokens=2048", "linguist.length=256", "linguist.rows=2",
        *(f"{one}.{key}" for one in ("generalist", "coder", "polyglot") for key in ("steps=4", "length=256", "rows=2")),
        "made.limit=30", "made.answers=2", "made.max_tokens=12", "made.keep=all",
        *(f"{exam}_{one}.limit=20" for exam, one in EXAMS),
    ]  # fmt: skip
    herdbook(tmp_path / "book", "run", str(RECIPES / "laptop-experts.yaml"), *DEMO, *small)
    entry = json.loads((entry_folder(tmp_path / "book", "expert") / "entry.json").read_text())
    assert [found["stage"] for found in entry["inputs"]["model"]] == ["base"]
    rows = [json.loads(line) for line in (entry_folder(tmp_path / "book", "made") / "samples.jsonl").open()]
    assert {"program", "fact"} <= {row["task"] for row in rows}
