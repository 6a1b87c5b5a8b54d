"""A rank's sign of life: a thread beside the training that tells other ranks where it is, and watches that it goes on.

Each beat (step, stage, process) goes to the store where agents meet. A rank that has stood still for `timeout` seconds
looks at the others' beats with `hang.judge`: who gave none is stopped, who has not come to a collective that others
wait in holds them up. One rank says so in a line; all end themselves, and kill who is stopped on their machine, so that
the agent starts all again. The same thread samples how much of a step a rank works, and how much it waits for others.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from herdbook.train.hang import Verdict, arrivals, dump, judge, tell
from herdbook.train.machines import AGENT

BEAT_SECONDS = 1.0
SAMPLE_SECONDS = 0.05
PATIENT = ("validating", "checkpointing", "meeting")
"""Stages that may take `PATIENCE` times as long: they measure or write everything, or wait for groups that do."""

PATIENCE = 3.0
STARTING_SECONDS = 1800.0
"""How long a start may take at least: building and reading a large model tells of no progress."""

WORK = ("data", "forward", "backward", "optimizer")
"""Stages in which a rank works for the step."""

GIVE_UP_SECONDS = 5.0
"""How long a rank that was asked to stop stands still before it looks whether anybody is left to go on with."""

WAITS = ("distributed_c10d.py", "_functional_collectives.py")
"""Where Python stands while a collective waits for other ranks."""

_current: Pulse | None = None


def mark(stage: str, step: int | None = None) -> None:
    """This rank begins a stage of its step; costs nothing where no pulse was started."""
    if _current is not None:
        _current.mark(stage, step)


def asked_to_stop() -> None:
    """This rank got a signal and goes on to the end of its step."""
    if _current is not None:
        _current.stopping = True


def own_seconds() -> float | None:
    """Seconds this rank has worked for its steps since it was last asked, waits for others left out."""
    return _current.own_seconds() if _current is not None else None


def start(store: Any, rank: int, size: int, timeout: float, folder: Path) -> None:
    """Begin the pulse of this process; `folder` is where a hang leaves its records. Once in a process."""
    global _current
    _current = Pulse(store, rank, size, timeout, folder)


class Pulse:
    """The thread and what it knows."""

    def __init__(self, store: Any, rank: int, size: int, timeout: float, folder: Path) -> None:
        self.store, self.rank, self.size, self.timeout, self.folder = store, rank, size, timeout, folder
        self.step, self.stage, self.count, self.beats = -1, "starting", 0, 0
        self.marked = time.monotonic()
        self.stopping = False
        self.work = self.samples = 0
        self.main = threading.main_thread().ident
        self.agent = int(os.environ.get(AGENT, 0))
        process = psutil.Process()
        self.fixed = {"pid": process.pid, "born": process.create_time(), "host": socket.gethostname()}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._live, name="pulse", daemon=True)
        self.thread.start()

    def mark(self, stage: str, step: int | None = None) -> None:
        """A stage begins."""
        if step is not None:
            self.step = step
        self.stage, self.count, self.marked = stage, self.count + 1, time.monotonic()

    def stop(self) -> None:
        """No further beats."""
        self.ended.set()
        self.thread.join()

    def own_seconds(self) -> float:
        """Seconds of work since it was last asked."""
        work, self.work = self.work, 0
        return work * SAMPLE_SECONDS

    def _live(self) -> None:
        next_beat = time.monotonic()
        while not self.ended.wait(SAMPLE_SECONDS):
            self._sample()
            if time.monotonic() < next_beat:
                continue
            next_beat = time.monotonic() + BEAT_SECONDS
            if self.agent and not psutil.pid_exists(self.agent):
                os._exit(1)  # nobody would start this rank again, or stop it, and another run may begin here
            try:
                self._watch()
            except RuntimeError:  # the store's errors; it lives in the first machine's agent, which ends us all
                continue

    def _sample(self) -> None:
        """Count a moment as work unless the training stands in a collective."""
        if self.stage not in WORK:
            return
        frame: Any = sys._current_frames().get(self.main or 0)
        for _ in range(3):
            if frame is None:
                break
            if frame.f_code.co_filename.endswith(WAITS):
                return
            frame = frame.f_back
        self.work += 1

    def _watch(self) -> None:
        still = time.monotonic() - self.marked
        limit = self.timeout * (PATIENCE if self.stage in PATIENT else 1)
        stalled = still > (max(limit, STARTING_SECONDS) if self.stage == "starting" else limit)
        self._beat(stalled)
        if self.store.check(["verdict"]):
            if still > BEAT_SECONDS:
                self._end(Verdict(**json.loads(self.store.get("verdict"))))
        elif stalled:
            dump(self.folder, self.rank)
            if self.store.compare_set("judge", "", str(self.rank)) == str(self.rank).encode():
                self._judge(still)
        elif self.stopping and still > GIVE_UP_SECONDS and self._two_looks(3).silent():
            os._exit(1)

    def _beat(self, stalled: bool) -> None:
        self.beats += 1
        told = {"beat": self.beats, "count": self.count, "step": self.step, "stage": self.stage, **self.fixed}
        if stalled:
            told["arrived"] = arrivals()
        self.store.set(f"beat/{self.rank}", json.dumps(told))

    def _two_looks(self, beats: int) -> Looks:
        before = self._look()
        for _ in range(beats):
            time.sleep(BEAT_SECONDS)
            self._beat(True)
        return Looks(before, self._look(), self.size)

    def _look(self) -> dict[int, dict[str, Any]]:
        """Every rank's last beat, of those that gave one."""
        keys = {rank: f"beat/{rank}" for rank in range(self.size)}
        return {rank: json.loads(self.store.get(key)) for rank, key in keys.items() if self.store.check([key])}

    def _judge(self, still: float) -> None:
        looks = self._two_looks(4)
        verdict = judge(looks.after, looks.silent(), still)
        tell(verdict, self.folder, self.rank)
        self.store.set("verdict", json.dumps(verdict.__dict__))

    def _end(self, verdict: Verdict) -> None:
        """Kill who is stopped on this machine, for torchrun would wait half a minute for it, and end."""
        for pid, born, host in verdict.stopped:
            try:
                if host == self.fixed["host"] and psutil.Process(pid).create_time() == born:
                    psutil.Process(pid).kill()
            except psutil.NoSuchProcess:
                pass
        dist.distributed_c10d.logger.disabled = True
        os._exit(1)


class Looks:
    """Two looks at all ranks' beats, some beats apart."""

    def __init__(self, before: dict[int, Any], after: dict[int, Any], size: int) -> None:
        self.before, self.after, self.size = before, after, size

    def silent(self) -> list[int]:
        """Ranks that gave no beat between."""
        return [
            rank
            for rank in range(self.size)
            if rank not in self.after or self.after[rank]["beat"] == self.before.get(rank, {}).get("beat")
        ]
