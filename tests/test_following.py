"""A machine that is not the first runs nothing of its own: it waits for each entry, or for the first one's failure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from herdbook import run
from herdbook.book import Book
from herdbook.recipe import read_recipe
from herdbook.settings import UserError
from herdbook.train.machines import Machines, machines_of_run
from herdbook.train.topology import ParallelSettings
from tests.test_book import recipe, run_all, runs  # noqa: F401  (two are fixtures)

SECOND = Machines(2, 1, "localhost:1", "test")


def test_a_second_machine_gets_the_entries_and_runs_nothing(recipe: Path, tmp_path: Path, runs: Path) -> None:  # noqa: F811
    book = Book(tmp_path / "book")
    tasks = run.plan(read_recipe(recipe, ()), book)
    before = run.attempts(book, tasks)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(lambda: [run.follow_task(book, task, SECOND, before).name for task in tasks])
        entries = run_all(recipe, tmp_path / "book")
        assert following.result(60) == [entry.name for entry in entries.values()]
    assert len(runs.read_text().splitlines()) == len(entries) == 3


def test_when_a_stage_fails_on_the_first_machine_the_others_end(recipe: Path, tmp_path: Path) -> None:  # noqa: F811
    book = Book(tmp_path / "book")
    tasks = run.plan(read_recipe(recipe, ("base.fail=user",)), book)
    before = run.attempts(book, tasks)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(lambda: [run.follow_task(book, task, SECOND, before).name for task in tasks])
        with pytest.raises(UserError, match="loosen the rules"):
            run_all(recipe, tmp_path / "book", "base.fail=user")
        with pytest.raises(run.StageFailed, match="stage 'base' ended on the first machine"):
            following.result(60)


def test_stages_of_one_recipe_use_as_many_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, four = (ParallelSettings(data=4, machines=count) for count in (1, 2, 4))
    assert machines_of_run([None, one]) == Machines()
    monkeypatch.setenv("HERDBOOK_MACHINE", "1")
    monkeypatch.setenv("HERDBOOK_RENDEZVOUS", "a:1")
    assert machines_of_run([one, two, None, two]) == Machines(2, 1, "a:1", "run")
    with pytest.raises(UserError, match=r"machines is 2 and 4 in one recipe"):
        machines_of_run([two, four])
