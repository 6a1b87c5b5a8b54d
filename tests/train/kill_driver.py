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

STEPS = 60


def attempt(folder: Path) -> None:
    model = tiny_model(tied_embeddings=True)
    phases = [{"after_steps": 20, "accumulate": 1, "length": 24}, {"after_tokens": 2240, "rows": 2, "accumulate": 3}]
    settings = tiny_settings(
        steps=STEPS, checkpoint_every=3, optimizer="muon", rows=2, accumulate=2, phases=phases, spike=50
    )
    train(model, NextToken(), PlannedBatches(settings), settings, folder)
    torch.save(model.state_dict(), folder / "weights.pt")


def fork(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2) if "-q" in sys.argv else None
        try:
            attempt(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def steps_recorded(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main(folder: Path, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    start = time.monotonic()
    code = os.waitpid(fork(folder / "undisturbed"), 0)[1]
    seconds = time.monotonic() - start
    killed, resumed_from, attempts = 0, [], 0
    while killed < kills and attempts < 4 * kills and code == 0:
        attempts += 1
        child = fork(folder / "killed")
        time.sleep(draw.uniform(0.0, seconds / 4))
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
        whole = (folder / "killed" / "checkpoints").glob("step-*/.metadata")
        resumed_from.append(max((int(path.parent.name[5:]) for path in whole), default=0))
    code = code or os.waitpid(fork(folder / "killed"), 0)[1]
    print(json.dumps({"code": code, "killed": killed, "resumed_from": resumed_from, "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
