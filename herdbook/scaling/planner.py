"""`herdbook plan`: a model, a cluster and tokens to layout, time, days, energy and money (§3.2.1, §3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from herdbook.model.config import PRESETS, ModelConfig, preset
from herdbook.pretrain.settings import ModelShape, shape_of
from herdbook.scaling.cluster import FILE, Calibration, Cluster, load_calibration, load_cluster
from herdbook.scaling.interruptions import (
    Outcome,
    Record,
    Remedies,
    Worth,
    best_interval,
    daly,
    read_record,
    simulate,
    worth,
    young,
)
from herdbook.scaling.search import CONTEXT_TOKENS, Found, Reason, binding, reasons, search
from herdbook.scaling.steps import Step
from herdbook.settings import Settings, UserError

SECONDS_OF_A_DAY = 86_400
MOST_SIMULATED_DAYS = 120.0
DRAWS = 400
VOCABULARY = 128_256  # Llama 3's, where a shape has none of its own


class PlanSettings(Settings):
    """What is to be trained, and on what."""

    model: str | ModelShape = "llama3-8b"
    """A preset's name, such as llama3-405b, an entry, a folder with config.json, or a shape (model.dim=4096 …)."""

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

    seed: int = Field(1, ge=0)
    """Seed of the simulated interruptions."""

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return -(-int(self.tokens) // self.batch)


@dataclass(frozen=True)
class TrainingPlan:
    """A plan with all its figures."""

    settings: PlanSettings
    config: ModelConfig
    cluster: Cluster
    calibration: Calibration
    found: Found
    outcome: Outcome
    record: Record | None

    @property
    def name(self) -> str:
        """What the model is called."""
        return model_name(self.settings.model)

    @property
    def watched(self) -> float:
        """Days that are simulated."""
        return watched_days(self.days)

    @cached_property
    def best_interval(self) -> float:
        """Seconds between checkpoints that train most in simulated runs."""
        return best_interval(
            self.settings.devices, self.watched, self.settings.remedies, self.record,
            per_node=self.cluster.devices_per_node, draws=DRAWS, seed=self.settings.seed,
        )  # fmt: skip

    @cached_property
    def worth(self) -> list[Worth]:
        """What each remedy adds."""
        return worth(
            self.settings.devices, self.watched, self.settings.remedies, self.record,
            per_node=self.cluster.devices_per_node, draws=DRAWS, seed=self.settings.seed,
        )  # fmt: skip

    def costs(self, step: Step) -> dict[str, float]:
        """Days, device-hours and dollars of the run with another layout's step, interruptions included."""
        days = self.all_days * step.seconds / self.step.seconds
        hours = days * 24 * self.settings.devices
        return {"days": days, "device_hours": hours, "dollars": hours * self.cluster.price}

    @property
    def step(self) -> Step:
        """A step of the best layout."""
        return self.found.best[0]

    @cached_property
    def reasons(self) -> list[Reason]:
        """Why this layout and not its neighbours."""
        return reasons(self.step, self.settings.context_tokens)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.settings.steps

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
        step, save, between = self.step, self.settings.remedies.save, self.outcome.between
        others = [{"layout": str(one.layout), "seconds": one.seconds, **self.costs(one)} for one in self.found.best[1:]]
        changes = [{"change": one.change, "ratio": one.ratio, "why": one.why} for one in self.reasons]
        intervals = {
            "used": self.outcome.interval, "young": young(save, between), "daly": daly(save, between),
            "simulated_best": self.best_interval,
        }  # fmt: skip
        return {
            "model": self.name, "parameters": self.config.parameters(), "cluster": self.settings.cluster,
            "devices": self.settings.devices, "calibration": self.calibration.model_dump(),
            "layout": str(step.layout), "seconds_per_step": step.seconds, "parts": step.parts, "tflops": step.tflops,
            "mfu": step.mfu(), "mfu_full_attention": step.mfu(full=True), "tokens_per_second": step.tokens_per_second,
            "memory": step.memory_parts(), "binds": binding(step), "instead": changes, "other_layouts": others,
            "flops": self.steps * step.flops(), "steps": self.steps, "days": self.days,
            "effective_training_time": self.outcome.mean, "days_with_interruptions": self.all_days,
            "device_hours": self.device_hours, "kwh": self.kwh, "tonnes_co2e": self.tonnes, "dollars": self.dollars,
            "checkpoint_interval": intervals, "seconds_between_interruptions": between,
            "remedies": [dict(vars(one)) for one in self.worth],
        }  # fmt: skip


def watched_days(days: float) -> float:
    """Days that are simulated of a run of so many."""
    return min(max(days, 1.0), MOST_SIMULATED_DAYS)


def config_of(model: str | ModelShape) -> ModelConfig:
    """The shape that a plan is for: a preset's, that of a folder with (model/)config.json, or one that was told.

    Raises UserError for what is none of them, and as `read_config` does.
    """
    if isinstance(model, ModelShape):
        return shape_of(model, model.vocab_size or VOCABULARY)
    for folder in (Path(model), Path(model) / "model"):
        if (folder / "config.json").is_file():
            from herdbook.model.huggingface import read_config

            return read_config(folder)
    if model in PRESETS:
        return preset(model)
    raise UserError(
        f"there is no model {model!r}: it is no entry, no folder with config.json, and no preset; "
        f"the presets are {', '.join(PRESETS)}"
    )


def model_name(model: str | ModelShape) -> str:
    """What a plan's model is called."""
    return Path(model).name if isinstance(model, str) else "a model of this shape"


def make_plan(settings: PlanSettings, calibration: Calibration | None = None) -> TrainingPlan:
    """The best layout and what the run takes with it.

    Raises UserError for unknown names, for a batch or a number of devices that does not divide, and for a model that
    the devices do not hold.
    """
    config = config_of(settings.model)
    file = settings.clusters or FILE
    cluster = load_cluster(settings.cluster, file)
    calibration = calibration or load_calibration(file)
    found = search(
        config, cluster, calibration, settings.devices, settings.batch, settings.length, settings.context_tokens
    )
    record: Record | None = read_record(settings.record) if settings.record else None
    outcome = simulate(
        settings.devices,
        watched_days(settings.steps * found.best[0].seconds / SECONDS_OF_A_DAY),
        settings.remedies,
        record,
        per_node=cluster.devices_per_node,
        draws=DRAWS,
        seed=settings.seed,
    )
    if outcome.mean <= 0:
        raise UserError(
            f"with {settings.devices:,} devices something fails every {outcome.between:,.0f} s, and nothing is ever "
            "finished between; save and restart faster, or take replica groups"
        )
    return TrainingPlan(settings, config, cluster, calibration, found, outcome, record)
