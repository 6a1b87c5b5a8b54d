"""A stage that stands for several becomes ordinary stages: by name, by what feeds them, and by their settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

import tests.support.fakes  # noqa: F401  (registers the kinds)
from herdbook import run
from herdbook.book import Book, Entry
from herdbook.cli import app
from herdbook.recipe import Recipe, RecipeError, read_recipe
from herdbook.report.kinds import schema
from herdbook.stages import KINDS
from tests.support.fakes import SlowSettings

RECIPE = """\
stages:
  pages: {kind: fake-raw, seed: 3}
  herd:
    kind: fake-rounds
    from: {raw: pages}
    rounds: 2
    add:
      rate: 0.5
      model: {width: 5}
    round2:
      more: {steps: 9, model: {depth: 1}}
  after: {kind: fake-slow, from: {raw: pages, model: herd}, steps: 2}
aims:
  herd.total: ">= 0"
  herd.round*.more.total: ">= 0"
"""


def write(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def read(folder: Path, *overrides: str, text: str = RECIPE) -> Recipe:
    return read_recipe(write(folder, text), overrides)


def slow(recipe: Recipe, name: str) -> SlowSettings:
    settings = recipe.stages[name].settings
    assert isinstance(settings, SlowSettings)
    return settings


def test_the_steps_stand_where_the_stage_stood_and_the_last_bears_its_name(tmp_path: Path) -> None:
    recipe = read(tmp_path)
    steps = [f"herd.round{number}.{step}" for number in (1, 2) for step in ("add", "more")]
    assert list(recipe.stages) == ["pages", *steps, "herd", "after"]
    assert recipe.stages["herd.round2.add"].inputs == {"raw": ("pages",), "model": ("herd.round1.more",)}
    assert recipe.stages["after"].inputs["model"] == ("herd",)
    assert {stage.kind.name for stage in recipe.stages.values()} == {"fake-raw", "fake-slow"}


def test_settings_reach_all_steps_of_a_like_and_the_one_of_a_name_wins(tmp_path: Path) -> None:
    recipe = read(tmp_path)
    assert [slow(recipe, f"herd.round{number}.add").steps for number in (1, 2)] == [1, 2]
    assert [slow(recipe, f"herd.round{number}.more").steps for number in (1, 2)] == [3, 9]
    steps = ("round1.add", "round1.more", "round2.add", "round2.more")
    assert all(slow(recipe, f"herd.{step}").rate == 0.5 for step in steps)
    assert slow(recipe, "herd").rate == 1e-3  # the last step is like no other
    both = slow(recipe, "herd.round2.more").model
    assert (both.width, both.depth) == (5, 1)
    assert slow(recipe, "herd.round1.more").model.depth is None


def test_overrides_reach_the_stage_its_likes_and_single_steps(tmp_path: Path) -> None:
    recipe = read(tmp_path, "herd.rounds=3", "herd.more.steps=7", "herd.round3.more.model.width=2")
    assert len(recipe.stages) == 3 + 6
    assert [slow(recipe, f"herd.round{number}.more").steps for number in (1, 2, 3)] == [7, 9, 7]
    assert slow(recipe, "herd.round3.more").model.width == 2
    assert slow(recipe, "herd.round3.add").model.width == 5


@pytest.mark.parametrize(
    ("right", "wrong", "line", "words"),
    [
        ("rounds: 2", "rounds: two", 6, ["herd.rounds", '"two"']),
        ("rounds: 2", "rounds: 0", 3, ["one is the least"]),
        ("rounds: 2", "ronds: 2", 6, ["herd.ronds", "'rounds'"]),
        ("round2:", "round3:", 10, ["herd.round3", "no such setting or step"]),
        ("more: {", "mroe: {", 11, ["herd.round2.mroe", "'more'"]),
        ("more: {steps: 9, model: {depth: 1}}", "more: 3", 11, ["herd.round2.more", "mapping"]),
        ("rate: 0.5", "rat: 0.5", 8, ["rat", "'rate'"]),
        ("steps: 9", "steps: many", 11, ["herd.round2.more.steps", '"many"']),
        ("{raw: pages}\n    rounds", "{row: pages}\n    rounds", 5, ["herd.from.row", "'raw'"]),
        ("herd.total", "heard.total", 14, ["'heard'", "'herd'"]),
    ],
)
def test_a_mistake_is_told_once_where_it_was_written(
    tmp_path: Path, right: str, wrong: str, line: int, words: list[str]
) -> None:
    assert RECIPE.count(right) == 1
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text=RECIPE.replace(right, wrong))
    told = [item for item in caught.value.problems if item.line == line]
    assert len(told) == 1 and all(word in str(told[0]) for word in words), str(caught.value)
    assert told == caught.value.problems or right.startswith("{raw")


def test_an_entry_is_made_of_each_step_and_rounds_that_stay_are_kept(tmp_path: Path) -> None:
    book = Book(tmp_path / "book")
    entries = run.run_recipe(read(tmp_path), book)
    assert entries["herd.round2.more"].inputs["model"][0].id == entries["herd.round2.add"].id
    more = run.run_recipe(read(tmp_path, "herd.rounds=3"), book)
    assert all(more[name].id == entries[name].id for name in entries if name.startswith("herd."))
    assert more["herd"].id != entries["herd"].id and len(book.entries()[0]) == len(entries) + 4


def test_commands_know_the_steps(tmp_path: Path) -> None:
    path, book = write(tmp_path), tmp_path / "book"

    def call(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words), "--book", str(book)])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert call("run", path, "--check").count("to be run") == 7
    assert "herd.round1.more.total" not in call("run", path, "--only", "herd.round1.add")
    assert "3 of 3 aims reached" in call("run", path)
    assert "herd.round2.more-" in call("show")
    assert "steps = 9" in call("show", "herd.round2.more")
    tree = call("pedigree", "after")
    assert "model: herd-" in tree and "model: herd.round1.add-" in tree and "rate=0.5" in tree


def test_the_schema_lets_settings_of_steps_stand_beside_a_stages_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one = schema(KINDS["fake-rounds"])
    good = {"kind": "fake-rounds", "from": {"raw": "pages"}, "rounds": 3, "add": {"steps": 1}}
    jsonschema.validate(good, one)
    for wrong in ({"rounds": "many"}, {"add": 3}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **wrong}, one)


def test_a_run_killed_in_a_step_goes_on_to_the_same_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["herd.round2.add.steps=40", "herd.round2.add.seconds=0.01"]
    whole = run.run_recipe(read(tmp_path, *overrides), Book(tmp_path / "whole"))
    book, noted = tmp_path / "killed", tmp_path / "runs.txt"
    monkeypatch.setenv("HERDBOOK_TEST_RUNS", str(noted))
    command = [sys.executable, "-m", "tests.support.fakes", "run", str(tmp_path / "recipe.yaml"), *overrides]
    begun = subprocess.Popen(
        [*command, "--book", str(book)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    step = book / ".work" / f"fake-slow-{whole['herd.round2.add'].id[:12]}" / "step-000010"
    end = time.monotonic() + 60
    while not step.exists():
        assert begun.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    first = noted.read_text().splitlines()
    again = run.run_recipe(read(tmp_path, *overrides), Book(book))
    assert {name: result(entry) for name, entry in again.items()} == {n: result(e) for n, e in whole.items()}
    assert again["herd.round2.add"].attempts == 2
    assert len(noted.read_text().splitlines()) - len(first) == 4  # the one begun, and those after it


def result(entry: Entry) -> str:
    return json.dumps([entry.id, entry.metrics])
