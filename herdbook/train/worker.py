"""One rank of a stage that `launch` started: joins the group, calls the stage's function, tells what came of it.

Run by torchrun as `-m herdbook.train.worker FOLDER`, where job.json lies.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import torch.distributed as dist

from herdbook import console
from herdbook.files import read_json, write_json
from herdbook.settings import UserError
from herdbook.train.distributed import connect
from herdbook.train.launch import mistakes


def load(name: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def work(folder: Path) -> int:
    """Do the job of a folder; returns the exit code."""
    if mistakes(folder):
        return 1  # a restart does not mend a mistake
    connect()
    rank = dist.get_rank()
    console.err.quiet = console.out.quiet = rank > 0
    job = read_json(folder / "job.json")
    try:
        settings = load(job["settings_class"]).model_validate(job["settings"])
        arguments = {key: None if value is None else Path(value) for key, value in job["arguments"].items()}
        result = load(job["function"])(settings, **arguments)
        if rank == 0:
            write_json(folder / "result.json", result)
        dist.barrier()
    except Exception as error:
        told = {"rank": rank, "user": isinstance(error, UserError), "message": str(error)}
        write_json(folder / f"error-{rank:05}.json", {**told, "traceback": traceback.format_exc()})
        return 1
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
