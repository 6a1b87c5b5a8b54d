"""A small run over real ranks, started as a stage starts it, in a thread, so that a test can disturb it meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from herdbook.train.launch import launch
from herdbook.train.metrics import read_metrics, read_whole
from herdbook.train.settings import TrainSettings
from tests.train.support import tiny_settings

PATIENCE = 240.0


class Launched:
    """`rank_jobs.tiny` on the ranks of a topology, in `out`."""

    def __init__(self, out: Path, job: str = "tiny", **changes: Any) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.job = out, f"tests.train.rank_jobs:{job}"
        quick: dict[str, Any] = {"parallel": {"shard": 4}, "checkpoint_every": 4, "steps": 16}
        self.settings: TrainSettings = tiny_settings(**{**quick, **changes})
        self.result: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.result = launch(self.job, self.settings, self.settings.parallel, out=self.out)
        except BaseException as error:
            self.error = error

    def start(self) -> Launched:
        self.thread.start()
        return self

    def finish(self) -> dict[str, Any]:
        """The run's figures; raises what `launch` raised."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the run did not end"
        if self.error is not None:
            raise self.error
        return self.result

    def place(self, rank: int) -> tuple[int, int, float]:
        """(pid, step, monotonic clock) of a rank's last batch; (0, -1, 0) before its first."""
        try:
            pid, step, clock = (self.out / f"rank-{rank}.txt").read_text().split()
            return int(pid), int(step), float(clock)
        except (OSError, ValueError):
            return 0, -1, 0.0

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true; the run must not end before."""
        end = time.monotonic() + PATIENCE
        while not true():
            assert self.thread.is_alive() and time.monotonic() < end, f"the run ended before: {self.error}"
            time.sleep(0.01)

    def at_step(self, step: int, rank: int = 0) -> int:
        """Wait until a rank is at a step or beyond; its process id."""
        self.until(lambda: self.place(rank)[1] >= step and psutil.pid_exists(self.place(rank)[0]))
        return self.place(rank)[0]

    def weights(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = torch.load(self.out / "weights.pt")
        return found

    def losses(self) -> list[tuple[int, float]]:
        return [(record["step"], record["loss"]) for record in read_metrics(self.out / "metrics.jsonl")]

    def ledger(self) -> list[dict[str, Any]]:
        return read_whole(self.out / "ledger.jsonl")


def same_weights(one: Launched, other: Launched) -> bool:
    """Whether two runs ended with the same weights, to the last bit."""
    here, there = one.weights(), other.weights()
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
