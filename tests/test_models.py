"""A model is found by a folder, an entry's name or its stage; options are checked as a recipe's settings are."""

from __future__ import annotations

from pathlib import Path

import pytest

from herdbook import models, run
from herdbook.book import Book
from herdbook.recipe import read_recipe
from herdbook.settings import UserError
from herdbook.stages import KINDS
from tests.support.fakes import SlowSettings
from tests.test_book import RECIPE


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    """A book whose fake models count as models."""
    import dataclasses

    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    made = Book(tmp_path / "book")
    run.run_recipe(read_recipe(path, ["base.seconds=0"]), made)
    monkeypatch.setitem(KINDS, "fake-slow", dataclasses.replace(KINDS["fake-slow"], gives="model"))
    return made


def test_an_entry_is_found_by_stage_and_a_folder_goes_before_it(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, entry = models.find_model("base", book)
    assert entry is not None and entry.stage == "base" and folder == book.folder / entry.name / "model"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base" / "model").mkdir(parents=True)
    assert models.find_model("base", book)[1] is not None  # a folder without a model in it is none
    (tmp_path / "base" / "model" / "config.json").touch()
    assert models.find_model("base", book) == (Path("base/model"), None)


def test_what_is_no_model_is_told(book: Book, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        models.find_model(str(tmp_path), book)
    with pytest.raises(UserError, match="no entry that gives model 'pages'"):
        models.find_model("pages", book)
    with pytest.raises(UserError, match="no book"):
        models.find_model("base", Book(tmp_path / "none"))


def test_ancestors_come_nearest_first(book: Book) -> None:
    assert [entry.stage for entry in models.ancestors(book.resolve("more"), book)] == ["pages", "base"]


def test_options_are_checked_as_settings_are(tmp_path: Path) -> None:
    assert models.make_settings(SlowSettings, {"steps": 3, "rate": None}) == SlowSettings(steps=3)
    with pytest.raises(UserError, match=r"option.optimizer.*'adamw'"):
        models.make_settings(SlowSettings, {"steps": 3, "optimizer": "adam"})
    with pytest.raises(UserError, match=r"no file or folder"):
        from tests.support.fakes import Source

        models.make_settings(Source, {"path": tmp_path / "none"})
