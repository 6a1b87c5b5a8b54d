"""A rank that is killed in the middle of a run: all start again by themselves, and nothing of the result changes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

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
