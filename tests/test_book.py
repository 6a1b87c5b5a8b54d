"""Entries are published whole or not at all, found by what made them, and never run twice or overwritten."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook import fingerprint, run
from herdbook.book import Book, Entry
from herdbook.fingerprint import Fingerprints, entry_id
from herdbook.recipe import read_recipe
from herdbook.schema import source_paths
from herdbook.settings import Settings, UserError
from tests.support.fakes import Nested, RawSettings, SlowSettings, Source

RECIPE = """\
stages:
  pages: {kind: fake-raw, seed: 3}
  base: {kind: fake-slow, from: {raw: pages}, steps: 30, seconds: 0.01}
  more: {kind: fake-slow, from: {raw: pages, model: base}, steps: 3}
aims:
  more.total: ">= 5"
"""
EXPECTED = sum(step * step for step in range(30))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which every run of a fake stage is noted."""
    path = tmp_path / "runs.txt"
    path.touch()
    monkeypatch.setenv("HERDBOOK_TEST_RUNS", str(path))
    return path


def run_all(recipe: Path, book: Path, *overrides: str) -> dict[str, Entry]:
    return run.run_recipe(read_recipe(recipe, overrides), Book(book))


def start(recipe: Path, book: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.fakes", "run", str(recipe), "--book", str(book), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def visible(book: Path) -> list[Path]:
    return sorted(item for item in book.iterdir() if not item.name.startswith("."))


def contents(folder: Path) -> dict[str, bytes]:
    """Everything an entry holds but when and how long."""
    return {
        str(item.relative_to(folder)): item.read_bytes()
        for item in sorted(folder.rglob("*"))
        if item.is_file() and item.name != "entry.json"
    }


def test_an_unchanged_stage_is_not_run_again_and_a_changed_one_never_overwrites(
    recipe: Path, tmp_path: Path, runs: Path
) -> None:
    book = tmp_path / "book"
    first = run_all(recipe, book, "base.seconds=0")
    assert first["base"].metrics["total"] == EXPECTED
    before = {folder: contents(folder) for folder in visible(book)}
    assert len(runs.read_text().splitlines()) == 3

    assert run_all(recipe, book, "base.seconds=0") == first
    assert len(runs.read_text().splitlines()) == 3

    changed = run_all(recipe, book, "base.seconds=0", "base.steps=31")
    assert len(runs.read_text().splitlines()) == 5  # base and what stands on it, not pages
    assert changed["pages"] == first["pages"]
    assert {changed["base"].id, changed["more"].id}.isdisjoint({first["base"].id, first["more"].id})
    assert {folder: contents(folder) for folder in before} == before


def test_a_renamed_stage_is_the_same_entry_but_names_count_where_they_are_keys(tmp_path: Path, runs: Path) -> None:
    text = "stages:\n  {0}: {{kind: fake-raw}}\n  sets: {{kind: fake-named, from: {{raws: {0}}}}}\n"
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path, name in zip(paths, ("one", "two")):
        path.write_text(text.format(name))
    first, second = (run_all(path, tmp_path / "book") for path in paths)
    assert first["one"] == second["two"]
    assert first["sets"].id != second["sets"].id
    assert [line.split()[0] for line in runs.read_text().splitlines()] == ["raw"]
    assert (tmp_path / "book" / second["sets"].name / "two").exists()


def test_an_entry_says_what_it_was_made_of(recipe: Path, tmp_path: Path) -> None:
    book = tmp_path / "book"
    source = tmp_path / "source.txt"
    source.write_text("a page")
    entries = run_all(recipe, book, "base.seconds=0", f"pages.sources=[{{path: {source}}}]")
    told = json.loads((book / entries["base"].name / "entry.json").read_text())
    assert told["inputs"] == {"raw": [{"stage": "pages", "id": entries["pages"].id}]}
    assert told["settings"]["optimizer"] == "adamw"
    assert told["given"] == {"steps": 30, "seconds": 0}
    assert told["metrics"]["accuracy"] == {"value": 0.75, "low": 0.7, "high": 0.8, "n": 4}
    assert told["metrics"]["loss"] is None
    assert told["machine"]["cores"] >= 1 and told["code"] and told["seconds"] >= 0 and told["attempts"] == 1
    assert told["energy"]["joules"] >= 0 and ("rapl" in told["energy"]["source"] or "W" in told["energy"]["source"])
    assert entries["pages"].sources["sources.0.path"].path == str(source)


settings_values = st.builds(
    SlowSettings,
    steps=st.integers(0, 3),
    seconds=st.sampled_from([0.0, 0.5]),
    model=st.builds(Nested, width=st.integers(1, 2), depth=st.none() | st.integers(0, 1)),
    mix=st.none() | st.dictionaries(st.sampled_from("ab"), st.sampled_from([0.0, 0.5])),
)


@given(settings_values, settings_values)
def test_ids_are_equal_exactly_when_settings_are(first: SlowSettings, second: SlowSettings) -> None:
    made = [entry_id("k", item, {}, {}) for item in (first, second)]
    assert (made[0] == made[1]) == (first == second)


@given(st.permutations(["steps", "seconds", "model", "mix"]), st.permutations(["x", "y", "z"]))
def test_the_order_of_keys_does_not_matter(order: list[str], names: list[str]) -> None:
    values: dict[str, Any] = {"steps": 4, "seconds": 1.0, "model": Nested(width=3)}
    values["mix"] = {name: ord(name) / 7 for name in names}
    shuffled = SlowSettings(**{key: values[key] for key in order})
    sorted_ = SlowSettings(**{**values, "mix": dict(sorted(values["mix"].items()))})
    assert entry_id("k", shuffled, {}, {}) == entry_id("k", sorted_, {}, {})


def test_kind_inputs_and_contents_change_the_id(tmp_path: Path) -> None:
    settings = SlowSettings(steps=1)
    assert (
        len({entry_id(kind, settings, fed, {}) for kind in "ab" for fed in ({}, {"raw": ["1"]}, {"raw": ["2"]})}) == 6
    )


def test_a_source_counts_by_its_contents_not_by_where_it_lies(tmp_path: Path) -> None:
    prints = Fingerprints()

    def id_of(path: Path) -> str:
        settings = RawSettings(sources=(Source(path=path),))
        return entry_id("k", settings, {}, {where: prints.of(item) for where, item in source_paths(settings).items()})

    for folder in ("here", "there"):
        (tmp_path / folder / "docs" / "__pycache__").mkdir(parents=True)
        (tmp_path / folder / "docs" / "a.txt").write_text("one")
        (tmp_path / folder / "docs" / "__pycache__" / "a.pyc").write_text(folder)
    here, there = tmp_path / "here" / "docs", tmp_path / "there" / "docs"
    assert id_of(here) == id_of(there)
    (there / "a.txt").write_text("two")
    assert id_of(here) != id_of(there)
    (here / "a.txt").rename(here / "b.txt")
    (here / "b.txt").write_text("two")
    assert id_of(here) != id_of(there)


def test_large_files_are_read_once_and_again_when_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_CACHED_FROM", 1)
    path, cache = tmp_path / "big", tmp_path / "cache.json"
    path.write_text("one")
    os.utime(path, (1, 1))
    prints = Fingerprints(cache)
    first = prints.of(path)
    prints.save()
    reads: list[str] = []
    monkeypatch.setattr(fingerprint.hashlib, "file_digest", lambda *_: reads.append("read"))
    assert Fingerprints(cache).of(path) == first and not reads
    monkeypatch.undo()
    path.write_text("two")
    assert Fingerprints(cache).of(path) != first
    cache.write_text("{broken")
    assert Fingerprints(cache).of(tmp_path / "big") != first


def test_settings_of_a_type_without_canonical_form_are_refused() -> None:
    class Odd(Settings):
        what: Any = None

    with pytest.raises(TypeError, match="canonical"):
        entry_id("k", Odd(what=object()), {}, {})
    assert fingerprint.plain(Odd(what={3, 1, 2})) == {"what": [1, 2, 3]}
    assert fingerprint.plain(Odd(what=float("inf"))) == {"what": "inf"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{half"),
        lambda path: path.write_text("{}"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.unlink(),
        lambda path: path.write_text(path.read_text().replace('"id": "', '"id": "ff')),
    ],
)
def test_a_damaged_entry_is_a_clear_error(recipe: Path, tmp_path: Path, damage: Any) -> None:
    book = tmp_path / "book"
    entry = run_all(recipe, book, "base.seconds=0")["base"]
    damage(book / entry.name / "entry.json")
    with pytest.raises(UserError, match=rf"{entry.name}/entry.json is damaged.*run the recipe again"):
        run_all(recipe, book, "base.seconds=0")
    with pytest.raises(UserError, match="is damaged"):
        Book(book).resolve("base")
    assert Book(book).resolve("more").stage == "more"
    good, damaged = Book(book).entries()
    assert len(good) == 2 and list(damaged) == [entry.name]


def test_an_entry_is_called_by_name_id_or_stage_and_the_ambiguous_lists_candidates(
    recipe: Path, tmp_path: Path
) -> None:
    book = Book(tmp_path / "book")
    with pytest.raises(UserError, match="no book"):
        book.resolve("base")
    entries = run_all(recipe, book.folder, "base.seconds=0")
    base = entries["base"]
    for text in ("base", base.name, base.id, base.id[:6], base.name[:-2]):
        assert book.resolve(text) == base
    with pytest.raises(UserError, match=r"(?s)no entry 'bsae'.*base-"):
        book.resolve("bsae")
    with pytest.raises(UserError, match=r"no entry that gives fake-model 'pages'"):
        book.resolve("pages", "fake-model", frozenset({"fake-slow"}))
    other = run_all(recipe, book.folder, "base.seconds=0", "base.steps=2")["base"]
    with pytest.raises(UserError, match="2 entries") as caught:
        book.resolve("base")
    assert base.name in str(caught.value) and other.name in str(caught.value)


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("user", UserError, "stage 'base': there are no documents to train on; loosen the rules"),
        (
            "bug",
            run.StageFailed,
            "stage 'base' failed: ZeroDivisionError: division by zero in the middle; the traceback",
        ),
        ("disk", run.StageFailed, "is full; make room"),
        ("hidden-disk", run.StageFailed, "is full; make room"),
        ("memory", run.StageFailed, "not enough memory"),
        ("interrupt", KeyboardInterrupt, None),
    ],
)
def test_a_failing_stage_publishes_nothing_and_is_gone_on_with(
    recipe: Path,
    tmp_path: Path,
    how: str,
    kind: type[BaseException],
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.support import fakes

    book = tmp_path / "book"

    def refuse(_: str) -> None:
        fail(how)

    fail = fakes._fail
    monkeypatch.setattr(fakes, "make_slow", failing_once(refuse))
    with pytest.raises(kind, match=words):
        run_all(recipe, book, "base.seconds=0")
    assert [item.name[:5] for item in visible(book)] == ["pages"]
    (left,) = Book(book).unfinished()
    assert left.startswith("fake-slow-")
    if how != "interrupt":
        assert "Traceback" in (book / ".work" / f"{left}.error.log").read_text()
    monkeypatch.undo()
    assert run_all(recipe, book, "base.seconds=0")["base"].attempts == 2
    assert Book(book).unfinished() == []
    assert [item.name for item in (book / ".work").iterdir()] == []


def failing_once(fail: Any) -> Any:
    from tests.support import fakes

    original = fakes.make_slow

    def make(settings: SlowSettings, raw: Path, start: Path | None, out: Path) -> dict[str, Any]:
        original(settings.model_copy(update={"steps": settings.steps // 2}), raw, start, out)
        fail("")
        return {}

    return make


def test_a_book_that_can_not_be_written_is_a_clear_error(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        run_all(recipe, tmp_path / "file" / "book")


@pytest.mark.skipif(not Path("/dev/shm").is_dir() or os.geteuid() != 0, reason="needs to mount a small file system")
def test_a_really_full_disk_leaves_nothing_half_published(recipe: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        (disk / "ballast").write_bytes(b"x" * 40_000)
        with pytest.raises(run.StageFailed, match="is full; make room"):
            run_all(recipe, disk / "book", "base.seconds=0")
        for folder in visible(disk / "book"):
            assert (folder / "entry.json").stat().st_size
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert run_all(recipe, disk / "book", "base.seconds=0")["base"].metrics["total"] == EXPECTED
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_runs_on_one_book_run_each_stage_once(recipe: Path, tmp_path: Path, runs: Path) -> None:
    book = tmp_path / "book"
    both = [start(recipe, book, "base.seconds=0.05") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(runs.read_text().splitlines()) == 3
    assert len(visible(book)) == 3
    assert any("waiting work=fake-slow-" in errors and 'held_by="pid ' in errors for _, errors in said)


def test_a_run_killed_ten_times_at_random_goes_on_and_ends_as_the_undisturbed_one(
    recipe: Path, tmp_path: Path, runs: Path
) -> None:
    book, chance = tmp_path / "book", random.Random(7)
    for _ in range(10):
        process = start(recipe, book, "base.seconds=0.1")
        known = runs.read_text().count("slow fake")
        deadline = time.monotonic() + 30
        while runs.read_text().count("slow fake") == known and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
        for folder in visible(book) if book.exists() else ():
            assert json.loads((folder / "entry.json").read_text())["id"][:12] == folder.name[-12:]
    process = start(recipe, book, "base.seconds=0.1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "continuing stage=base" in errors
    ended = next(folder for folder in visible(book) if folder.name.startswith("base-"))
    told = json.loads((ended / "entry.json").read_text())
    assert told["attempts"] == 11
    assert 30 * 0.1 <= told["seconds"] < 30
    calm = tmp_path / "calm"
    assert contents(ended) == contents(calm / run_all(recipe, calm, "base.seconds=0")["base"].name)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_told_to_end_says_how_to_go_on(recipe: Path, tmp_path: Path, runs: Path, number: int, code: int) -> None:
    process = start(recipe, tmp_path / "book", "base.seconds=1")
    while "slow" not in runs.read_text() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert f"herdbook run {recipe} base.seconds=1 --book {tmp_path / 'book'}" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "book" / ".work").glob("*.lock"))


def test_a_signal_that_a_library_turned_into_its_own_error_still_ends_the_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support import fakes

    def swallowing(settings: RawSettings, out: Path, pages: list[Path]) -> dict[str, Any]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException as error:
            raise RuntimeError("a worker has died") from error
        return {}

    monkeypatch.setattr(fakes, "make_raw", swallowing)
    with pytest.raises(run.Ended) as caught:
        run_all(recipe, tmp_path / "book")
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_only_a_stage_that_resumes_finds_what_was_left(recipe: Path, tmp_path: Path) -> None:
    book = Book(tmp_path / "book")
    tasks = run.plan(read_recipe(recipe), book)
    for task in tasks[:2]:
        left = book.workplace(task.kind.name, task.id).out
        left.mkdir(parents=True)
        (left / "step-000028").write_text("1000")
    entries = run_all(recipe, book.folder)
    assert not (book.folder_of(entries["pages"]) / "step-000028").exists()
    assert entries["base"].metrics["total"] == 1000 + 29 * 29


def test_a_source_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone can't be read"):
        Fingerprints().of(tmp_path / "gone")
