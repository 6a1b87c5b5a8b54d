"""Stages side by side (`herdbook run --jobs N`): those that don't stand on each other run at once, one process each.

A process is a fresh interpreter that is handed one task and runs it as a lone run would, lock and all. Forking the
runner would be faster, but a parent whose libraries (Daft, tokenizers, torch) have threads must not fork. The processes
are in groups of their own, so that a Ctrl-C reaches them once, by way of the runner; and they hold a pipe to it, whose
end tells them that the runner was killed.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from herdbook import console
from herdbook.book import Book, Entry
from herdbook.inference.layout import Layout
from herdbook.run import Ended, StageFailed, Task, ended_by_signals, run_task
from herdbook.settings import Settings, UserError
from herdbook.train.devices import available_threads, visible_devices
from herdbook.train.topology import ParallelSettings

LOOK_SECONDS = 0.05
"""How long the runner waits for words of its processes before it looks whether one has ended."""


@dataclass
class Job:
    """One stage at work in a process of its own."""

    task: Task
    slot: int
    process: subprocess.Popen[bytes]
    words: BinaryIO
    """What the process prints."""

    told: BinaryIO
    """Where it says why it failed: JSON with `user` (whether it is the user's mistake) and `text`."""

    line: bytes = b""
    """The line it has not ended yet."""


@dataclass
class Runner:
    """Runs tasks in at most `count` processes at a time; `run` gives their entries."""

    book: Book
    tasks: Sequence[Task]
    count: int
    entries: dict[str, Entry] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.threads = threads_of(self.tasks, self.count)
        self.selector = selectors.DefaultSelector()

    def run(self) -> dict[str, Entry]:
        """Stage → entry, in the order of the tasks, whichever ended first.

        After a failure nothing new begins, and what runs goes on to its end. A signal is passed on to all.
        """
        waiting = list(self.tasks)
        try:
            while True:
                if not self.failed:
                    waiting = self._begin(waiting)
                if not self.jobs:
                    break
                for job, said in self._listen():
                    self._ended(job, said)
        except BaseException as error:
            self._stop(error.code - 128 if isinstance(error, Ended) else signal.SIGTERM)
            raise
        finally:
            self.selector.close()
        if self.failed:
            raise self.failed[0]
        return {task.stage: self.entries[task.stage] for task in self.tasks}

    def _begin(self, waiting: list[Task]) -> list[Task]:
        """Begin, in the recipe's order, what can be; returns what cannot yet."""
        left = []
        for task in waiting:
            fed = all(parent.stage in self.entries for parents in task.inputs.values() for parent in parents)
            kept = self.book.find(task.id) if fed else None
            if kept is not None:
                console.log("kept", stage=task.stage, entry=kept.name)
                self.entries[task.stage] = kept
            elif fed and self._room(task):
                self._start(task)
            else:
                left.append(task)
        return left if len(left) == len(waiting) else self._begin(left)

    def _room(self, task: Task) -> bool:
        running = [job.task for job in self.jobs]
        if any(other.id == task.id for other in running):
            return False  # the same under another name: it will be in the book
        return not running or (len(running) < self.count and not any(map(spread, [task, *running])))

    def _start(self, task: Task) -> None:
        slot = min(set(range(self.count)) - {job.slot for job in self.jobs})
        (heard, words), (hears, told) = os.pipe(), os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "herdbook.jobs", str(told)],
                stdin=subprocess.PIPE,
                stdout=words,
                stderr=words,
                pass_fds=(told,),
                process_group=0,
                env=environment(task, slot, self.count, self.threads[task.stage]),
            )
        finally:
            os.close(words)
            os.close(told)
        job = Job(task, slot, process, os.fdopen(heard, "rb", 0), os.fdopen(hears, "rb", 0))
        self.jobs.append(job)
        os.set_blocking(heard, False)
        self.selector.register(job.words, selectors.EVENT_READ, job)
        assert process.stdin is not None
        try:
            process.stdin.write(pickle.dumps((self.book.folder, task)))
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already, which will be seen

    def _listen(self) -> list[tuple[Job, bytes | None]]:
        """Pass on what the processes say for a moment; those that have ended, each with why it failed."""
        for key, _ in self.selector.select(LOOK_SECONDS):
            if not self._pass_on(key.data):
                self.selector.unregister(key.fileobj)
        return [(job, self._let_go(job)) for job in list(self.jobs) if job.process.poll() is not None]

    def _pass_on(self, job: Job) -> bool:
        """Print what a process has said, line by line, with its stage before it; False when it has said all."""
        while True:
            try:
                said = job.words.read(1 << 16)
            except ValueError:
                return False
            if not said:
                return said is None
            *lines, job.line = (job.line + said).split(b"\n")
            for line in lines:
                self._print(job, line)

    def _print(self, job: Job, line: bytes) -> None:
        console.err.print(f"[{job.task.stage}] {line.decode(errors='replace')}", markup=False)

    def _let_go(self, job: Job) -> bytes | None:
        """Print the last words of a process that has ended, and close its pipes; what it said of its failure."""
        self._pass_on(job)
        if job.line:
            self._print(job, job.line)
        self.jobs.remove(job)
        if job.words in self.selector.get_map():
            self.selector.unregister(job.words)
        os.set_blocking(job.told.fileno(), False)
        said = job.told.read()
        for pipe in (job.words, job.told, job.process.stdin):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        return said

    def _ended(self, job: Job, said: bytes | None) -> None:
        # What is in the book is whole, even where a library crashed while its process was going home.
        entry = self.book.find(job.task.id)
        if entry is not None:
            self.entries[job.task.stage] = entry
            return
        error = failure(job.task.stage, job.process.returncode, said)
        self.failed.append(error)
        if self.jobs:
            others = ", ".join(other.task.stage for other in self.jobs)
            console.err.print(f"herdbook: {error}\nherdbook: to their end go on: {others}", markup=False)

    def _stop(self, number: int) -> None:
        """Tell all processes to end, as a lone run would be told, and wait until they have."""
        for job in self.jobs:
            if job.process.poll() is None:
                job.process.send_signal(number)
        while self.jobs:
            self._listen()


def run_side_by_side(book: Book, tasks: Sequence[Task], count: int) -> dict[str, Entry]:
    """Run tasks, given in an order in which what feeds a task stands before it, `count` at a time; stage → entry.

    Raises what the first stage that failed raised: UserError or StageFailed.
    """
    return Runner(book, tasks, count).run()


def failure(stage: str, code: int, said: bytes | None) -> Exception:
    """What a process that ended without an entry died of."""
    if said:
        told = json.loads(said)
        return UserError(told["text"]) if told["user"] else StageFailed(told["text"])
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    memory = ", perhaps for want of memory: try fewer jobs" if code == -signal.SIGKILL else ""
    return StageFailed(f"the process of stage {stage!r} {how}{memory}; the same command goes on where it was")


def spread(task: Task) -> bool:
    """Whether a task starts several processes, which then have the machine to themselves."""
    return any(
        (isinstance(item, ParallelSettings) and item.processes > 1) or (isinstance(item, Layout) and item.ranks > 1)
        for item in _nested(task.settings)
    )


def _nested(settings: Settings) -> Iterator[Settings]:
    yield settings
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _nested(value)


def threads_of(tasks: Sequence[Task], count: int) -> dict[str, int]:
    """Stage → its threads: all where every other stage stands on it or before it, else an even part.

    It follows from the recipe and not from who happens to run beside, since sums depend on it in their last bits.
    """
    whole = available_threads()
    before: dict[str, set[str]] = {}
    for task in tasks:
        parents = {parent.stage for parents in task.inputs.values() for parent in parents}
        before[task.stage] = parents.union(*(before[parent] for parent in parents))
    after: dict[str, int] = dict.fromkeys(before, 0)
    for above in before.values():
        for stage in above:
            after[stage] += 1
    alone = {
        task.stage for task in tasks if spread(task) or len(before[task.stage]) + after[task.stage] + 1 == len(tasks)
    }
    return {stage: whole if stage in alone else max(1, whole // count) for stage in before}


def environment(task: Task, slot: int, count: int, threads: int) -> dict[str, str]:
    """What the process in a slot finds: its threads, and its accelerators where there are several."""
    found = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    devices = visible_devices()
    named = any(re.search(r":\d", str(getattr(item, "device", ""))) for item in _nested(task.settings))
    if len(devices) > 1 and not spread(task) and not named:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(devices_of(devices, slot, count))
    return found


def devices_of(devices: Sequence[str], slot: int, count: int) -> list[str]:
    """The accelerators of a slot: every `count`th one; where there are more slots than devices they share."""
    return list(devices[slot::count]) or [devices[slot % len(devices)]]


def _end_with_runner() -> None:
    """Wait until the runner lets go of its pipe, which it does when it dies, and end as if told to."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Iterable[str]) -> int:
    """The process of one stage: the task comes by standard input; returns the exit code."""
    told = int(next(iter(arguments)))
    os.set_inheritable(told, False)
    folder, task = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_runner, name="runner", daemon=True).start()
    said: dict[str, Any]
    try:
        with ended_by_signals():
            run_task(Book(folder), task)
        return 0
    except (UserError, StageFailed) as error:
        said = {"user": isinstance(error, UserError), "text": str(error)}
    except KeyboardInterrupt as error:
        return error.code if isinstance(error, Ended) else 130
    os.write(told, json.dumps(said).encode())
    return 2 if said["user"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
