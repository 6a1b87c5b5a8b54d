"""Replica groups as a stage starts them: one is killed, the other goes on, the killed one comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from herdbook.model.transformer import Transformer
from herdbook.train.loop import train
from herdbook.train.metrics import read_metrics
from herdbook.train.objective import NextToken
from tests.support.models import tiny_model
from tests.test_end_to_end import RECIPE, TINY
from tests.train.launched import Launched
from tests.train.support import RandomBatches, tiny_settings

pytestmark = pytest.mark.slow
STEPS = 24


@pytest.fixture(autouse=True)
def torchft() -> None:
    pytest.importorskip("torchft", reason="torchft is not installed (extra: replicas)")


def alone(folder: Path) -> tuple[list[float], Transformer]:
    """The losses of one process that does the same, and its model."""
    settings, model = tiny_settings(steps=STEPS), tiny_model()
    train(model, NextToken(), RandomBatches(settings.rows, settings.length), settings, folder)
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl")], model


def agent_of(run: Launched, group: int) -> int:
    """The process that starts the ranks of a group."""
    (found,) = (
        child.pid
        for child in psutil.Process().children()
        if "herdbook.train.agent" in child.cmdline() and child.cmdline()[-1].endswith(f"group-{group:05}")
    )
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(("shard", "lost", "who"), [(2, 1, "rank"), (1, 0, "agent")])
def test_a_killed_group_leaves_the_other_training_and_comes_back(
    tmp_path: Path, shard: int, lost: int, who: str
) -> None:
    losses, model = alone(tmp_path / "alone")
    parallel = {"replica_groups": 2, "shard": shard}
    run = Launched(tmp_path / "run", "tiny_groups", parallel=parallel, steps=STEPS)
    (run.out / "slow").write_text("0.3")
    first_of = {group: group * shard for group in range(2)}
    other = first_of[1 - lost]
    run.start()
    both = max(run.at_step(0, rank) and run.place(rank)[1] for rank in first_of.values())
    stays, killed = run.at_step(both + 2, other), run.at_step(both + 2, first_of[lost] + shard - 1)
    (run.out / f"hold-{lost}").touch()
    os.kill(killed if who == "rank" else agent_of(run, lost), signal.SIGKILL)
    run.until(lambda: gone(killed))
    at = run.place(other)[1]
    run.at_step(at + 3, other)  # nobody waits for the killed
    (run.out / "slow").write_text("4")  # so that there are steps left for it
    (run.out / f"hold-{lost}").unlink()
    run.until(lambda: run.place(first_of[lost])[1] > at + 3)
    assert run.place(other)[0] == stays
    (run.out / "slow").unlink()
    goodput = run.finish()["goodput"]
    assert goodput["lost_steps"] <= 1
    assert [step for step, _ in run.losses()] == list(range(STEPS))
    torch.testing.assert_close([loss for _, loss in run.losses()], losses, rtol=1e-4, atol=0)
    ones, others = (torch.load(run.out / f"weights-{group}.pt") for group in range(2))
    for name, weight in model.named_parameters():
        assert torch.equal(ones[name], others[name])
        torch.testing.assert_close(ones[name], weight.detach(), rtol=0, atol=1e-3)


def test_a_stage_in_two_groups_writes_one_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "herdbook.cli", "run", str(RECIPE), *TINY, "--book", str(tmp_path / "book")]
    command += ["--only", "base", "base.parallel={replica_groups: 2}", "base.precision=fp32"]
    ran = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "launching groups=2 processes=2" in ran.stderr and "taking_part=2" in ran.stderr, ran.stderr
    (base,) = (tmp_path / "book").glob("base-*")
    entry = json.loads((base / "entry.json").read_text())
    assert entry["metrics"]["steps"] == 12 and (base / "model" / "model.safetensors").is_file()
    assert [record["step"] for record in read_metrics(base / "metrics.jsonl")] == list(range(12))
