"""Starts the processes of a stage that needs more than one: torchrun's agent on this machine, one rank for each device.

A stage calls `launch` with its own name and settings; each rank (`herdbook.train.worker`) calls the stage again, now
within the group. When a rank is lost the agent starts all again; they go on from the last checkpoint. On several
machines the same command runs on each (`herdbook.train.machines`), and what they tell each other lies in the stage's
shared folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
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

    `arguments` are paths; `out`, the stage's folder, is among them. Raises UserError when the machine has too few
    devices, or when a rank did.
    """
    import torch

    machines, count = machines_of(parallel), parallel.size // parallel.machines
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices and count > devices:
        raise UserError(
            f"parallel asks for {count} processes on each machine, but this one has {devices} devices; "
            f"let data * shard * tensor * context * pipeline be {devices} times machines={parallel.machines}"
        )
    with _folder(machines, arguments["out"]) as folder:
        kind = type(settings)
        job = {
            "function": function,
            "settings_class": f"{kind.__module__}:{kind.__qualname__}",
            "settings": settings.model_dump(mode="json"),
            "arguments": {key: None if value is None else str(value) for key, value in arguments.items()},
            "machines": asdict(machines),
            "ranks": count,
            "restarts": parallel.restarts,
            "timeout": parallel.timeout,
        }
        write_json(folder / "job.json", job)
        since = (folder / "job.json").stat().st_mtime
        code = _run(count, folder, since)
        return _result(folder, code, since)


@contextmanager
def _folder(machines: Machines, out: Path) -> Iterator[Path]:
    """Where ranks and launcher leave word; on several machines each has its own in a folder they share."""
    if machines.count == 1:
        with tempfile.TemporaryDirectory(prefix="herdbook-") as name:
            yield Path(name)
        return
    folder = out / "machines" / machines.run / f"{machines.number:05}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    yield folder


def _run(count: int, folder: Path, since: float) -> int:
    """The agent's exit code; a signal to this process is handed on, and waited for while ranks save.

    A user's mistake, which no restart mends, ends all ranks.
    """
    environment = {**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE_SECONDS)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    log("launching", processes=count)
    process = subprocess.Popen([sys.executable, "-m", "herdbook.train.agent", str(folder)], env=environment)
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if mistakes(folder, since):
                    return _end(process)
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS + 10)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def told(folder: Path, since: float) -> list[dict[str, Any]]:
    """What ranks of this run, on any machine, left word of since a time of the files' clock; by rank."""
    shared = folder.parent.glob("*/error-*.json") if folder.parent.parent.name == "machines" else ()
    found = {*folder.glob("error-*.json"), *shared}
    recent = [path for path in found if path.stat().st_mtime >= since]
    return [read_json(path) for path in sorted(recent, key=lambda path: path.name)]


def mistakes(folder: Path, since: float) -> list[str]:
    """What ranks found wrong that the user can mend, or that no restart does."""
    return [error["message"] for error in told(folder, since) if error["user"]]


def _result(folder: Path, code: int, since: float) -> dict[str, Any]:
    result = folder / "result.json"
    if code == 0 and result.exists():
        found: dict[str, Any] = read_json(result)
        return found
    for message in mistakes(folder, since):
        raise UserError(message)
    for error in told(folder, since):
        raise RuntimeError(f"rank {error['rank']}: {error['traceback']}")
    raise RuntimeError(f"the ranks ended without a result (exit code {code}); run again to go on")
