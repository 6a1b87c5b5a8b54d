"""A run killed ten times at random moments ends with the weights of one that was not, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def test_ten_kills_at_random_leave_the_weights_equal_to_the_last_bit(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.train.kill_driver", str(tmp_path), "10", "1", "-q"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["code"] == 0, ran.stderr
    assert told["killed"] == 10
    assert len(set(told["resumed_from"])) >= 3, f"the kills did not meet the run at work: {told}"
    undisturbed = torch.load(tmp_path / "undisturbed" / "weights.pt")
    killed = torch.load(tmp_path / "killed" / "weights.pt")
    assert undisturbed.keys() == killed.keys()
    for name, weight in undisturbed.items():
        assert torch.equal(weight, killed[name]), name
    records = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("undisturbed", "killed")]
    losses = [[(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines] for lines in records]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(60))
