"""A rank that is killed in the middle of a run: all start again by themselves, and nothing of the result changes."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.train.launched import Launched, same_weights


@pytest.mark.slow
def test_a_killed_rank_costs_a_restart_and_not_a_bit(tmp_path: Path) -> None:
    whole = Launched(tmp_path / "whole").start()
    whole.finish()
    killed = Launched(tmp_path / "killed")
    (killed.out / "slow").write_text("0.1")
    killed.start()
    os.kill(killed.at_step(10, rank=2), signal.SIGKILL)
    goodput = killed.finish()["goodput"]
    assert same_weights(whole, killed)
    assert killed.losses() == whole.losses() and len(whole.losses()) == 16
    assert goodput["restarts"] == 1 and 1 <= goodput["lost_steps"] <= 3
    assert 0 < goodput["restarting_seconds"] < 60 and goodput["lost_work_seconds"] > 0
    assert [entry["event"] for entry in killed.ledger()] == ["starting", "lost_work", "restarting", "finished"]
    assert whole.result["goodput"]["restarts"] == 0


@pytest.mark.slow
def test_ranks_killed_at_random_cost_restarts_and_not_a_bit(tmp_path: Path) -> None:
    how: dict[str, Any] = {"parallel": {"shard": 2}, "steps": 30, "checkpoint_every": 1}
    whole, killed = (Launched(tmp_path / name, **how) for name in ("whole", "killed"))
    whole.start().finish()
    draw, kills = random.Random(2), 5
    killed.start()
    for kill in range(kills):
        rank, before = draw.randrange(2), killed.place(0)[0]
        victim = killed.at_step(5 * (kill + 1), rank)
        time.sleep(draw.uniform(0, 0.2))  # within a step, or while a checkpoint is saved
        os.kill(victim, signal.SIGKILL)
        killed.until(lambda before=before: killed.place(0)[0] != before)  # type: ignore[misc]
    goodput = killed.finish()["goodput"]
    assert same_weights(whole, killed) and killed.losses() == whole.losses()
    assert goodput["restarts"] == kills and goodput["lost_steps"] <= 2 * kills
