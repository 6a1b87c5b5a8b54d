"""What the makers of data find with the demo's own small model: code repaired, mathematics, knowledge probed.

`python benchmarks/synthesis.py CHAT WORLD`: a model that chats (an `sft` entry) and the entry of its world, whose truth
every figure is held against; three seeds, a JSON file in benchmarks/results.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from herdbook.posttrain.probe import probe
from herdbook.posttrain.probe_settings import ProbeSettings
from herdbook.posttrain.synthesis.settings import SynthesizeSettings
from herdbook.posttrain.synthesis.stage import synthesize

SEEDS = (0, 1, 2)
MAKERS: dict[str, dict[str, Any]] = {
    "code, answered again": {
        "code": {"count": 300, "max_tokens": 120, "repair": "again", "repairs": 3, "temperature": 0.5}
    },
    "code, told the error": {"code": {"count": 300, "max_tokens": 120, "repairs": 3, "temperature": 0.5}},
    "mathematics": {"math": {"count": 200, "max_tokens": 80}},
}


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """All numbers of nested figures, by dotted names."""
    if isinstance(value, dict):
        return {
            key: one
            for part, below in value.items()
            for key, one in numbers(below, f"{name}.{part}".strip(".")).items()
        }
    return {name: float(value)} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}


def spread(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, least and most of each number over the runs."""
    names = [name for name in runs[0] if all(name in run for run in runs)]
    return {
        name: {"mean": statistics.mean(found), "least": min(found), "most": max(found)}
        for name in names
        for found in [[run[name] for run in runs]]
    }


def keep(results: dict[str, Any]) -> None:
    """Write what was measured so far."""
    path = Path(__file__).parent / "results" / "synthesis.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


def main(model: Path, world: Path) -> None:
    """Run every maker and the probe with every seed."""
    results: dict[str, Any] = {}
    for name, makers in MAKERS.items():
        runs = []
        for seed in SEEDS:
            start = time.process_time()
            with tempfile.TemporaryDirectory() as out:
                settings = SynthesizeSettings.model_validate({**makers, "seed": seed})
                figures = synthesize(settings, model, [], world / "requests", None, Path(out))
            runs.append({**numbers(figures), "processor_seconds": time.process_time() - start})
        results[name] = {"settings": makers, "runs": len(runs), "figures": spread(runs)}
        print(name, json.dumps(results[name]["figures"]), flush=True)
        keep(results)
    runs = []
    for seed in SEEDS:
        asked = ProbeSettings(questions="requests", count=600, max_tokens=40, temperature=0.5, seed=seed)
        with tempfile.TemporaryDirectory() as out:
            runs.append(numbers(probe(asked, model, [], world / "requests", None, Path(out))))
    results["probe"] = {"settings": asked.model_dump(mode="json", exclude_unset=True), "figures": spread(runs)}
    print("probe", json.dumps(results["probe"]["figures"]), flush=True)
    keep(results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
