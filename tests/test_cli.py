"""The commands print what was asked, exit with a code that means something, and never show a traceback to users."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner, Result

import tests.support.fakes  # noqa: F401  (registers the kinds)
from herdbook import __version__
from herdbook.cli import app
from herdbook.report import kinds as kinds_report
from herdbook.stages import KINDS

RECIPE = """\
name: small
stages:
  pages: {kind: fake-raw, seed: 3, sources: [{path: "${recipe}/recipe.yaml"}]}
  base: {kind: fake-slow, from: {raw: pages}, steps: 4, model: {width: 3}}
  more: {kind: fake-slow, from: {raw: pages, model: base}, steps: 3}
aims:
  base.total: ">= 10"
  base.accuracy: ">= 0.9"
  pages.defects.*.recall: ">= 0.95"
  more.total: "< base.total"
  more.speed: "> 1"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_run_ends_with_aims_times_and_the_next_step(recipe: Path, tmp_path: Path) -> None:
    ran = call("run", recipe, "--book", tmp_path / "book")
    assert ran.exit_code == 0, ran.output
    lines = {line.split()[0]: line for line in ran.stdout.splitlines() if line.strip()}
    assert "14" in lines["base.total"] and ">= 10" in lines["base.total"] and lines["base.total"].endswith(" reached")
    assert "0.7 to 0.8" in lines["base.accuracy"] and lines["base.accuracy"].endswith("not reached")
    assert lines["pages.defects.url.recall"].endswith("not reached")
    assert lines["pages.defects.near.recall"].endswith(" reached")
    assert "< base.total (14)" in lines["more.total"] and lines["more.total"].endswith(" reached")
    assert lines["more.speed"].endswith("not measured")
    assert "3 of 6 aims reached" in ran.stdout
    assert "total" in lines
    assert ran.stdout.rstrip().splitlines()[-1] == f"look at it: herdbook show more --book {tmp_path / 'book'}"
    assert "running stage=base" in ran.stderr


def test_a_runs_aims_stand_below_the_claims_they_show(recipe: Path, tmp_path: Path) -> None:
    told = RECIPE.replace('base.total: ">= 10"', 'base.total: {aim: ">= 10", claim: sums are large}')
    told = told.replace('base.accuracy: ">= 0.9"', 'base.accuracy.low: {aim: ">= 0.9", claim: sums are right}')
    told = told.replace('more.total: "< base.total"', 'more.total: {aim: "< 0.9 * base.total", claim: sums are right}')
    recipe.write_text(told)
    jsonschema.validate(yaml.safe_load(told.replace("${recipe}", "x")), kinds_report.schema(None))
    lines = call("run", recipe, "--book", tmp_path / "book").stdout.splitlines()
    place = lines.index("sums are right: does not hold")
    assert " ".join(lines[place + 1].split()) == "base.accuracy.low 0.75 0.7 to 0.8 4 >= 0.9 not reached"
    assert lines[place + 2].split()[:2] == ["more.total", "5"] and lines[place + 2].endswith(" reached")
    assert "sums are large: holds" in lines and "further aims" in lines
    assert "3 of 6 aims reached; 1 of 2 claims hold" in lines


def test_check_says_what_would_run_and_runs_nothing(recipe: Path, tmp_path: Path) -> None:
    book = tmp_path / "book"
    asked = call("run", recipe, "--book", book, "--check")
    assert asked.exit_code == 0 and asked.stdout.count("to be run") == 3 and not book.exists()
    call("run", recipe, "--book", book, "--only", "base")
    asked = call("run", recipe, "--book", book, "--check")
    assert asked.stdout.count("in the book as") == 2 and asked.stdout.count("to be run") == 1


def test_only_runs_a_stage_and_those_it_stands_on(recipe: Path, tmp_path: Path) -> None:
    ran = call("run", recipe, "--book", tmp_path / "book", "--only", "base")
    assert ran.exit_code == 0
    assert "more" not in ran.stdout
    wrong = call("run", recipe, "--book", tmp_path / "book", "--only", "bsae")
    assert wrong.exit_code == 2 and "'base'" in wrong.stderr


def test_mistakes_are_told_without_a_traceback_and_end_with_two(recipe: Path, tmp_path: Path) -> None:
    for words in (
        ("run", tmp_path / "none.yaml"),
        ("run", recipe, "base.stepps=1"),
        ("show", "--book", tmp_path / "none"),
        ("pedigree", "base", "--book", tmp_path / "none"),
        ("kinds", "fake-rwa"),
        ("show", "--nonsense"),
        ("nonsense",),
    ):
        told = call(*words)
        assert told.exit_code == 2, words
        assert told.stderr and "Traceback" not in told.output
    assert "'fake-raw'" in call("kinds", "fake-rwa").stderr


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERDBOOK_DEBUG", "1")
    told = call("run", tmp_path / "none.yaml")
    assert told.exception is not None and told.exit_code == 1


def test_a_failed_stage_ends_with_one(recipe: Path, tmp_path: Path) -> None:
    told = call("run", recipe, "base.fail=bug", "--book", tmp_path / "book")
    assert told.exit_code == 1
    assert "stage 'base' failed: ZeroDivisionError" in told.stderr and "Traceback" not in told.output
    assert call("run", recipe, "base.fail=user", "--book", tmp_path / "book").exit_code == 2
    shown = call("show", "--book", tmp_path / "book")
    assert shown.stdout.count("unfinished: fake-slow-") == 2


def test_show_and_pedigree_tell_the_herd(recipe: Path, tmp_path: Path) -> None:
    book = tmp_path / "book"
    call("run", recipe, "--book", book)
    shown = call("show", "--book", book).stdout
    assert "total=14  accuracy=0.75" in shown and shown.count("fake-slow") == 2
    one = call("show", "base", "--book", book).stdout
    for words in ("model.width = 3", "0.7 to 0.8", "raw: pages-", "machine", "energy"):
        assert words in one
    given, default = one.split("settings by default")
    assert "  steps = 4" in given.split("settings given")[1] and "  rate = 0.001" in default
    (counted,) = [line for line in one.splitlines() if line.startswith("accuracy")]
    assert counted.split() == ["accuracy", "0.75", "0.7", "to", "0.8", "4"]
    tree = call("pedigree", "more", "--book", book).stdout
    assert tree.splitlines()[0].startswith("more-") and "steps=3" in tree.splitlines()[0]
    assert "(above)" in tree and "model.width=3" in tree and f"source {recipe}" in tree
    damaged = next(book.glob("base-*")) / "entry.json"
    damaged.write_text("{")
    told = call("show", "--book", book)
    assert told.exit_code == 2 and "pages-" in told.stdout and str(damaged) in told.stderr


def test_kinds_show_settings_with_help_and_defaults() -> None:
    everything = call("kinds").stdout
    assert all(name in everything for name in KINDS)
    lines = {line.split()[0]: line for line in call("kinds", "fake-slow").stdout.splitlines() if line.strip()}
    assert "required" in lines["steps"] and "Steps to take." in lines["steps"]
    assert "one of adamw, muon" in lines["optimizer"] and '"adamw"' in lines["optimizer"]
    assert "8" in lines["model.width"] and "How wide." in lines["model.width"]
    assert "int or none" in lines["model.depth"]


def test_the_schema_takes_what_the_reader_takes_and_refuses_what_it_refuses(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = json.loads(call("kinds", "fake-slow", "--json").stdout)
    jsonschema.Draft202012Validator.check_schema(one)
    for name in [name for name in KINDS if not name.startswith("fake")]:
        monkeypatch.delitem(KINDS, name)
    whole = kinds_report.schema()
    jsonschema.Draft202012Validator.check_schema(whole)
    tree = yaml.safe_load(recipe.read_text())
    jsonschema.validate(tree, whole)
    jsonschema.validate(tree["stages"]["base"], one)
    for wrong in (
        {"stepps": 1},
        {"steps": "many"},
        {"model": {"widht": 1}},
        {"kind": "fake-raw"},
        {"from": {"raw": ["pages"]}},
        {"from": {}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**tree["stages"]["base"], **wrong}, one)


def test_the_command_starts_without_the_heavy_rooms() -> None:
    code = (
        "import sys; sys.argv = ['herdbook', 'kinds']\n"
        "from herdbook.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "from herdbook import run, recipe; from herdbook.report import herd, summary\n"
        "heavy = {'torch', 'daft', 'transformers', 'numpy', 'scipy', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_installed_command_tells_its_version_and_survives_a_closed_pipe() -> None:
    command = [sys.executable, "-m", "herdbook.cli"]
    said = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.strip() == f"herdbook {__version__}"
    piped = subprocess.run(f"{' '.join(command)} kinds | true", shell=True, capture_output=True, text=True)
    assert piped.stderr == ""
