"""What faults cost: seconds from a killed rank to the next step, and how long the loop waits for a checkpoint.

    python benchmarks/train_faults.py [--repeats 5] [--ranks 4] [--saves 6] [--parameters 50]

Recovery: a small model on ranks started as a stage starts them; one, chosen by chance, is killed with SIGKILL; the
clock runs from the kill to the end of the first step after it. Stall: a model of so many million parameters in one
process, AdamW in fp32; of each save the seconds in which the loop stood still, over the seconds of the whole save.
Other jobs on the machine lengthen both, so the load is written down.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from common import HERE, RESULTS, command_line, machine, print_table, spread, versions, write_result

sys.path.append(str(HERE.parent))  # the run that is disturbed is the tests' own
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])


def recovery(ranks: int, repeats: int, folder: Path) -> list[float]:
    """Seconds from each kill to the end of the first step after it, of one run that is killed `repeats` times."""
    from herdbook.train.metrics import read_whole
    from tests.train.launched import Launched

    draw, found = random.Random(1), []
    run = Launched(folder, parallel={"shard": ranks}, rows=4 * ranks, steps=100_000, checkpoint_every=2)
    (run.out / "slow").write_text("0.05")
    run.start()
    for number in range(repeats):
        run.until(lambda: len(read_whole(folder / "metrics.jsonl")) % 2 == 1)
        rank = draw.randrange(ranks)
        first, victim = run.place(0)[0], run.place(rank)[0]
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        run.until(lambda first=first: run.place(0)[0] not in (0, first))  # type: ignore[misc]
        restarted = max(killed, run.place(0)[2])  # the clock of its newest batch

        def back(restarted: float = restarted) -> bool:
            return any(record["clock"] > restarted for record in read_whole(folder / "metrics.jsonl")[-1:])

        run.until(back)
        steps = [record["clock"] for record in read_whole(folder / "metrics.jsonl") if record["clock"] > restarted]
        found.append(steps[0] - killed)
        print(f"  {number + 1}/{repeats} rank {rank}: {found[-1]:.1f} s", file=sys.stderr)
        time.sleep(1.0)
    for child in psutil.Process().children():
        if "herdbook.train.agent" in child.cmdline():
            child.terminate()  # the ranks save and end
    run.thread.join(120)
    return found


def stall(millions: int, saves: int, folder: Path) -> list[dict[str, float]]:
    """Of each save: seconds it took, and seconds of them in which the loop stood still."""
    import torch

    from herdbook.model.config import ModelConfig
    from herdbook.model.transformer import Transformer
    from herdbook.train.checkpoint import Checkpoints
    from herdbook.train.objective import NextToken
    from herdbook.train.optimizer import Optimizers
    from tests.train.support import RandomBatches, tiny_settings

    torch.set_num_threads(1)
    layers = max(1, round((millions - 2 * 8192 * 512 / 1e6) / 3.1))
    shape: dict[str, Any] = {"vocab_size": 8192, "dim": 512, "heads": 8, "kv_heads": 8, "ffn_dim": 1344}
    model = Transformer(ModelConfig(layers=layers, max_length=512, **shape))
    model.initialize(0)
    optimizers = Optimizers(model, tiny_settings(optimizer="adamw", steps=1000), torch.float32)
    batches, objective = RandomBatches(1, 128, 8192), NextToken()
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    found: list[dict[str, float]] = []
    print(f"  {sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}M parameters", file=sys.stderr)
    for number in range(saves + 1):  # the first makes the memory for copies, and is told apart
        begun = time.monotonic()
        state = {"model": dict(model.named_parameters()), "optimizer": optimizers.state()}
        checkpoints.save(number, state, {})
        waited = time.monotonic() - begun
        optimizers.set_step(number)
        objective(model, batches.batch(number)).total.backward()
        computed = time.monotonic()
        checkpoints.settle()
        waited += time.monotonic() - computed
        optimizers.step()
        optimizers.zero_grad()
        checkpoints.wait()  # in a run many steps lie between; here the next save shall not wait for this one
        found.append({"seconds": checkpoints.save_seconds[-1], "waited": waited, "step": computed - begun})
        print(f"  save {number}: {found[-1]}", file=sys.stderr)
    checkpoints.close()
    return found


def main() -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="ranks that are killed")
    parser.add_argument("--ranks", type=int, default=4, help="processes of the run that is killed")
    parser.add_argument("--saves", type=int, default=6, help="checkpoints that are measured, one more is made before")
    parser.add_argument("--parameters", type=int, default=50, help="millions, of the model that is saved")
    parser.add_argument("--out", type=Path, default=RESULTS / "train_faults.json", help="where the result is written")
    options = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        saved = stall(options.parameters, options.saves, Path(name) / "stall")
        load.append(os.getloadavg()[0])
        seconds = recovery(options.ranks, options.repeats, Path(name) / "recovery")
    load.append(os.getloadavg()[0])
    shares = [one["waited"] / one["seconds"] for one in saved[1:]]
    result = {
        "command": command_line(),
        "machine": machine(),
        "versions": versions(sys.executable, ["torch"]),
        "load_average": load,
        "recovery_seconds": {"n": len(seconds), "ranks": options.ranks, **spread(seconds), "all": seconds},
        "stall_share": {"n": len(shares), **spread(shares), "first": saved[0]["waited"] / saved[0]["seconds"]},
        "save_seconds": spread([one["seconds"] for one in saved[1:]]),
        "saves": saved,
    }
    write_result(options.out, result)
    rows = [
        ["killed rank to next step, s", *(f"{value:.1f}" for value in spread(seconds).values())],
        ["stall over save", *(f"{value:.2%}" for value in spread(shares).values())],
        ["save, s", *(f"{one:.1f}" for one in result["save_seconds"].values())],
    ]
    print_table(["", "min", "median", "max"], rows)
    print(json.dumps({"threads": threading.active_count(), "load": load}))


if __name__ == "__main__":
    main()
