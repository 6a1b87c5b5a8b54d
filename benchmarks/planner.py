"""The planner and the laws: table 4 from its first row, and seconds of searches, simulations and fits.

python benchmarks/planner.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, command_line, machine, print_table, spread, write_result

from herdbook.model.config import preset
from herdbook.scaling.calibrate import fit_matmul
from herdbook.scaling.cluster import load_calibration, load_cluster
from herdbook.scaling.interruptions import Remedies, paper_record, simulate
from herdbook.scaling.isoflop import isoflop
from herdbook.scaling.laws import LAWS, fit
from herdbook.scaling.planner import PlanSettings, make_plan
from herdbook.scaling.runs import Runs, make_runs
from herdbook.scaling.search import layouts, search
from herdbook.scaling.steps import Layout, Step

RESULT = RESULTS / "planner.json"
BATCH = 16 * 2**20
TABLE4 = [
    (8192, (8, 1, 16, 64), 8192, 32, 430, 43),
    (16384, (8, 1, 16, 128), 8192, 16, 400, 41),
    (16384, (8, 16, 16, 8), 131_072, 16, 380, 38),
]


def seconds(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Processor seconds of a call, repeated."""
    took = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return spread(took)


def table4() -> list[dict[str, Any]]:
    """The paper's rows and ours."""
    model, cluster, calibration = preset("llama3-405b"), load_cluster("h100-roce"), load_calibration()
    found: list[dict[str, Any]] = []
    for devices, topology, length, rows, tflops, mfu in TABLE4:
        t, c, p, d = topology
        step = Step(model, Layout(t, c, p, d, 1, rows, 8, "selective"), length, cluster, calibration)
        if not found:
            calibration = fit_matmul(step, tflops)
        step = replace(step, calibration=calibration)
        best = [one.layout.topology for one in search(model, cluster, calibration, devices, BATCH, length).best]
        found.append(
            {
                "devices": devices, "topology": topology, "length": length, "paper": {"tflops": tflops, "mfu": mfu},
                "plan": {"tflops": step.tflops, "mfu": 100 * step.mfu()}, "rank": best.index(topology) + 1,
                "matmul": calibration.matmul,
            }
        )  # fmt: skip
    return found


def arithmetic() -> dict[str, dict[str, float]]:
    """The paper's and its model card's figures beside the planner's."""
    plans = [
        make_plan(PlanSettings(model="llama3-405b", devices=16384, tokens=tokens, batch=BATCH, length=length))
        for tokens, length in ((14.8e12, 8192), (0.8e12, 131_072))
    ]
    tokens = isoflop(curves(8, 7, 0.0, np.random.default_rng(0))).tokens
    told = {
        "tokens at 3.8e25 FLOPs": (16.3e12, tokens.at(3.8e25)),
        "hours between interruptions of 16,384": (3.09, 1 / paper_record().per_second(16384) / 3600),
        "effective training time, at least": (0.90, plans[0].outcome.mean),
        "405B: device-hours": (30.84e6, sum(plan.device_hours for plan in plans)),
        "405B: kWh": (30.84e6 * 0.7, sum(plan.kwh for plan in plans)),
        "405B: t CO2e": (8930, sum(plan.tonnes for plan in plans)),
    }
    return {name: {"paper": paper, "plan": float(plan)} for name, (paper, plan) in told.items()}


def curves(budgets: int, sizes: int, noise: float, generator: np.random.Generator) -> Runs:
    """Made-up isoFLOP curves whose best tokens are .299 C^.537, as the paper's."""
    flops = np.repeat(np.geomspace(6e18, 1e22, budgets), sizes)
    away = np.tile(np.linspace(-1.4, 1.4, sizes), budgets)
    tokens = 0.299 * flops**0.537 * np.exp(away)
    loss = 2.2 * (flops / 6e18) ** -0.05 + 0.03 * away**2 + generator.normal(0, noise, len(flops))
    return make_runs(flops / 6 / tokens, tokens, loss)


def coverage(sets: int) -> dict[str, int]:
    """How many of the 95 % intervals of so many sets of noisy curves hold the true exponent."""
    found = {}
    for budgets, sizes in ((4, 5), (8, 6)):
        generator, held = np.random.default_rng(11), 0
        for _ in range(sets):
            low, high = isoflop(curves(budgets, sizes, 0.003, generator), draws=300).tokens.interval()
            held += bool(low <= 0.537 <= high)
        found[f"{budgets} budgets of {sizes} sizes"] = held
    return found


def main() -> None:
    """Reckon, time, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="times each thing is timed")
    parser.add_argument("--sets", type=int, default=100, help="sets of made-up curves whose intervals are judged")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    args = parser.parse_args()
    model, cluster, calibration = preset("llama3-405b"), load_cluster("h100-roce"), load_calibration()
    rows = table4()
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.uniform(np.log(4e7), np.log(1.6e10), 245))
    tokens = np.exp(generator.uniform(np.log(2e8), np.log(3e11), 245))
    loss = (1.69 + 406.4 / sizes**0.34 + 410.7 / tokens**0.28) * np.exp(generator.normal(0, 0.003, 245))
    runs = make_runs(sizes, tokens, loss)
    every = list(layouts(model, cluster, 16384, BATCH // 8192, 8192, context_tokens=1024))
    timed = {
        "search of 16,384 devices": seconds(
            lambda: search(model, cluster, calibration, 16384, BATCH, 8192), args.repeats
        ),
        f"the same, context ranks at 8K too: {len(every)} layouts": seconds(
            lambda: search(model, cluster, calibration, 16384, BATCH, 8192, 1024), args.repeats
        ),
        "54 days × 1,000 draws": seconds(lambda: simulate(16384, 54, Remedies(spares=20)), args.repeats),
        "approach 3, 245 runs": seconds(lambda: fit(LAWS["chinchilla"], runs), args.repeats),
    }
    result: dict[str, Any] = {
        "command": command_line(),
        "machine": machine(),
        "table_4": rows,
        "processor_seconds": timed,
    }
    result |= {"arithmetic": arithmetic(), "coverage": {"sets": args.sets, "held": coverage(args.sets)}}
    print_table(
        ["devices", "topology", "paper TFLOPs", "plan", "paper MFU", "plan", "rank"],
        [
            [
                f"{row['devices']:,}", " × ".join(map(str, row["topology"])), str(row["paper"]["tflops"]),
                f"{row['plan']['tflops']:.1f}", f"{row['paper']['mfu']} %",
                f"{row['plan']['mfu']:.1f} %", str(row["rank"]),
            ]
            for row in rows
        ],
    )  # fmt: skip
    figures = ("min", "median", "max")
    print_table(["", *figures], [[name, *(f"{took[key]:.3f} s" for key in figures)] for name, took in timed.items()])
    print_table(
        ["", "paper", "plan"],
        [[name, f"{row['paper']:.4g}", f"{row['plan']:.4g}"] for name, row in result["arithmetic"].items()],
    )
    print_table(
        ["95 % intervals that hold the exponent", f"of {args.sets}"],
        [[name, str(held)] for name, held in result["coverage"]["held"].items()],
    )
    write_result(args.out, result)


if __name__ == "__main__":
    main()
