"""Starts the processes of a stage that needs more than one: torchrun's agent on this machine, one rank for each device.

A stage calls `launch` with its own name and settings; each rank (`herdbook.train.worker`) calls the stage again, now
within the group. When a rank is lost the agent starts all again; they go on from the last checkpoint. On several
machines the same command runs on each (`herdbook.train.machines`), and what they tell each other lies in the stage's
shared folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.files import read_json, write_json
from herdbook.settings import Settings, UserError
from herdbook.train.machines import Machines, machines_of
from herdbook.train.topology import ParallelSettings

POLL_SECONDS = 0.2
GRACE_SECONDS = 120  # to write a checkpoint when asked to stop


def launch(function: str, settings: Settings, parallel: ParallelSettings, **arguments: Any) -> dict[str, Any]:
    """What `function` ("module:name") returns on the first of `parallel.size` ranks, given settings and arguments.

    `arguments` are paths, or lists or mappings of them; `out`, the stage's folder, is among them. Raises UserError when
    the machine has too few devices, or when a rank did.
    """
    import torch

    machines, count = machines_of(parallel), parallel.size // parallel.machines
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices and count * parallel.replica_groups > devices:
        raise UserError(
            f"parallel asks for {count * parallel.replica_groups} processes on each machine, but this one has "
            f"{devices} devices; let data * shard * tensor * context * pipeline * replica_groups be {devices} times "
            f"machines={parallel.machines}"
        )
    with _folder(machines, arguments["out"]) as folder:
        kind = type(settings)
        machines = replace(machines, run=folder.parent.name) if machines.count > 1 else machines
        job = {
            "function": function,
            "settings_class": f"{kind.__module__}:{kind.__qualname__}",
            "settings": settings.model_dump(mode="json"),
            "arguments": {key: as_text(value) for key, value in arguments.items()},
            "machines": asdict(machines),
            "ranks": count,
            "restarts": parallel.restarts,
            "timeout": parallel.timeout,
        }
        if parallel.replica_groups > 1:
            from herdbook.train.groups import run_groups

            return run_groups(parallel, folder, job)
        write_json(folder / "job.json", job)
        return result(folder, _run(count, folder))


def as_text(value: Any) -> Any:
    """Paths, alone or in lists and mappings, as JSON can hold them; `as_paths` is the way back."""
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_text(item) for item in value]
    return None if value is None else str(value)


def as_paths(value: Any) -> Any:
    """What `as_text` made text of."""
    if isinstance(value, dict):
        return {key: as_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_paths(item) for item in value]
    return None if value is None else Path(value)


def follow(out: Path, machines: Machines, done: Callable[[], bool]) -> None:
    """On a machine that is not the first: take part in each launch of the first one below `out`, until `done`."""
    taken: set[Path] = set()
    while not done():
        for job in sorted(set(out.glob(f"**/machines/*/{0:05}/job.json")) - taken):
            taken.add(job)
            folder = job.parent.parent / f"{machines.number:05}"
            try:
                told = read_json(job)
                folder.mkdir()
                here = {**asdict(machines), "run": folder.parent.name}
                write_json(folder / "job.json", {**told, "machines": here})
            except FileNotFoundError:
                continue  # it is over
            code = _run(told["ranks"], folder, lambda job=job: not job.exists())  # type: ignore[misc]
            log("launch_ended", machine=machines.number, exit_code=code)
        time.sleep(POLL_SECONDS)


@contextmanager
def _folder(machines: Machines, out: Path) -> Iterator[Path]:
    """Where ranks and launcher leave word; on several machines each has its own in a new folder that they share."""
    if machines.count == 1:
        with tempfile.TemporaryDirectory(prefix="herdbook-") as name:
            yield Path(name)
        return
    shared = out / "machines"
    shutil.rmtree(shared, ignore_errors=True)  # of an attempt that was killed: machines that wait there go on
    folder = shared / f"{machines.run}-{uuid.uuid4().hex[:8]}" / f"{machines.number:05}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def _run(count: int, folder: Path, over: Callable[[], bool] = lambda: False) -> int:
    """The agent's exit code; a signal to this process is handed on, and waited for while ranks save.

    A user's mistake, which no restart mends, ends all ranks, and so does what the caller calls `over`.
    """
    log("launching", processes=count)
    process = start(folder, count)
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if mistakes(folder) or over():
                    return end(process)
    except BaseException:
        end(process)
        raise


def start(folder: Path, processes: int, **more: str) -> subprocess.Popen[bytes]:
    """An agent that runs the job in a folder; `processes` of this run share the machine's cores."""
    environment = {**os.environ, **more, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE_SECONDS)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    return subprocess.Popen([sys.executable, "-m", "herdbook.train.agent", str(folder)], env=environment)


def end(process: subprocess.Popen[bytes]) -> int:
    """Ask an agent to stop and wait for it; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS + 10)
        except subprocess.TimeoutExpired:
            process.kill()
        except BaseException:  # asked a second time: ranks whose agent is gone end themselves
            process.kill()
            raise
    return process.wait()


def told(folder: Path) -> list[dict[str, Any]]:
    """What ranks of this run, on any machine, left word of; by rank."""
    shared = folder.parent.glob("*/error-*.json") if folder.parent.parent.name == "machines" else ()
    found = {*folder.glob("error-*.json"), *shared}
    return [read_json(path) for path in sorted(found, key=lambda path: path.name)]


def mistakes(folder: Path) -> list[str]:
    """What ranks found wrong that the user can mend, or that no restart does."""
    return [error["message"] for error in told(folder) if error["user"]]


def result(folder: Path, code: int) -> dict[str, Any]:
    """What the ranks of a folder left, when their agent ended with `code`; raises what kept them from it."""
    path = folder / "result.json"
    if code == 0 and path.exists():
        found: dict[str, Any] = read_json(path)
        return found
    for message in mistakes(folder):
        raise UserError(message)
    for error in told(folder):
        raise RuntimeError(f"rank {error['rank']}: {error['traceback']}")
    raise RuntimeError(f"the ranks ended without a result (exit code {code}); run again to go on")
