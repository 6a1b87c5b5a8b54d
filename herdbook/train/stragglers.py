"""Which ranks are slow by themselves (§3.3.4): one that is holds all the others up, and their steps look as long.

Every some steps the ranks compare the seconds they worked, waits for other ranks left out (`pulse` samples them). On an
accelerator that is the host's work and data; a device that computes slowly shows only where the host waits for it.
"""

from __future__ import annotations

import socket
import statistics
from typing import Any

from herdbook.console import log
from herdbook.train import pulse
from herdbook.train.topology import ParallelSettings

SHOWN = 8
LEAST_SECONDS = 0.5  # of the slowest rank's work, or a few samples would make a ranking


class Ranking:
    """Compares the ranks as the settings say; nothing where there is one process, or no pulse."""

    def __init__(self, ranks: Any, settings: ParallelSettings) -> None:
        self.ranks, self.every, self.limit = ranks, settings.rank_every, settings.straggler
        self.since = 0

    def after(self, step: int) -> dict[str, Any]:
        """Figures for the record after `step` steps, on every rank; empty when no comparison is due.

        `slowest_ranks` has [rank, seconds of its own work a step], the slowest first; `straggling` is the first's
        seconds over those of the middle rank.
        """
        self.since += 1
        if self.ranks is None or not self.every or step % self.every:
            return {}
        steps, self.since = self.since, 0
        told = self.ranks.gathered((pulse.own_seconds(), socket.gethostname()))
        if any(seconds is None for seconds, _ in told):
            return {}
        seconds = [own for own, _ in told]
        order = sorted(range(len(seconds)), key=lambda rank: -seconds[rank])
        slowest, middle = order[0], statistics.median(seconds)
        ratio = seconds[slowest] / max(middle, pulse.SAMPLE_SECONDS)
        if ratio > self.limit and seconds[slowest] >= LEAST_SECONDS:
            log(
                "straggler", rank=slowest, host=told[slowest][1], times_the_middle=ratio,
                seconds_a_step=seconds[slowest] / steps, others=middle / steps, step=step,
            )  # fmt: skip
        return {
            "slowest_ranks": [[rank, round(seconds[rank] / steps, 4)] for rank in order[:SHOWN]],
            "straggling": ratio,
        }
