"""Stages side by side: they really are, they end as those of a lone run, and kills and failures leave nothing half."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from herdbook import jobs
from herdbook.book import Book
from herdbook.posttrain.settings import SftSettings
from herdbook.recipe import read_recipe
from herdbook.run import Task, plan, run_recipe, run_task
from herdbook.settings import UserError
from herdbook.stages import KINDS
from herdbook.train.devices import visible_devices
from tests.support import fakes  # noqa: F401  (registers the kinds)

MEETING = """\
stages:
  first: {{kind: fake-meet, place: "{place}", name: a, wait_for: [b]}}
  second: {{kind: fake-meet, place: "{place}", name: b, wait_for: [a]}}
  last: {{kind: fake-meet, from: {{raw: first}}, place: "{place}", name: c}}
"""
SUMS = """\
stages:
  pages: {kind: fake-raw, seed: 3}
  base: {kind: fake-slow, from: {raw: pages}, steps: 30, seconds: 0.05}
  other: {kind: fake-slow, from: {raw: pages}, steps: 40, seconds: 0.05}
  more: {kind: fake-slow, from: {raw: pages, model: base}, steps: 3}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text.format(place=folder / "place") if "{place}" in text else text)
    return path


def start(recipe: Path, book: Path, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "tests.support.fakes",
        "run",
        str(recipe),
        "--book",
        str(book),
        "--jobs",
        "2",
        *more,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(happened: object, process: subprocess.Popen[str]) -> None:
    assert callable(happened)
    end = time.monotonic() + 60
    while not happened():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)


def held(book: Path) -> dict[str, dict[str, bytes]]:
    """Entry → everything it holds but when and how long; nothing else is in the book."""
    return {
        folder.name: {
            str(item.relative_to(folder)): item.read_bytes()
            for item in sorted(folder.rglob("*"))
            if item.is_file() and item.name != "entry.json"
        }
        for folder in sorted(book.iterdir())
        if not folder.name.startswith(".")
    }


def test_stages_that_wait_for_each_other_end_only_side_by_side(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entries = run_recipe(read_recipe(written(tmp_path, MEETING)), Book(tmp_path / "book"), jobs=2)
    assert list(entries) == ["first", "second", "last"]  # in the recipe's order
    place = tmp_path / "place"
    assert len({(place / name).read_text() for name in "abc"}) == 3
    said = capfd.readouterr().err
    assert "[second] met name=b" in said and "[last] running stage=last kind=fake-meet" in said


def test_what_comes_out_is_what_a_lone_run_gives(tmp_path: Path) -> None:
    checked = read_recipe(written(tmp_path, SUMS), ["base.seconds=0", "other.seconds=0"])
    alone = run_recipe(checked, Book(tmp_path / "alone"))
    beside = run_recipe(checked, Book(tmp_path / "beside"), jobs=3)
    assert {name: (entry.id, entry.given, entry.metrics) for name, entry in alone.items()} == {
        name: (entry.id, entry.given, entry.metrics) for name, entry in beside.items()
    }
    assert list(alone) == list(beside)
    assert held(tmp_path / "alone") == held(tmp_path / "beside")


@pytest.mark.parametrize("whom", ["runner", "stage"])
def test_after_a_kill_the_same_command_ends_with_the_same_bytes(tmp_path: Path, whom: str) -> None:
    recipe, book = written(tmp_path, SUMS), tmp_path / "book"
    process = start(recipe, book)
    until(lambda: len(list((book / ".work").glob("fake-slow-*/step-*"))) > 4, process)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2  # base and other
    (psutil.Process(process.pid) if whom == "runner" else children[0]).kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if whom == "runner" else 1)
    if whom == "stage":
        assert "was ended by SIGKILL, perhaps for want of memory: try fewer jobs" in errors
    psutil.wait_procs(children, timeout=30)
    assert not any(child.is_running() for child in children)  # none is left behind
    assert whom == "stage" or not list(book.glob("other-*"))  # nor went on to its end
    assert not list((book / ".work").glob("fake-raw*.lock"))
    again = start(recipe, book)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    run_recipe(read_recipe(recipe, ["base.seconds=0.05"]), Book(tmp_path / "calm"), jobs=2)
    assert held(book) == held(tmp_path / "calm")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_told_to_end_ends_all_its_stages(tmp_path: Path, number: int, code: int) -> None:
    recipe, book = written(tmp_path, SUMS), tmp_path / "book"
    process = start(recipe, book, "base.seconds=1", "other.seconds=1")
    until(lambda: len(list((book / ".work").glob("fake-slow-*/step-*"))) > 1, process)
    children = psutil.Process(process.pid).children()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code and "Traceback" not in errors
    assert f"--jobs 2 --book {book}" in errors
    assert not any(child.is_running() for child in children) and not list((book / ".work").glob("*.lock"))


def test_a_failure_begins_nothing_new_and_leaves_what_runs_to_its_end(tmp_path: Path) -> None:
    text = MEETING.replace("name: b,", "name: b, fail: true,").replace(
        "wait_for: [b]}}", "wait_for: [b]}}\n  slow: {{kind: fake-slow, from: {{raw: first}}, steps: 3}}"
    )
    recipe, book = written(tmp_path, text), tmp_path / "book"
    process = start(recipe, book, "first.wait_for=[b, gone]")
    place = tmp_path / "place"
    until(lambda: list((book / ".work").glob("*.error.log")), process)
    time.sleep(0.2)
    (place / "gone").touch()  # only now can the other one end
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "stage 'second' failed: ZeroDivisionError: as it was told" in errors
    assert "to their end go on: first" in errors
    assert [name.split("-")[0] for name in held(book)] == ["first"]


def test_a_users_mistake_is_told_as_one(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, SUMS), ["other.fail=user"])
    with pytest.raises(UserError, match="stage 'other': there are no documents to train on"):
        run_recipe(recipe, Book(tmp_path / "book"), jobs=2)


def begun(runner: jobs.Runner, task: Task, slot: int, code: str) -> jobs.Job:
    """A stage at work in a runner, whose process runs `code`."""
    (heard, words), (hears, told) = os.pipe(), os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=words)
    os.close(words)
    os.close(told)
    os.set_blocking(heard, False)
    job = jobs.Job(task, slot, process, os.fdopen(heard, "rb", 0), os.fdopen(hears, "rb", 0))
    runner.jobs.append(job)
    runner.selector.register(job.words, selectors.EVENT_READ, job)
    return job


def test_the_last_words_of_stages_told_to_end_are_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = tasks(tmp_path)
    runner = jobs.Runner(Book(tmp_path / "book"), made, 2)
    sleeping = "import time; print('half a line', end='', flush=True); time.sleep(60)"
    working = [begun(runner, task, slot, sleeping) for slot, task in enumerate(made[1:3])]
    end = time.monotonic() + 30
    while not all(job.line for job in working):
        assert not runner._listen() and time.monotonic() < end
    runner._stop(signal.SIGTERM)
    said = capfd.readouterr().err
    assert "[base] half a line" in said and "[other] half a line" in said
    assert not runner.jobs and all(job.words.closed and job.told.closed for job in working)
    assert [job.process.returncode for job in working] == [-signal.SIGTERM] * 2


def test_a_crash_after_the_entry_is_in_the_book_costs_nothing(tmp_path: Path) -> None:
    made, book = tasks(tmp_path), Book(tmp_path / "book")
    kept = run_task(book, made[0])
    runner = jobs.Runner(book, made[:2], 2)
    for slot, task in enumerate(made[:2]):
        job = begun(runner, task, slot, "import os; os.abort()")
        job.process.wait(30)
    for job, said in runner._listen():
        runner._ended(job, said)
    assert runner.entries == {"pages": kept} and len(runner.failed) == 1
    assert "stage 'base' was ended by SIGABRT" in str(runner.failed[0])


def tasks(tmp_path: Path) -> list[Task]:
    return plan(read_recipe(written(tmp_path, SUMS)), Book(tmp_path / "book"))


def test_threads_are_shared_where_anything_can_run_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert jobs.threads_of(tasks(tmp_path), 2) == {"pages": 8, "base": 4, "other": 4, "more": 4}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set(jobs.threads_of(tasks(tmp_path), 3).values()) == {1}


def test_a_stage_of_several_processes_runs_alone(tmp_path: Path) -> None:
    made = {
        name: Task(name, KINDS["sft"], SftSettings.model_validate({"steps": 1, "parallel": {"shard": ranks}}), id=name)
        for name, ranks in (("wide", 2), ("one", 1), ("two", 1))
    }
    assert [name for name, task in made.items() if jobs.spread(task)] == ["wide"]
    runner = jobs.Runner(Book(tmp_path), list(made.values()), 3)
    beside = {("wide", "one"): False, ("one", "wide"): False, ("one", "two"): True, ("one", "one"): False}
    for (running, new), may in beside.items():
        runner.jobs = [SimpleNamespace(task=made[running])]  # type: ignore[list-item]
        assert runner._room(made[new]) is may
    runner.jobs = []
    assert runner._room(made["wide"])


def test_each_job_has_accelerators_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,GPU-c")
    assert visible_devices() == ["GPU-a", "GPU-b", "GPU-c"]
    shown = [jobs.environment(tasks(tmp_path)[1], slot, 2, 1)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)]
    assert shown == ["GPU-a,GPU-c", "GPU-b"]
    assert [jobs.devices_of(["0", "1"], slot, 3) for slot in (0, 1, 2)] == [["0"], ["1"], ["0"]]
