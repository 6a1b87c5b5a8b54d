"""`herdbook plan`: a model, a cluster and tokens to layout, time, days, energy and money (§3.2.1, §3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from herdbook.model.config import ModelConfig, preset
from herdbook.scaling.cluster import FILE, Calibration, Cluster, load_calibration, load_cluster
from herdbook.scaling.interruptions import Outcome, Record, Remedies, read_record, simulate
from herdbook.scaling.search import CONTEXT_TOKENS, Found, search
from herdbook.scaling.steps import Step
from herdbook.settings import Settings, UserError

SECONDS_OF_A_DAY = 86_400
MOST_SIMULATED_DAYS = 120.0


class PlanSettings(Settings):
    """What is to be trained, and on what."""

    model: str = "llama3-8b"
    """A preset's name, such as llama3-405b."""

    cluster: str = "h100-roce"
    """Which cluster of the clusters' file."""

    clusters: Path | None = None
    """A file of clusters and of a calibration; ours when empty."""

    devices: int = Field(8, gt=0)
    """How many devices."""

    tokens: float = Field(1e12, gt=0)
    """Tokens to train on."""

    batch: int = Field(4_194_304, gt=0)
    """Tokens of a step."""

    length: int = Field(8192, gt=1)
    """Tokens of a row."""

    context_tokens: int = Field(CONTEXT_TOKENS, gt=0)
    """Tokens of a row that a context rank has at least."""

    remedies: Remedies = Remedies.model_validate({})
    """How the run is prepared for interruptions."""

    record: Path | None = None
    """Interruptions to reckon with, a YAML file; the paper's 54 days when empty."""

    seed: int = 1
    """Seed of the simulated interruptions."""


@dataclass(frozen=True)
class TrainingPlan:
    """A plan with all its figures."""

    settings: PlanSettings
    config: ModelConfig
    cluster: Cluster
    calibration: Calibration
    found: Found
    outcome: Outcome

    @property
    def step(self) -> Step:
        """A step of the best layout."""
        return self.found.best[0]

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return -(-int(self.settings.tokens) // self.settings.batch)

    @property
    def days(self) -> float:
        """Days of training, without interruptions."""
        return self.steps * self.step.seconds / SECONDS_OF_A_DAY

    @property
    def all_days(self) -> float:
        """Days with interruptions and what they cost."""
        return self.days / self.outcome.mean

    @property
    def device_hours(self) -> float:
        """Device-hours, interruptions included."""
        return self.all_days * 24 * self.settings.devices

    @property
    def kwh(self) -> float:
        """Energy of the site, kWh, every device at full load all the time."""
        return self.device_hours * self.cluster.watts / 1000 * self.cluster.overhead

    @property
    def tonnes(self) -> float:
        """Tonnes of CO2e."""
        return self.kwh * self.cluster.carbon / 1000

    @property
    def dollars(self) -> float:
        """Price of the device-hours."""
        return self.device_hours * self.cluster.price

    def figures(self) -> dict[str, Any]:
        """All figures, for JSON."""
        step = self.step
        return {
            "layout": str(step.layout), "seconds_per_step": step.seconds, "parts": step.parts, "tflops": step.tflops,
            "mfu": step.mfu(), "mfu_full_attention": step.mfu(full=True), "tokens_per_second": step.tokens_per_second,
            "memory": step.memory_parts(), "flops": self.steps * step.flops(), "steps": self.steps, "days": self.days,
            "effective_training_time": self.outcome.mean, "days_with_interruptions": self.all_days,
            "device_hours": self.device_hours, "kwh": self.kwh, "tonnes_co2e": self.tonnes, "dollars": self.dollars,
            "checkpoint_interval": self.outcome.interval, "seconds_between_interruptions": self.outcome.between,
        }  # fmt: skip


def make_plan(settings: PlanSettings, calibration: Calibration | None = None) -> TrainingPlan:
    """The best layout and what the run takes with it.

    Raises UserError for unknown names, for a batch or a number of devices that does not divide, and for a model that
    the devices do not hold.
    """
    config = preset(settings.model)
    file = settings.clusters or FILE
    cluster = load_cluster(settings.cluster, file)
    calibration = calibration or load_calibration(file)
    found = search(
        config, cluster, calibration, settings.devices, settings.batch, settings.length, settings.context_tokens
    )
    record: Record | None = read_record(settings.record) if settings.record else None
    days = -(-int(settings.tokens) // settings.batch) * found.best[0].seconds / SECONDS_OF_A_DAY
    watched = min(max(days, 1.0), MOST_SIMULATED_DAYS)
    outcome = simulate(
        settings.devices,
        watched,
        settings.remedies,
        record,
        per_node=cluster.devices_per_node,
        draws=400,
        seed=settings.seed,
    )
    if outcome.mean <= 0:
        raise UserError(
            f"with {settings.devices:,} devices something fails every {outcome.between:,.0f} s, and nothing is ever "
            "finished between; save and restart faster, or take replica groups"
        )
    return TrainingPlan(settings, config, cluster, calibration, found, outcome)
