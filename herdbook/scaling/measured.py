"""A training run as its entry tells it: shape, topology, batch, device, and what was measured of a step.

The first step of each phase is left out, for it is slowed down by being counted (`train/peak.py`). A CPU's cores may
have been shared with others, so that a single process's own seconds are taken where they are fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from herdbook.files import read_json
from herdbook.model.config import ModelConfig
from herdbook.scaling.cluster import FILE, Calibration, Cluster, cluster_of_device, load_cluster
from herdbook.scaling.steps import FP32, Layout, Step
from herdbook.settings import UserError
from herdbook.train.metrics import read_whole
from herdbook.train.phases import Part, Plan
from herdbook.train.settings import TrainSettings


@dataclass(frozen=True)
class Measured:
    """A training run that is over."""

    name: str
    settings: TrainSettings
    config: ModelConfig
    entry: dict[str, Any]
    """What entry.json says."""

    records: list[dict[str, Any]]
    """A record a step."""

    @property
    def metrics(self) -> dict[str, Any]:
        """The run's figures."""
        found: dict[str, Any] = self.entry["metrics"]
        return found

    @property
    def gpu(self) -> str:
        """The driver's name of its devices; empty for a CPU."""
        gpus = self.entry.get("machine", {}).get("gpus") or [""]
        return str(gpus[0])

    @property
    def part(self) -> Part:
        """The phase that most of its steps belong to."""
        plan = Plan.of(self.settings)
        ends = [*plan.starts[1:], plan.total_steps]
        return max(zip(plan.parts, ends, strict=True), key=lambda one: one[1] - one[0].first)[0]

    @property
    def threads(self) -> int:
        """Of each process."""
        cores = int(self.entry.get("machine", {}).get("cores") or 1)
        return int(self.metrics.get("threads") or max(1, cores // self.settings.parallel.processes))

    @property
    def seconds(self) -> np.ndarray:  # (steps that were looked at,)
        """Seconds of each step of the phase, whose first step is left out."""
        plan, part = Plan.of(self.settings), self.part
        rows = [row for row in self.records if plan.at(row["step"]) == part and row["step"] != part.first]
        if not rows:
            raise UserError(f"{self.name} tells no step times but the first; train at least two steps of a phase")
        wall = np.array([row["seconds"] for row in rows])
        if self.gpu or self.settings.parallel.processes > 1 or "processor_seconds" not in rows[0]:
            return wall
        own = np.array([row["processor_seconds"] for row in rows]) / self.threads
        return own if np.median(own) < np.median(wall) else wall

    def cluster(self, name: str = "", path: Path = FILE) -> Cluster:
        """The cluster it ran on, told by its devices when not named; of a CPU the share that a process used."""
        found = load_cluster(name or cluster_of_device(self.gpu, path), path)
        if found.device != "cpu":
            return found
        share, machine = self.threads / found.cores, self.entry.get("machine", {})
        changes = {key: getattr(found, key) * share for key in ("peak", "bandwidth", "watts")}
        changes["devices_per_node"] = self.settings.parallel.processes // self.settings.parallel.machines
        changes["memory"] = machine.get("memory_gib", found.memory) / self.settings.parallel.processes
        return found.model_copy(update=changes)

    @property
    def attended(self) -> float | None:
        """Tokens that a token of its data attended to on average, from the operations that were counted."""
        tokens, flops = self.metrics.get("tokens"), self.metrics.get("flops")
        if not tokens or not flops:
            return None
        none, one = self.config.flops_per_token(0), self.config.flops_per_token(1)
        found = (flops / tokens - none) / (one - none)
        return found if 0 < found <= self.part.length else None

    def step(self, cluster: Cluster, calibration: Calibration) -> Step:
        """Its step, as the planner reckons it."""
        parallel, part = self.settings.parallel, self.part
        rows = -(-part.rows // parallel.row_shares)
        stages = parallel.stages if parallel.schedule == "interleaved" and parallel.pipeline > 1 else 1
        layout = Layout(
            parallel.tensor, parallel.context, parallel.pipeline, parallel.data * parallel.shard, rows,
            part.accumulate, stages, parallel.recompute,
        )  # fmt: skip
        told = self.metrics.get("precision") or self.settings.precision
        wide = told == "fp32" or (told == "auto" and not self.gpu)
        muon = self.settings.optimizer == "muon"
        return Step(self.config, layout, part.length, cluster, calibration, FP32 if wide else 2, muon, self.attended)


def read_run(folder: Path) -> Measured:
    """The run of an entry's folder; UserError where the entry is no training run of a model that is known."""
    from herdbook.model.huggingface import read_config

    entry = read_json(folder / "entry.json")
    told, metrics = entry.get("settings", {}), entry.get("metrics", {})
    records = read_whole(folder / "metrics.jsonl")
    if "parallel" not in told or "steps" not in metrics or not records:
        raise UserError(
            f"{folder.name} is no training run (it has no steps in metrics.jsonl); name an entry of pretrain, extend, "
            "sft or another kind that trains"
        )
    given = {key: value for key, value in told.items() if key in TrainSettings.model_fields}
    if not given.get("phases") or given.get("tokens") is None:
        given |= {"steps": metrics["steps"], "tokens": None}
    reward = (told.get("kind") or entry.get("kind")) == "reward"
    return Measured(
        folder.name, TrainSettings.model_validate(given), read_config(folder / "model", reward=reward), entry, records
    )
