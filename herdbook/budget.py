"""What a recipe's training stages need, reckoned before anything runs: memory, batches, operations, days (§3.3).

The shape of a model is followed back through the stages that feed it. A stage that is known not to fit its device is
an error, which tells what it needs, what there is, and which settings would save most: each is tried by the same
arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from herdbook.model.config import ModelConfig
from herdbook.pretrain.settings import ExtendSettings, PretrainSettings, budgeted, shape_of
from herdbook.recipe import Recipe
from herdbook.settings import UserError
from herdbook.train.devices import GIB, Device, MachineSettings
from herdbook.train.inflight import bubble
from herdbook.train.memory import Load, Need, needed
from herdbook.train.phases import Part, Plan
from herdbook.train.topology import check_plan

SHOWN = 5  # settings that would save memory
SECONDS_OF_A_DAY = 86_400


@dataclass(frozen=True)
class Phase:
    """One part of a run and what it needs."""

    part: Part
    steps: int
    need: Need
    bubble: float
    flops_per_token: float
    """Forward and backward, attention causal over rows that are one document each."""

    @property
    def tokens(self) -> int:
        """Tokens of its rows."""
        return self.steps * self.part.step_tokens


@dataclass(frozen=True)
class Budget:
    """What one training stage needs."""

    stage: str
    settings: PretrainSettings
    config: ModelConfig
    machine: MachineSettings
    device: Device
    phases: tuple[Phase, ...]

    @property
    def fullest(self) -> Phase:
        """The phase that needs most memory."""
        return max(self.phases, key=lambda phase: phase.need.total)

    @property
    def reserve(self) -> float:
        """Bytes that are not for tensors; a CPU's memory has none set apart."""
        return 0.0 if self.device.name == "cpu" else self.machine.reserve * GIB

    @property
    def free(self) -> float:
        """Bytes that are left at the fullest moment; below 0 the stage does not fit."""
        return self.device.memory * GIB - self.reserve - self.fullest.need.total

    @property
    def certain(self) -> bool:
        """Whether what the run is meant for is known, so that not fitting is a mistake."""
        return self.machine.told or self.device.name != "cpu"

    @property
    def flops(self) -> float:
        """Operations of the whole run."""
        return sum(phase.tokens * phase.flops_per_token for phase in self.phases)

    @property
    def days(self) -> float | None:
        """How long the run takes at the share of the peak that the recipe hopes for; None where it names none."""
        if self.machine.mfu is None or self.device.peak is None:
            return None
        rate = self.settings.parallel.processes * self.device.peak * self.machine.mfu
        return self.flops / rate / SECONDS_OF_A_DAY


def budgets(recipe: Recipe, only: Iterable[str] | None = None) -> list[Budget]:
    """The budgets of a recipe's training stages; UserError when a topology does not divide the model or the batch."""
    wanted = set(recipe.stages if only is None else only)
    found = []
    for name, stage in recipe.stages.items():
        if name in wanted and isinstance(stage.settings, PretrainSettings):
            config = shape(recipe, name)
            if config is not None:
                found.append(budget(name, stage.settings, config, recipe.machine))
    return found


def budget(stage: str, settings: PretrainSettings, config: ModelConfig, machine: MachineSettings) -> Budget:
    """The budget of one stage."""
    settings = budgeted(settings, config)
    plan = Plan.of(settings)
    try:
        check_plan(settings.parallel, config, plan)
    except UserError as error:
        raise UserError(f"{stage}: {error}") from None
    device = machine.chosen(settings.parallel.processes)
    ends = [*plan.starts[1:], plan.total_steps]
    phases = []
    for part, end in zip(plan.parts, ends, strict=True):
        need = needed(Load.of(settings, config, part, device.name == "cpu"))
        idle = bubble(settings.parallel, part.accumulate)
        phases.append(Phase(part, end - part.first, need, idle, config.flops_per_token((part.length + 1) / 2)))
    return Budget(stage, settings, config, machine, device, tuple(phases))


def shape(recipe: Recipe, name: str) -> ModelConfig | None:
    """The shape of the model that a stage trains, followed back to where it was drawn; None when it is not known."""
    stage = recipe.stages[name]
    settings = stage.settings
    if not isinstance(settings, PretrainSettings):
        return None
    if settings.model is not None:
        config = _with_vocabulary(settings, _vocabulary(recipe, name))
    else:
        feeders = stage.inputs.get("model", ())
        config = shape(recipe, feeders[0]) if feeders else None
    if config is None:
        return None
    changes: dict[str, Any] = {}
    if settings.upcycle is not None:
        changes = {"experts": settings.upcycle.experts, "experts_per_token": settings.upcycle.per_token}
    if isinstance(settings, ExtendSettings):
        changes["max_length"] = settings.length
    return config.model_copy(update=changes)


def _with_vocabulary(settings: PretrainSettings, vocabulary: int) -> ModelConfig | None:
    assert settings.model is not None
    if not vocabulary:
        known = isinstance(settings.model, str) or settings.model.vocab_size
        return shape_of(settings.model, 128_256 if isinstance(settings.model, str) else 1) if known else None
    return shape_of(settings.model, vocabulary)


def _vocabulary(recipe: Recipe, name: str) -> int:
    """The vocabulary that the stage's tokens will have at most; 0 when it is not known."""
    for tokens in recipe.stages[name].inputs.get("tokens", ()):
        for tokenizer in recipe.stages[tokens].inputs.get("tokenizer", ()):
            return int(getattr(recipe.stages[tokenizer].settings, "vocab_size", 0))
    return 0


@dataclass(frozen=True)
class Saving:
    """A change of settings that saves memory."""

    change: str
    """As it is written on the command line."""

    saved: float
    """Bytes."""

    fits: bool
    """Whether the stage fits then."""

    devices: int
    """Devices it takes then."""

    changes: int
    """How many settings are changed."""


def savings(found: Budget) -> list[Saving]:
    """What would save memory and not change what is learnt: what makes it fit first, by devices and changes."""
    tried = []
    for changes in _changes(found.settings):
        try:
            changed = budget(found.stage, _changed(found.settings, changes), found.config, found.machine)
        except ValueError:  # a topology that does not divide
            continue
        saved = found.fullest.need.total - changed.fullest.need.total
        if saved > 0:
            words = " ".join(f"{found.stage}.{key}={_word(value)}" for key, value in changes.items())
            tried.append(Saving(words, saved, changed.free >= 0, changed.settings.parallel.processes, len(changes)))
    return sorted(tried, key=lambda saving: (not saving.fits, saving.devices, saving.changes, -saving.saved))


def _changes(settings: PretrainSettings) -> Iterator[dict[str, Any]]:
    parallel = settings.parallel
    hows = ["none", "selective", "full"]
    for how in hows[hows.index(parallel.recompute) + 1 :]:
        yield {"parallel.recompute": how}
    if parallel.processes > 1 and not parallel.reshard:
        yield {"parallel.reshard": True}
        yield {"parallel.recompute": "full", "parallel.reshard": True}
    if settings.rows % 2 == 0 and not settings.phases:
        yield {"rows": settings.rows // 2, "accumulate": settings.accumulate * 2}
        yield {"rows": settings.rows // 2, "accumulate": settings.accumulate * 2, "parallel.recompute": "full"}
    if parallel.data > 1:
        yield {"parallel.data": 1, "parallel.shard": parallel.shard * parallel.data}
    for name in ("shard", "tensor", "context", "pipeline"):
        for factor in (2, 4, 8):
            yield {f"parallel.{name}": getattr(parallel, name) * factor}


def _changed(settings: PretrainSettings, changes: dict[str, Any]) -> PretrainSettings:
    values = settings.model_dump()
    for key, value in changes.items():
        here, names = values, key.split(".")
        here = functools.reduce(lambda at, name: at[name], names[:-1], here)
        here[names[-1]] = value
    return type(settings).model_validate(values)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_memory(found: Iterable[Budget]) -> None:
    """UserError when a stage does not fit the device it is meant for, with what would save most."""
    told = [_too_much(item) for item in found if item.free < 0 and item.certain]
    if told:
        raise UserError("\n".join(told))


def _too_much(found: Budget) -> str:
    need, phase = found.fullest.need, found.fullest.part
    lines = [
        f"{found.stage}: {need.total / GIB:.1f} GiB are needed on each device from step {phase.first:,} on, and "
        f"{found.device.name} has {found.device.memory:.1f} GiB"
        + (f", {found.reserve / GIB:.1f} of them kept for the driver and gaps" if found.reserve else "")
        + "; what would save most:"
    ]
    for saving in savings(found)[:SHOWN]:
        devices = "" if saving.devices == found.settings.parallel.processes else f", on {saving.devices:,} devices"
        fits = "it fits then" if saving.fits else "not enough by itself"
        lines.append(f"  {saving.change}: {saving.saved / GIB:.1f} GiB, {fits}{devices}")
    if len(lines) == 1:
        lines.append("  nothing that this arithmetic knows: take fewer layers or a device with more memory")
    return "\n".join(lines)
