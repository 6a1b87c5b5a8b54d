"""Running a recipe: each stage once, in order; what is in the book already is kept, what was begun is continued.

Ids depend on nothing but ids, so the whole plan is known before the first stage runs.
"""

from __future__ import annotations

import datetime
import errno
import shutil
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from herdbook import console, files
from herdbook.book import Book, Entry, Parent, Source, Workplace, folder_name
from herdbook.energy import Meter
from herdbook.fingerprint import entry_id, plain
from herdbook.machine import code_version, machine
from herdbook.recipe import Recipe
from herdbook.schema import source_paths, suggest
from herdbook.settings import Settings, UserError
from herdbook.stages import StageKind
from herdbook.train.machines import Machines, machines_of_run


class StageFailed(Exception):
    """A stage ended with an error that is not the user's; the message names the log with the traceback."""


class Ended(KeyboardInterrupt):
    """The run was told to end by a signal; `code` is the exit code for it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@dataclass(frozen=True)
class Task:
    """A stage with everything its entry's id depends on."""

    stage: str
    kind: StageKind
    settings: Settings
    inputs: dict[str, list[Parent]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    id: str = ""

    @property
    def name(self) -> str:
        """What its entry will be called."""
        return folder_name(self.stage, self.id)


def make_task(book: Book, stage: str, kind: StageKind, settings: Settings, inputs: dict[str, list[Parent]]) -> Task:
    """A task with its id; reads the contents of the paths among the settings."""
    paths = source_paths(settings)
    contents = {location: book.fingerprints.of(path) for location, path in paths.items()}
    fed: dict[str, Any] = {}
    for name, parents in inputs.items():
        keyed = kind.takes[name].keyed
        fed[name] = {item.stage: item.id for item in parents} if keyed else [item.id for item in parents]
    made = entry_id(kind.name, settings, fed, contents)
    sources = {
        ".".join(map(str, location)): Source(path=str(path), content=contents[location])
        for location, path in paths.items()
    }
    return Task(stage, kind, settings, inputs, sources, made)


def plan(recipe: Recipe, book: Book, only: Iterable[str] = ()) -> list[Task]:
    """The tasks of a recipe in order; with `only`, those stages and the ones they stand on."""
    wanted = chosen(recipe, only)
    ids: dict[str, str] = {}
    tasks = []
    for name, stage in recipe.stages.items():
        if name not in wanted:
            continue
        inputs = {
            key: [Parent(stage=feeder, id=ids[feeder]) for feeder in feeders] for key, feeders in stage.inputs.items()
        }
        task = make_task(book, name, stage.kind, stage.settings, inputs)
        ids[name] = task.id
        tasks.append(task)
    return tasks


def chosen(recipe: Recipe, only: Iterable[str]) -> set[str]:
    """The stages named by `only` and all that they stand on; every stage when none is named."""
    only = list(only)
    if not only:
        return set(recipe.stages)
    for name in only:
        if name not in recipe.stages:
            raise UserError(f"{recipe.path} has no stage {name!r}{suggest(name, recipe.stages)}")
    wanted: set[str] = set()
    left = only
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += [feeder for feeders in recipe.stages[name].inputs.values() for feeder in feeders]
    return wanted


def run_recipe(recipe: Recipe, book: Book, only: Iterable[str] = (), jobs: int = 1) -> dict[str, Entry]:
    """Run what is not in the book yet, at most `jobs` stages side by side; stage name → entry, in order.

    Stages of a run on several machines follow each other, for the machines must agree on which is at work.
    """
    entries: dict[str, Entry] = {}
    with ended_by_signals():
        tasks = plan(recipe, book, only)
        book.fingerprints.save()
        here = machines_of_run([getattr(task.settings, "parallel", None) for task in tasks])
        if jobs > 1 and here.count == 1:
            from herdbook.jobs import run_side_by_side

            return run_side_by_side(book, tasks, jobs)
        before = {} if here.first else attempts(book, tasks)
        for task in tasks:
            entries[task.stage] = run_task(book, task) if here.first else follow_task(book, task, here, before)
    return entries


def attempts(book: Book, tasks: list[Task]) -> dict[str, list[dict[str, Any]]]:
    """What is known by now of earlier attempts at each task."""
    return {task.id: book.workplace(task.kind.name, task.id).earlier() for task in tasks}


def follow_task(book: Book, task: Task, here: Machines, before: dict[str, list[dict[str, Any]]]) -> Entry:
    """On a machine that is not the first: lend it to the task while the first one runs it, and wait for its entry.

    An attempt that was not among those `before` and has ended without an entry is the first machine's failure.
    """
    from herdbook.train.launch import follow

    place = book.workplace(task.kind.name, task.id)
    found: list[Entry] = []

    def done() -> bool:
        entry = book.find(task.id)
        now = place.earlier()
        ended = [item for item in now[-1:] if item.get("seconds") is not None and now != before[task.id]]
        if entry is None and ended:
            raise StageFailed(f"stage {task.stage!r} ended on the first machine; its own words are there")
        found.extend([entry] if entry is not None else [])
        return bool(found)

    console.log("following", stage=task.stage, entry=task.name, machine=here.number)
    follow(place.out, here, done)
    return found[0]


def run_task(book: Book, task: Task) -> Entry:
    """The entry of a task: the one in the book, or what running it now gives."""
    found = book.find(task.id)
    if found is None:
        try:
            place = book.workplace(task.kind.name, task.id)
            with place.locked():
                found = book.find(task.id)  # another run may have published it while this one waited
                if found is None:
                    return _work(book, task, place)
        except OSError as error:
            raise _told_as(error, book, task) from error
    console.log("kept", stage=task.stage, entry=found.name)
    return found


def _work(book: Book, task: Task, place: Workplace) -> Entry:
    function = task.kind.load_function()
    earlier = place.earlier() if place.out.exists() else []
    going_on = task.kind.resumes and place.out.exists()
    place.prepare(task.kind.resumes)
    before = _close_attempts(earlier, place)
    begun, clock = time.time(), time.monotonic()  # the time of day may jump
    files.write_json(place.attempts_file, [*before, {"started": begun, "seconds": None}])
    console.log("continuing" if going_on else "running", stage=task.stage, kind=task.kind.name, entry=task.name)
    meter = Meter().start()
    try:
        metrics = function(task.settings, **_arguments(book, task), out=place.out)
        energy = meter.stop()
        spent = time.monotonic() - clock
        counted = before if task.kind.resumes else []
        started = counted[0]["started"] if counted else begun
        entry = _entry(task, metrics, started, spent + sum(item["seconds"] for item in counted), energy)
        entry = entry.model_copy(update={"attempts": 1 + len(before)})
        place.publish(entry)
    except (KeyboardInterrupt, Exception) as error:
        _note_end(place, before, begun, time.monotonic() - clock)
        if isinstance(error, KeyboardInterrupt):
            raise
        if _received:
            raise Ended(_received[-1]) from error
        raise _failure(error, task, place) from error
    finally:
        meter.ended.set()
    console.log("done", stage=task.stage, entry=entry.name, seconds=round(entry.seconds, 1))
    return entry


def _arguments(book: Book, task: Task) -> dict[str, Any]:
    """The folders that feed a function, by its keywords; inputs that may be left out are None or empty."""
    found: dict[str, Any] = {}
    for name, takes in task.kind.takes.items():
        folders = {parent.stage: _folder(book, parent) / takes.folder for parent in task.inputs.get(name, [])}
        argument = takes.argument or name
        if takes.keyed:
            found[argument] = folders
        elif takes.many:
            found[argument] = list(folders.values())
        else:
            found[argument] = next(iter(folders.values()), None)
    return found


def _folder(book: Book, parent: Parent) -> Path:
    entry = book.find(parent.id)
    if entry is None:
        raise UserError(
            f"the entry {folder_name(parent.stage, parent.id)} was removed from {book.folder} during the run"
        )
    return book.folder_of(entry)


def _entry(task: Task, metrics: Any, started: float, seconds: float, energy: dict[str, Any]) -> Entry:
    return Entry(
        id=task.id,
        kind=task.kind.name,
        stage=task.stage,
        settings=plain(task.settings),
        given=plain(task.settings, only_set=True),
        inputs=task.inputs,
        sources=task.sources,
        code=code_version(),
        machine=machine(),
        started=_clock(started),
        finished=_clock(time.time()),
        seconds=round(seconds, 3),
        energy=energy,
        metrics=_without_nan(metrics),
    )


def _without_nan(value: Any) -> Any:
    """Metrics as JSON can hold them: a figure that is no number stands as null."""
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # a number of numpy or torch
    return None if isinstance(value, float) and value - value != 0 else value


def _clock(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def _close_attempts(earlier: list[dict[str, Any]], place: Workplace) -> list[dict[str, Any]]:
    """Earlier attempts, with the seconds of a killed one taken from the last change it made in its folder."""
    closed = []
    for item in earlier:
        seconds = item.get("seconds")
        if seconds is None:
            seconds = max(0.0, place.newest_change() - item["started"])
        closed.append({"started": item["started"], "seconds": seconds})
    return closed


def _note_end(place: Workplace, before: list[dict[str, Any]], begun: float, seconds: float) -> None:
    try:
        files.write_json(place.attempts_file, [*before, {"started": begun, "seconds": seconds}])
    except OSError:
        pass  # on a full disk there is something better to say


def _failure(error: Exception, task: Task, place: Workplace) -> Exception:
    """What to tell the user about a stage's error; its traceback goes to a file beside the work folder."""
    text = "".join(traceback.format_exception(error))
    try:
        place.error_log.write_text(text, encoding="utf-8")
        log = f"; the traceback is in {place.error_log}"
    except OSError:
        log = ""
    if disk_full(error, place.book.folder):
        return full_disk_error(task.stage, place.book.folder)
    if isinstance(error, UserError):
        return UserError(f"stage {task.stage!r}: {error}")
    said = " ".join(str(error).split())
    said = said if len(said) <= 300 else said[:297] + "…"
    if isinstance(error, MemoryError):
        said = f"not enough memory {said}".strip()
    return StageFailed(f"stage {task.stage!r} failed: {type(error).__name__}: {said}{log}")


def _told_as(error: OSError, book: Book, task: Task) -> Exception:
    """An error of the book's own files, in words."""
    if disk_full(error, book.folder):
        return full_disk_error(task.stage, book.folder)
    return UserError(f"the book {book.folder} can't be written: {error.strerror} ({error.filename})")


def full_disk_error(stage: str, folder: Path) -> StageFailed:
    """The line for a full disk."""
    return StageFailed(
        f"stage {stage!r}: the disk that holds {folder} is full; "
        "make room and run the same command again, finished stages are kept"
    )


def disk_full(error: BaseException | None, folder: Path) -> bool:
    """Whether an error, or one that led to it, comes from a full disk; libraries often keep only the words."""
    seen: set[int] = set()
    at = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, OSError) and at.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(at) or "Disk quota exceeded" in str(at):
            return True
        at = at.__cause__ or at.__context__
    try:
        return shutil.disk_usage(folder).free < 1 << 16
    except OSError:
        return False


_received: list[int] = []


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGHUP raise `Ended`, so that locks are let go and the user is told.

    What was received is kept: a library whose workers got the same Ctrl-C may turn it into an error of its own.
    """

    def end(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        raise Ended(number)

    _received.clear()
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            continue  # as under nohup
        try:
            before[number] = signal.signal(number, end)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            break
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()
