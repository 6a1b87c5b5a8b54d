"""A run killed at random moments ends with the weights of one that was not, and loses steps since a checkpoint only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from herdbook.train.metrics import read_whole

ROOT = Path(__file__).resolve().parents[2]
EVERY = 3


@pytest.mark.parametrize(("kills", "steps"), [(10, 60), pytest.param(100, 320, marks=pytest.mark.slow)])
def test_kills_at_random_leave_the_weights_equal_to_the_last_bit(tmp_path: Path, kills: int, steps: int) -> None:
    command = [sys.executable, "-m", "tests.train.kill_driver", str(tmp_path), str(kills), "1", str(steps), "-q"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["code"] == 0, ran.stderr
    assert told["killed"] == kills, told
    assert len({newest for _, newest in told["kept"]}) >= kills // 3, f"the kills did not meet the run at work: {told}"
    # A save goes on while the next steps are done, and the one after waits for it: two intervals are at stake at most.
    assert all(done - newest < 2 * EVERY + 1 for done, newest in told["kept"]), told
    entries = read_whole(tmp_path / "killed" / "ledger.jsonl")
    lost = [(entry["resumed_at"], entry["steps"]) for entry in entries if entry["event"] == "lost_work"]
    assert {(newest, done - newest) for done, newest in told["kept"] if done > newest} == set(lost)
    undisturbed = torch.load(tmp_path / "undisturbed" / "weights.pt")
    killed = torch.load(tmp_path / "killed" / "weights.pt")
    assert undisturbed.keys() == killed.keys()
    for name, weight in undisturbed.items():
        assert torch.equal(weight, killed[name]), name
    records = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("undisturbed", "killed")]
    losses = [[(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines] for lines in records]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(steps))
