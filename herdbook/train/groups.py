"""The replica groups of a run, seen from the command that starts them: a lighthouse, and an agent for each group.

Groups find each other at the lighthouse (torchft's), which lives in the command's own process and so as long as the
run. A rank that is lost is started again by its group's agent, an agent that is lost by the command; neither disturbs
the other groups. The run is over when all groups have ended; what it returns is told by the one that led at the end.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.files import write_json
from herdbook.train.launch import POLL_SECONDS, end, mistakes, result, start
from herdbook.train.replicas import GROUP, LIGHTHOUSE, missing
from herdbook.train.topology import ParallelSettings

SILENCE_MS = 5000  # without a heartbeat, after which a group counts as gone
RESTARTS = 100  # of one agent; how often ranks may be lost is judged by checkpoints, as without groups


def run_groups(parallel: ParallelSettings, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What `launch` returns, of a job that every group does; `folder` is the run's own.

    Raises UserError without torchft, and what a group's ranks raised when none came to the end.
    """
    with lighthouse(parallel) as address:
        groups = [Group(number, parallel, folder, job, address) for number in range(parallel.replica_groups)]
        log("launching", groups=len(groups), processes=parallel.processes)
        try:
            for group in groups:
                group.start()
            while any(group.code is None for group in groups):
                time.sleep(POLL_SECONDS)
                for group in groups:
                    group.watch()
        except BaseException:
            for group in groups:
                group.ask_to_stop()
            for group in groups:
                end(group.process)
            raise
    done = [group for group in groups if group.code == 0 and (group.folder / "result.json").exists()]
    failed = [group for group in groups if group.code]
    for group in done or failed:
        return result(group.folder, group.code or 0)
    raise RuntimeError("no replica group led at the end; run again to go on")


@contextmanager
def lighthouse(parallel: ParallelSettings) -> Iterator[str]:
    """A lighthouse while the block runs; its address."""
    os.environ.setdefault("RUST_LOG", "error")  # torchft would tell of every step
    try:
        from torchft.coordination import LighthouseServer
    except ImportError as error:
        raise missing(error) from None
    server = LighthouseServer(
        bind="[::]:0",
        min_replicas=parallel.least_groups,
        join_timeout_ms=int(parallel.group_timeout * 1000),
        heartbeat_timeout_ms=SILENCE_MS,
    )
    try:
        yield f"http://localhost:{server.address().rpartition(':')[2]}"
    finally:
        server.shutdown()


class Group:
    """One group: its folder, its agent, and how often that was started."""

    def __init__(
        self, number: int, parallel: ParallelSettings, folder: Path, job: dict[str, Any], address: str
    ) -> None:
        self.number, self.parallel = number, parallel
        self.folder = folder / f"group-{number:05}"
        self.folder.mkdir()
        write_json(self.folder / "job.json", job)
        self.environment = {GROUP: str(number), LIGHTHOUSE: address, **_devices(number, parallel.size)}
        self.starts = 0
        self.code: int | None = None
        """The agent's exit code, once it is not started again."""

    def start(self) -> None:
        """Start its agent."""
        self.starts += 1
        self.process: subprocess.Popen[bytes] = start(self.folder, self.parallel.processes, **self.environment)

    def watch(self) -> None:
        """See how its agent is: one that was lost is started again; one whose ranks found a mistake is ended."""
        if self.code is not None:
            return
        if mistakes(self.folder):
            self.code = end(self.process) or 1
            log("group_ended", group=self.number, why=mistakes(self.folder)[0])
        elif self.process.poll() is not None:
            if self.process.returncode >= 0 or self.starts > RESTARTS:
                self.code = self.process.returncode
                return
            log("group_lost", group=self.number, exit_code=self.process.returncode, next="it starts again")
            self.start()

    def ask_to_stop(self) -> None:
        """Ask its agent to stop, without waiting for it."""
        if self.process.poll() is None:
            self.process.terminate()


def _devices(number: int, size: int) -> dict[str, str]:
    """The accelerators of a group, where the machine has some: each group's ranks count theirs from 0."""
    import torch

    if not torch.cuda.is_available():
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return {"CUDA_VISIBLE_DEVICES": ",".join(given.split(",")[number * size : (number + 1) * size])}
