"""Faults a run meets: a request to stop, and losses that are not finite or jump.

A stop asked for (Ctrl-C, a scheduler's SIGTERM) is kept until the step is done, so that a checkpoint can be
written first; asked a second time it takes effect at once, but for a rank, whose agent ends it after a while.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from herdbook.console import log
from herdbook.settings import UserError
from herdbook.train import pulse
from herdbook.train.machines import AGENT

RECENT, ENOUGH = 100, 20  # losses that a jump is measured against, at most and at least
SMALLEST_SPREAD = 0.005  # of the mean: a loss that has all but stopped moving makes no jump of every small step
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM is only noted in `signal`."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.of_many = AGENT in os.environ  # such a rank may be told by its scheduler, its agent and the terminal
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self.before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        pulse.asked_to_stop()
        if not self.of_many:
            self._give_back()

    def stop(self, step: int) -> None:
        """End the run as the signal asks; call it when the checkpoint is on disk."""
        assert self.signal is not None
        log("stopped", signal=self.signal.name, step=step, resume="run the same command again")
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)


class Skips:
    """Counts steps that were skipped because loss or gradient was not finite or jumped, and stops when too many are.

    A jump is measured against the losses of the steps before it that were not skipped, which a checkpoint keeps.
    """

    def __init__(
        self,
        limit: int,
        in_a_row: int = 0,
        total: int = 0,
        recent: list[float] | None = None,
        *,
        spike: float | None = None,
    ) -> None:
        self.limit, self.in_a_row, self.total, self.spike = limit, in_a_row, total, spike
        self.recent = list(recent or [])

    @property
    def state(self) -> list[Any]:
        """What a checkpoint keeps."""
        return [self.in_a_row, self.total, self.recent]

    def new_phase(self) -> None:
        """Other data, or longer rows, have other losses: what was usual before is none of theirs."""
        self.recent = []

    def must_skip(self, step: int, loss: float, norm: float, learning_rate: float) -> bool:
        """Whether the step has to be left out; raises UserError at the `limit + 1`-th in a row."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        usual = self._usual()
        if finite and loss <= usual:
            self.in_a_row = 0
            if self.spike is not None:
                self.recent = [*self.recent, loss][-RECENT:]
            return False
        self.in_a_row += 1
        self.total += 1
        if self.in_a_row > self.limit:
            fault = (
                f"above the {usual:.4g} that the steps before allow (spike={self.spike})" if finite else "not finite"
            )
            raise UserError(
                f"step {step}: the loss is {loss:.4g} and the gradient's norm {norm:.4g}, {fault} for the "
                f"{self.in_a_row}. time in a row (max_skipped={self.limit}), with learning rate {learning_rate:.3g}. "
                "Lower peak_lr or clip, lengthen warmup, or use precision=fp32; the last checkpoint is from before it"
            )
        log("step_skipped", step=step, loss=loss, gradient_norm=norm, in_a_row=self.in_a_row)
        return True

    def _usual(self) -> float:
        """The highest loss that is no jump."""
        if self.spike is None or len(self.recent) < ENOUGH:
            return math.inf
        mean = sum(self.recent) / len(self.recent)
        spread = math.sqrt(sum((loss - mean) ** 2 for loss in self.recent) / len(self.recent))
        return mean + self.spike * max(spread, SMALLEST_SPREAD * abs(mean))
