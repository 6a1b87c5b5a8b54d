"""Trains a tiny model undisturbed, and once more with SIGKILLs at random moments across two phase borders.

Prints what came of it as JSON. A process of its own that imports torch once, uses none of it, and forks each
attempt: quick, and safe to fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import torch.distributed.checkpoint

from herdbook.train.loop import train
from herdbook.train.objective import NextToken
from tests.support.models import tiny_model
from tests.train.support import PlannedBatches, tiny_settings

PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT


def attempt(folder: Path, steps: int) -> None:
    model = tiny_model(tied_embeddings=True)
    phases = [{"after_steps": 20, "accumulate": 1, "length": 24}, {"after_tokens": 2240, "rows": 2, "accumulate": 3}]
    settings = tiny_settings(
        steps=steps, checkpoint_every=3, optimizer="muon", rows=2, accumulate=2, phases=phases, spike=50
    )
    train(model, NextToken(), PlannedBatches(settings), settings, folder)
    torch.save(model.state_dict(), folder / "weights.pt")


def fork(folder: Path, steps: int) -> int:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2) if "-q" in sys.argv else None
        try:
            attempt(folder, steps)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def newest(folder: Path) -> int:
    whole = (folder / "checkpoints").glob("step-*/.metadata")
    return max((int(path.parent.name[5:]) for path in whole), default=0)


def recorded(folder: Path) -> int:
    """Whole lines of the record."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def sometime(draw: random.Random, folder: Path, child: int) -> None:
    """Wait for a random moment: while it starts, within a step, or while a checkpoint is written."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0.0, 0.3))
        return
    begun, more, end = recorded(folder), draw.randint(1, 6), time.monotonic() + 20
    while recorded(folder) < begun + more and time.monotonic() < end and os.waitid(os.P_PID, child, PEEK) is None:
        time.sleep(0.002)
    time.sleep(draw.uniform(0.0, 0.03))


def main(folder: Path, kills: int, seed: int, steps: int) -> None:
    draw = random.Random(seed)
    code = os.waitpid(fork(folder / "undisturbed", steps), 0)[1]
    killed, attempts = 0, 0
    kept: list[tuple[int, int]] = []  # of each kill: steps recorded, and the newest whole checkpoint
    while killed < kills and attempts < 4 * kills and code == 0:
        attempts += 1
        child = fork(folder / "killed", steps)
        sometime(draw, folder / "killed", child)
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        kept.append((recorded(folder / "killed"), newest(folder / "killed")))
    code = code or os.waitpid(fork(folder / "killed", steps), 0)[1]
    print(json.dumps({"code": code, "killed": killed, "kept": kept}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
