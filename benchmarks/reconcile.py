"""The plan against runs of our own: memory and step time of several shapes, optimizers and topologies, on a CPU.

python benchmarks/reconcile.py --book /tmp/reconcile

Every run is a stage of a recipe; the repeats are interleaved. Each is reckoned as `herdbook plan --against` does; the
planner is calibrated on two shapes and judged by the others. Runs of one process are timed by their own processor
seconds, which other work on the machine changes little; those of several by the clock, so that they need it alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import RESULTS, command_line, machine, print_table, write_result

from herdbook import planning
from herdbook.book import Book
from herdbook.scaling.planner import PlanSettings

RESULT = RESULTS / "reconcile.json"
PACKAGE = Path(planning.__file__).parent
CALIBRATING = ("narrow", "wide")


def shape(dim: int, layers: int, heads: int = 4, length: int = 512, **more: Any) -> dict[str, Any]:
    """A model's shape."""
    ffn = -(-dim * 8 // 3 // 16) * 16
    kept = {"dim": dim, "layers": layers, "heads": heads, "kv_heads": heads, "ffn_dim": ffn, "max_length": length}
    return {**kept, "rope_theta": 10_000, **more}


RUNS: dict[str, dict[str, Any]] = {
    "narrow": {"model": shape(96, 4), "rows": 4},
    "wide": {"model": shape(256, 4), "rows": 2},
    "between": {"model": shape(160, 6), "rows": 3},
    "deep_full": {"model": shape(128, 10), "rows": 4, "parallel": {"recompute": "full"}},
    "selective": {"model": shape(192, 5, 6), "rows": 3, "parallel": {"recompute": "selective"}},
    "muon": {"model": shape(192, 5, 6), "rows": 3, "optimizer": "muon"},
    "long": {"model": shape(128, 4, 4, 2048), "rows": 1, "length": 2048},
    "micros": {"model": shape(128, 4, kv_heads=2), "rows": 2, "accumulate": 3},
    "sharded": {"model": shape(160, 6), "rows": 4, "parallel": {"shard": 2}},
    "tensor": {"model": shape(160, 6), "rows": 2, "parallel": {"tensor": 2}},
    "pipeline": {"model": shape(128, 6), "rows": 2, "accumulate": 4, "parallel": {"pipeline": 2}},
}


def recipe(steps: int, repeats: int) -> dict[str, Any]:
    """Tokens of the package's own code, and every run on them, repeated with another seed."""
    source = {"path": str(PACKAGE), "format": "text", "glob": "**/*.py", "name": "python"}
    stages: dict[str, Any] = {
        "code": {"kind": "curate", "sources": [source]},
        "tokenizer": {"kind": "tokenizer", "from": {"documents": "code"}, "vocab_size": 2048, "special_tokens": 32},
        "tokens": {"kind": "pack", "from": {"documents": "code", "tokenizer": "tokenizer"}},
    }
    for repeat in range(repeats):
        for name, how in RUNS.items():
            given = {"optimizer": "adamw", "length": 512, **how, "steps": steps, "seed": repeat, "threads": 1}
            given |= {"checkpoint_every": 0, "final_tokens": 1000, "precision": "fp32", "tensorboard": False}
            stages[f"{name}{repeat}"] = {"kind": "pretrain", "from": {"tokens": "tokens"}, **given}
    return {"name": "reconcile", "about": "Runs to hold a plan against.", "stages": stages}


def main() -> None:
    """Train, reckon, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--book", type=Path, required=True, help="where the runs are kept, and found again")
    parser.add_argument("--steps", type=int, default=12, help="steps of each run")
    parser.add_argument("--repeats", type=int, default=3, help="times each run is done")
    parser.add_argument("--trained", action="store_true", help="train nothing: hold the runs that are in the book")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    args = parser.parse_args()
    if not args.trained:
        args.book.mkdir(parents=True, exist_ok=True)
        path = args.book / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(args.steps, args.repeats), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "herdbook", "run", str(path), "--book", str(args.book)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    kept = {entry.stage for entry in Book(args.book).entries()[0]}
    calibrate = [f"{name}{repeat}" for name in CALIBRATING for repeat in range(args.repeats)]
    found: dict[str, list[dict[str, Any]]] = {}
    for name in RUNS:
        for stage in (f"{name}{repeat}" for repeat in range(args.repeats)):
            if stage in kept:
                told = planning.against(stage, PlanSettings(), args.book, calibrate)[1]
                found.setdefault(name, []).append(told)
    rows = []
    for name, told in found.items():
        memory, step = ([one[what]["error"] for one in told] for what in ("memory", "step_seconds"))
        used = "calibrated on" if name in CALIBRATING else "held out"
        row = [name, used, str(len(told))]
        for errors, digits in ((memory, 1), (step, 0)):
            row.append(f"{100 * np.median(errors):+.{digits}f} %")
            row.append(f"{100 * min(errors):+.{digits}f} to {100 * max(errors):+.{digits}f}")
        rows.append(row)
    print_table(["run", "", "n", "memory", "of the repeats", "step time", "of the repeats"], rows)
    write_result(args.out, {"command": command_line(), "machine": machine(), "runs": RUNS, "against": found})


if __name__ == "__main__":
    main()
