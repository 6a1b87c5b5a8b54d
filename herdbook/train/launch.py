"""Starts the processes of a stage that needs more than one: torchrun on this machine, one worker for each device.

A stage calls `launch` with its own name and settings; each worker (`herdbook.train.worker`) calls the stage again, now
within the group. A rank that dies is told by torchrun, which starts all again; they go on from the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.files import read_json, write_json
from herdbook.settings import Settings, UserError
from herdbook.train.topology import ParallelSettings

POLL_SECONDS = 0.5
GRACE_SECONDS = 120.0  # to write a checkpoint when asked to stop


def launch(function: str, settings: Settings, parallel: ParallelSettings, **arguments: Any) -> dict[str, Any]:
    """What `function` ("module:name") returns on the first of `parallel.size` ranks, given settings and arguments.

    Raises UserError when the machine has too few devices, or when a rank did.
    """
    import torch

    count = parallel.size
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices and count > devices:
        raise UserError(
            f"parallel asks for {count} processes, but this machine has {devices} devices; "
            f"let data * shard * tensor * context * pipeline be {devices}, or start the run on more machines"
        )
    with tempfile.TemporaryDirectory(prefix="herdbook-") as name:
        folder = Path(name)
        kind = type(settings)
        job = {
            "function": function,
            "settings_class": f"{kind.__module__}:{kind.__qualname__}",
            "settings": settings.model_dump(mode="json"),
            "arguments": {key: None if value is None else str(value) for key, value in arguments.items()},
        }
        write_json(folder / "job.json", job)
        code = _run(_command(count, parallel.restarts, folder), count, folder)
        return _result(folder, code)


def _command(count: int, restarts: int, folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"),
        *(f"--max-restarts={restarts}", "-m", "herdbook.train.worker", str(folder)),
    ]


def _run(command: list[str], count: int, folder: Path) -> int:
    """torchrun's exit code; a signal to this process is handed on, and waited for while ranks save.

    A user's mistake, which no restart mends, ends all ranks.
    """
    environment = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    log("launching", processes=count)
    process = subprocess.Popen(command, env=environment)
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if mistakes(folder):
                    return _end(process)
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def mistakes(folder: Path) -> list[str]:
    """What ranks found wrong that the user can mend."""
    errors = [read_json(path) for path in sorted(folder.glob("error-*.json"))]
    return [error["message"] for error in errors if error["user"]]


def _result(folder: Path, code: int) -> dict[str, Any]:
    result = folder / "result.json"
    if code == 0 and result.exists():
        found: dict[str, Any] = read_json(result)
        return found
    for message in mistakes(folder):
        raise UserError(message)
    errors = [read_json(path) for path in sorted(folder.glob("error-*.json"))]
    if errors:
        raise RuntimeError("\n".join(f"rank {error['rank']}: {error['traceback']}" for error in errors[:1]))
    raise RuntimeError(f"a rank was killed, and torchrun gave up (exit code {code}); run again to go on")
