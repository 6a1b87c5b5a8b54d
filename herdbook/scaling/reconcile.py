"""A forecast held against the run that came of it: memory, step time, energy; with a ladder's laws loss and score.

Of each figure `error` is measured / forecast - 1, `off` its size, and `source` says how it was measured. Memory is what
`train/memory.py` reckons of herdbook's own training (`herdbook run --check`), step time the planner's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from herdbook.scaling.cluster import Calibration, Cluster
from herdbook.scaling.measured import Measured
from herdbook.train.memory import Load, needed
from herdbook.train.phases import Plan


def held_against(run: Measured, cluster: Cluster, calibration: Calibration) -> dict[str, Any]:
    """The figures by name: memory (bytes), step_seconds, energy (joules of all devices), layout, calibration."""
    step, seconds = run.step(cluster, calibration), run.seconds
    found: dict[str, Any] = {"layout": str(step.layout), "calibration": calibration.model_dump()}
    memory = run.metrics.get("memory", {})
    if "peak_bytes" in memory and run.entry["settings"].get("lora") is None:
        source = f"{memory['counted']} of the fullest process"
        found["memory"] = compared(reckoned_bytes(run), memory["peak_bytes"], source)
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    source = f"median of {len(seconds):,} steps"
    found["step_seconds"] = compared(step.seconds, float(middle), source)
    found["step_seconds"] |= {"low": float(low), "high": float(high), "parts": step.parts}
    energy = run.entry.get("energy") or {}
    if energy.get("joules") and cluster.watts:
        # Counters are of the devices, so what the rest of a site takes is left out.
        joules = step.seconds * run.metrics["steps"] * run.settings.parallel.processes * cluster.watts
        found["energy"] = compared(joules, float(energy["joules"]), energy["source"])
        found["energy"]["forecast_source"] = f"{cluster.watts:g} W a device (its design power) while it trains"
    return found


def compared(forecast: float, measured: float, source: str) -> dict[str, Any]:
    """A forecast beside what was measured."""
    error = measured / forecast - 1
    return {"forecast": forecast, "measured": measured, "error": error, "off": abs(error), "source": source}


def reckoned_bytes(run: Measured) -> int:
    """What the fullest of its phases needs on the fullest process."""
    told = run.metrics.get("precision", run.settings.precision)
    settings = run.settings.model_copy(update={"precision": told})
    parts = Plan.of(settings).parts
    return max(needed(Load.of(settings, run.config, part, not run.gpu)).total for part in parts)
