"""Who a machine is among those of a run, as Slurm, Kubernetes or the user tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from herdbook.settings import UserError
from herdbook.train.machines import Machines, first_host, machines_of
from herdbook.train.topology import ParallelSettings
from herdbook.train.worker import count_starts

ENVIRONMENTS: dict[str, tuple[dict[str, str], Machines]] = {
    "ours": (
        {"HERDBOOK_MACHINE": "1", "HERDBOOK_RENDEZVOUS": "a:7000", "SLURM_NODEID": "0", "HERDBOOK_RUN": "x/y"},
        Machines(2, 1, "a:7000", "x_y"),
    ),
    "Slurm": (
        {"SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[07-09],z", "SLURM_JOB_ID": "55", "SLURM_STEP_ID": "0"},
        Machines(2, 1, "gpu07:29400", "55-0"),
    ),
    "Kubeflow": (
        {"PET_NODE_RANK": "0", "PET_RDZV_ENDPOINT": "job-worker-0:23456", "PET_RDZV_ID": "job"},
        Machines(2, 0, "job-worker-0:23456", "job"),
    ),
    "an indexed job": (
        {"JOB_COMPLETION_INDEX": "1", "MASTER_ADDR": "head", "MASTER_PORT": "123"},
        Machines(2, 1, "head:123", "run"),
    ),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_each_way_of_starting_tells_which_machine_this_is(name: str) -> None:
    environment, wanted = ENVIRONMENTS[name]
    assert machines_of(ParallelSettings(data=4, machines=2), environment) == wanted


def test_one_machine_asks_nobody() -> None:
    assert machines_of(ParallelSettings(data=4), {"SLURM_NODEID": "3"}) == Machines()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "number is None; start the command once on each machine with HERDBOOK_MACHINE=0 to 1"),
        ({"HERDBOOK_MACHINE": "2"}, "number is '2'"),
        ({"HERDBOOK_MACHINE": "0"}, "needs a place to meet: set parallel.rendezvous"),
    ],
)
def test_what_the_environment_does_not_tell_is_asked_for(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        machines_of(ParallelSettings(data=4, machines=2), environment)


def test_machines_that_do_not_divide_the_processes_are_told() -> None:
    with pytest.raises(ValueError, match="machines=3 does not divide the 4 processes"):
        ParallelSettings(data=4, machines=3)


@pytest.mark.parametrize(
    ("nodes", "first"), [("n1", "n1"), ("n1,n2", "n1"), ("a[3,5-7]", "a3"), ("a[001-2]-ib,b", "a001-ib")]
)
def test_slurms_lists_begin_with_their_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_starts_are_counted_anew_after_a_checkpoint(tmp_path: Path) -> None:
    def saved(step: int) -> None:
        folder = tmp_path / "out" / "checkpoints" / f"step-{step:08}"
        folder.mkdir(parents=True)
        (folder / ".metadata").touch()

    def start(times: int, **limit: Any) -> None:
        for _ in range(times):
            count_starts(tmp_path, tmp_path / "out", **limit)

    start(3, restarts=2)
    saved(5)
    start(3, restarts=2)
    with pytest.raises(UserError, match=r"lost 3 times with no checkpoint between \(restarts=2\)"):
        start(1, restarts=2)
