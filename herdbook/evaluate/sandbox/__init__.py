"""Running programs a model wrote, with their tests, where they can do no harm.

Each program runs in a fresh process of a bare interpreter, one per core at a time, in several layers:

| layer | holds | where |
|---|---|---|
| limits | processor time, memory, file size; a keeper kills when wall time is up | everywhere |
| audit hook | files outside, sockets, processes, callers' frames; not against experts in CPython | everywhere |
| namespaces | no network, read-only mounts, own processes (all end with the first) | Linux, if allowed |
| landlock | reading only Python's library, writing only the program's folder | Linux from 5.13 |
| seccomp | no new processes or threads, no sockets, no signals, no mounts, no ptrace | Linux, x86-64 and ARM |

`layers()` says which hold here. A pass is proven: the runner writes a secret, new for each program, after the last
test returned; ending early, with any exit code, is no pass. What no layer can hold: the program shares a process
with its tests, so an answer that compares equal to everything passes them, here as in every other harness.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herdbook.settings import Settings

WORKER = Path(__file__).with_name("worker.py")
START_SECONDS = 30.0
GRACE_SECONDS = 5.0


class SandboxSettings(Settings):
    seconds: float = 10.0
    """Wall-clock and processor time a program and its tests may take, seconds."""

    memory_mb: int = 512
    """Memory a program may use, megabytes of address space."""

    output_bytes: int = 16384
    """How much of what a program prints is kept, bytes."""

    workers: int | None = None
    """Programs run at the same time; empty for one per free core."""


@dataclass(frozen=True)
class Program:
    """Code a model wrote, and the tests that follow it in the same namespace."""

    code: str
    tests: str


@dataclass(frozen=True)
class Outcome:
    """What became of a program: `reason` is passed, failed, timeout, ended or lost; `detail` says why."""

    passed: bool
    reason: str
    detail: str
    output: str
    seconds: float


class Worker:
    """One sandbox process and the temporary folder it works in."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="herdbook-sandbox-")
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(WORKER), self.folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder.name,
            env={"LANG": "C.UTF-8", "PATH": os.defpath, "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        self.layers = self.read_line(time.monotonic() + START_SECONDS)

    def read_line(self, deadline: float) -> dict[str, Any] | None:
        """The worker's next answer; None when it ended or the deadline passed."""
        assert self.process.stdout is not None
        handle, data = self.process.stdout.fileno(), b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(handle, 1 << 16) if ready else b""
            if not piece:
                return None
            data += piece
        answer: dict[str, Any] = json.loads(data)
        return answer

    def run(self, program: Program, settings: SandboxSettings) -> Outcome | None:
        """Run one program; None when the sandbox itself was lost."""
        assert self.process.stdin is not None
        job = {
            "code": program.code,
            "tests": program.tests,
            "token": secrets.token_hex(16),
            "seconds": settings.seconds,
            "memory_bytes": settings.memory_mb << 20,
            "output_bytes": settings.output_bytes,
        }
        try:
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return None
        answer = self.read_line(time.monotonic() + settings.seconds + GRACE_SECONDS)
        if answer is None:
            return None
        reason = answer["reason"]
        return Outcome(reason == "passed", reason, answer["detail"], answer["output"], answer["seconds"])

    def close(self) -> None:
        """End the worker and everything it started, and remove its folder."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except OSError:
            pass
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass
        self.process.wait()
        self.folder.cleanup()


def layers() -> dict[str, bool]:
    """Which layers of the sandbox hold on this machine."""
    worker = Worker()
    try:
        if worker.layers is None:
            raise RuntimeError(f"the sandbox did not start: {sys.executable} -I -S {WORKER}")
        return dict(worker.layers)
    finally:
        worker.close()


def run_programs(
    programs: Sequence[Program],
    settings: SandboxSettings | None = None,
    done: Callable[[], None] | None = None,
) -> list[Outcome]:
    """What became of each program, in their order; `done` is called after each one."""
    settings = settings or SandboxSettings()
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(programs)):
        waiting.put(index)
    outcomes: list[Outcome | None] = [None] * len(programs)
    failures: list[BaseException] = []

    def work() -> None:
        worker = None
        try:
            while True:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                worker = worker or Worker()
                outcome = worker.run(programs[index], settings) if worker.layers is not None else None
                if outcome is None:
                    worker.close()
                    worker = None
                    outcome = Outcome(False, "lost", "the sandbox process ended", "", 0.0)
                outcomes[index] = outcome
                if done:
                    done()
        except BaseException as error:
            failures.append(error)
        finally:
            if worker:
                worker.close()

    count = min(len(programs), settings.workers or free_cores())
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [outcome for outcome in outcomes if outcome is not None]


def free_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
