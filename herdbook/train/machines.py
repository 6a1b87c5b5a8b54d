"""On how many machines a run's processes start, which of them this is, and where they meet.

The recipe says how many (`parallel.machines`); the rest is asked of whoever started the command: our own variables
first, then torchrun's and Kubernetes' (`PET_*`, `MASTER_ADDR`), then Slurm's. Nothing of it is part of an entry's id
but the recipe's own words. Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from herdbook.settings import UserError
from herdbook.train.topology import ParallelSettings

PORT = 29400
MEETING, AGENT = "HERDBOOK_MEETING", "HERDBOOK_AGENT"
"""Where an agent leaves, for its ranks, the place of the store they meet at, and its own process id."""

NUMBERS = ("HERDBOOK_MACHINE", "PET_NODE_RANK", "SLURM_NODEID", "JOB_COMPLETION_INDEX")
ENDPOINTS = ("HERDBOOK_RENDEZVOUS", "PET_RDZV_ENDPOINT")
RUNS = ("HERDBOOK_RUN", "PET_RDZV_ID", "SLURM_JOB_ID")


@dataclass(frozen=True)
class Machines:
    """The machines of one run, as one of them sees them."""

    count: int = 1
    number: int = 0
    """Which one this is; number 0 holds the meeting place and writes the book."""

    endpoint: str = ""
    """host:port of number 0; empty for a run on one machine, which takes any free port."""

    run: str = "run"
    """What tells this run from another at the same place."""

    @property
    def first(self) -> bool:
        """Whether this machine writes what there is one of."""
        return self.number == 0


def machines_of(parallel: ParallelSettings, environment: Mapping[str, str] | None = None) -> Machines:
    """The machines of a run with these settings; UserError when the environment does not tell enough."""
    env = os.environ if environment is None else environment
    if parallel.machines == 1:
        return Machines()
    number = next((env[name] for name in NUMBERS if env.get(name)), None)
    if number is None or not number.isdigit() or int(number) >= parallel.machines:
        raise UserError(
            f"parallel.machines={parallel.machines}, and this machine's number is {number!r}; start the command once "
            f"on each machine with HERDBOOK_MACHINE=0 to {parallel.machines - 1} (Slurm and Kubernetes set theirs)"
        )
    return Machines(parallel.machines, int(number), _endpoint(parallel, env), _run(env))


def machines_of_run(topologies: Iterable[ParallelSettings | None]) -> Machines:
    """The machines of a recipe whose stages have these topologies; all that use several must use as many."""
    several = [one for one in topologies if one is not None and one.machines > 1]
    counts = sorted({one.machines for one in several})
    if len(counts) > 1:
        raise UserError(f"parallel.machines is {' and '.join(map(str, counts))} in one recipe; give all stages as many")
    return machines_of(several[0]) if several else Machines()


def _endpoint(parallel: ParallelSettings, env: Mapping[str, str]) -> str:
    given = next((env[name] for name in ENDPOINTS if env.get(name)), None) or parallel.rendezvous
    if given is None and env.get("MASTER_ADDR"):
        given = f"{env['MASTER_ADDR']}:{env.get('MASTER_PORT', PORT)}"
    if given is None and env.get("SLURM_JOB_NODELIST"):
        given = first_host(env["SLURM_JOB_NODELIST"])
    if given is None:
        raise UserError(
            f"parallel.machines={parallel.machines} needs a place to meet: set parallel.rendezvous or "
            "HERDBOOK_RENDEZVOUS to host:port of the first machine"
        )
    return given if re.search(r":\d+$", given) else f"{given}:{PORT}"


def _run(env: Mapping[str, str]) -> str:
    name = next((env[name] for name in RUNS if env.get(name)), "run")
    step = f"-{env['SLURM_STEP_ID']}" if env.get("SLURM_STEP_ID") else ""
    return re.sub(r"[^\w.-]", "_", name + step)


def first_host(nodes: str) -> str:
    """The first host of Slurm's list: `gpu[007-010,12],b1` begins with gpu007."""
    found = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part for part in found.groups() if part) if found else nodes
