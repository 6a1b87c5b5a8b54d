"""One rank of a stage that `launch` started: joins the group, calls the stage's function, tells what came of it.

Forked by the agent of its machine (`herdbook.train.agent`) with the folder where job.json lies. Ranks are started again
when one is lost, until they have been `restarts` times in a row without a checkpoint between.
"""

from __future__ import annotations

import datetime
import os
import socket
import sys
import traceback
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any

from herdbook import console
from herdbook.files import read_json, write_json
from herdbook.settings import UserError
from herdbook.train import pulse, replicas, versions
from herdbook.train.launch import as_paths, mistakes
from herdbook.train.machines import MEETING


def load(name: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def rank(folder: str) -> None:
    """A rank's whole life, as the agent calls it; the exit code says whether it did its job."""
    code = work(Path(folder))
    if code:
        sys.exit(code)


def work(folder: Path) -> int:
    """Do the job of a folder; returns the exit code."""
    import torch.distributed as dist

    from herdbook.train.distributed import connect

    job = read_json(folder / "job.json")
    number = int(os.environ["RANK"])
    console.err.quiet = console.out.quiet = number > 0 or int(os.environ.get(replicas.GROUP, 0)) > 0
    try:
        if mistakes(folder):
            return 1  # a restart does not mend a mistake
        if os.environ["LOCAL_RANK"] == "0":
            count_starts(folder, Path(job["arguments"]["out"]), job["restarts"])
        connect()
        settle(job, number, folder)
        settings = load(job["settings_class"]).model_validate(job["settings"])
        result = load(job["function"])(settings, **as_paths(job["arguments"]))
        told = [result]
        dist.broadcast_object_list(told, src=0)
        if os.environ["LOCAL_RANK"] == "0" and replicas.leads():
            write_json(folder / "result.json", told[0])
        dist.barrier()
    except Exception as error:
        said = {"rank": number, "user": isinstance(error, UserError), "message": str(error)}
        write_json(folder / f"error-{number:05}.json", {**said, "traceback": traceback.format_exc()})
        return 1
    dist.destroy_process_group()
    return 0


def settle(job: dict[str, Any], number: int, folder: Path) -> None:
    """Compare what all ranks run, and begin this one's pulse; UserError names ranks that run something else."""
    import torch.distributed as dist

    here = {**versions.mine(job), "host": socket.gethostname()}
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, here)
    versions.check(everyones)
    start = [f"{job['machines']['run']}-{uuid.uuid4().hex[:8]}"]  # the beats of one start of the ranks
    dist.broadcast_object_list(start, src=0)
    host, _, port = os.environ[MEETING].rpartition(":")
    wait = datetime.timedelta(seconds=60)
    store = dist.PrefixStore(f"pulse/{start[0]}", dist.TCPStore(host, int(port), is_master=False, timeout=wait))
    hangs = Path(job["arguments"]["out"]) / "hangs" / start[0]
    pulse.start(store, number, dist.get_world_size(), job["timeout"], hangs)


def count_starts(folder: Path, out: Path, restarts: int) -> None:
    """UserError when ranks were started `restarts + 1` times with no new checkpoint in the stage's folder `out`."""
    path = folder / "starts.json"
    saved = sorted(str(mark.parent.relative_to(out)) for mark in out.rglob("checkpoints/step-*/.metadata"))
    before: dict[str, Any] = read_json(path) if path.exists() else {"saved": None, "starts": 0}
    starts = before["starts"] + 1 if before["saved"] == saved else 1
    if starts > restarts + 1:
        errors = [read_json(error) for error in sorted(folder.glob("error-*.json"))]
        last = f"; rank {errors[0]['rank']} said: {errors[0]['traceback']}" if errors else ""
        raise UserError(
            f"the ranks were lost {starts - 1} times with no checkpoint between (restarts={restarts}){last}\n"
            "Run again to go on from the last one"
        )
    write_json(path, {"saved": saved, "starts": starts})
