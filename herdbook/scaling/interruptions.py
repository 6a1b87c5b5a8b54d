"""Months on many devices that fail (§3.3.4): how much of the time trains, and what each remedy is worth.

Between interruptions a run works, and saves every so often; an interruption loses what was done since the last save,
then the time to notice, to restart and, where no spare node is left, to wait for a repair. Interruptions come
independently of each other and of time, so the time between them is exponential. All draws go forward together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from herdbook.scaling.cluster import checked, read_yaml
from herdbook.settings import Settings, UserError

FILE = Path(__file__).with_name("interruptions.yaml")
HOUR, DAY = 3600.0, 86_400.0


class Cause(Settings):
    """One cause of interruptions."""

    count: float = Field(ge=0)
    """How many were counted."""

    hardware: bool = True
    """Whether the node is out of use until it is repaired."""


class Record(Settings):
    """Interruptions as somebody counted them."""

    devices: int = Field(gt=0)
    """Devices of that run."""

    days: float = Field(gt=0)
    """How long it was watched."""

    planned: float = Field(0, ge=0)
    """Planned interruptions, before which everything is saved."""

    causes: dict[str, Cause]
    """Unplanned ones."""

    @model_validator(mode="after")
    def _some(self) -> Record:
        if not self.unplanned:
            raise UserError("causes hold no interruption; give counts, at least one above 0")
        return self

    @property
    def unplanned(self) -> float:
        """How many were not planned."""
        return sum(cause.count for cause in self.causes.values())

    def per_second(self, devices: int) -> float:
        """Unplanned interruptions a second on so many devices."""
        return self.unplanned / (self.days * DAY) * devices / self.devices

    @property
    def hardware(self) -> float:
        """Share of the unplanned ones that take a node out of use."""
        return sum(cause.count for cause in self.causes.values() if cause.hardware) / self.unplanned


class Remedies(Settings):
    """How a run is prepared for interruptions."""

    save: float = Field(10.0, ge=0)
    """Seconds that training stands still for a checkpoint."""

    interval: float | None = Field(None, gt=0)
    """Seconds of training between checkpoints; the best one (Daly's) when empty."""

    notice: float = Field(60.0, ge=0)
    """Seconds until an interruption is noticed."""

    restart: float = Field(240.0, ge=0)
    """Seconds from then until training goes on, the checkpoint loaded."""

    spares: int | None = Field(None, ge=0)
    """Spare nodes; enough of them when empty."""

    repair: float = Field(24.0, gt=0)
    """Hours until a node that failed is back."""

    groups: int = Field(1, gt=0)
    """Replica groups that go on without the one that was interrupted, which loses a step and the time to come back."""


@cache
def paper_record() -> Record:
    """The paper's 54 days."""
    return read_record(FILE)


def read_record(path: Path) -> Record:
    """A record of interruptions from a YAML file like `interruptions.yaml`; UserError where it is not one."""
    try:
        return checked(Record, read_yaml(path), str(path))
    except UserError as error:
        raise UserError(f"{error}; see {FILE.name} for what it must hold") from None


def young(save: float, between: float) -> float:
    """Young's interval (1974) between checkpoints, seconds: sqrt(2 · save · mean time between interruptions)."""
    return math.sqrt(2 * save * between)


def daly(save: float, between: float) -> float:
    """Daly's (2006) interval of a higher order, seconds."""
    if save >= 2 * between:
        return between
    x = math.sqrt(save / (2 * between))
    return young(save, between) * (1 + x / 3 + x * x / 9) - save


def expected_share(save: float, interval: float, between: float, down: float) -> float:
    """Share of the time that trains, in closed form: exponential interruptions, checkpoints every `interval`.

    The time until a piece of `interval` and its checkpoint are done without interruption is
    (between + down)(e^((interval + save) / between) - 1) (Daly 2006, equation 13, restart without failures in it).
    """
    return interval / ((between + down) * math.expm1((interval + save) / between))


@dataclass(frozen=True)
class Outcome:
    """What became of many draws of a run."""

    share: np.ndarray  # (draws,) of the time that trained
    interruptions: np.ndarray  # (draws,)
    saving: float
    lost: float
    down: float
    waiting: float
    """Mean shares of the time: saving, work done twice, noticing and restarting, waiting for a node."""

    interval: float
    """Seconds between checkpoints."""

    between: float
    """Mean seconds between unplanned interruptions."""

    @property
    def mean(self) -> float:
        """Mean share of the time that trained."""
        return float(self.share.mean())

    @property
    def interval95(self) -> tuple[float, float]:
        """Where 95 % of the draws lie."""
        low, high = np.quantile(self.share, [0.025, 0.975])
        return float(low), float(high)


def simulate(
    devices: int,
    days: float,
    remedies: Remedies,
    record: Record | None = None,
    *,
    per_node: int = 8,
    draws: int = 1000,
    seed: int = 1,
) -> Outcome:
    """Draw `days` of training on `devices` devices, `draws` times."""
    record = record or paper_record()
    rate = record.per_second(devices)
    planned = record.planned / (record.days * DAY)
    interval = remedies.interval or max(daly(remedies.save, 1 / rate), 1.0)
    state = _Draws(np.random.default_rng(seed), draws, days * DAY, interval, remedies, devices // per_node or 1)
    while state.alive.any():
        state.next(rate, planned, record.hardware)
    mean = {name: float(total.mean()) / state.end for name, total in state.spent.items()}
    return Outcome(
        state.spent["training"] / state.end, state.count, mean["saving"], mean["lost"], mean["down"], mean["waiting"],
        interval, 1 / rate,
    )  # fmt: skip


class _Draws:
    """Where all draws stand; each call of `next` takes all of them through one more interruption."""

    def __init__(
        self, generator: np.random.Generator, draws: int, end: float, interval: float, remedies: Remedies, nodes: int
    ) -> None:
        self.generator, self.end, self.interval, self.remedies = generator, end, interval, remedies
        self.now, self.count = np.zeros(draws), np.zeros(draws, np.int64)
        self.spent = {name: np.zeros(draws) for name in ("training", "saving", "lost", "down", "waiting")}
        spares = nodes if remedies.spares is None else min(remedies.spares, nodes)
        self.ready = np.zeros((draws, 1 if remedies.spares is None else max(spares, 1)))  # when each spare is there
        self.enough = remedies.spares is None
        self.none = spares == 0

    @property
    def alive(self) -> np.ndarray:
        """Draws whose time is not up."""
        return self.now < self.end

    def next(self, rate: float, planned: float, hardware: float) -> None:
        """Work until the next interruption, and come back from it."""
        draws, how = len(self.now), self.remedies
        up = self.generator.exponential(1 / (rate + planned), draws)
        was_planned = self.generator.random(draws) < planned / (rate + planned)
        breaks = ~was_planned & (self.generator.random(draws) < hardware)
        over = self.now + up >= self.end
        up = np.minimum(up, np.maximum(self.end - self.now, 0))
        cycle = self.interval + how.save
        whole = np.floor(up / cycle)
        rest = up - whole * cycle
        worked = np.minimum(rest, self.interval)
        # What is left at the end, or saved before a planned interruption, is kept; else it is done again. Where replica
        # groups share the work, only the group that was hit loses it, and the others' state brings it back.
        kept = worked * np.where(over | was_planned, 1.0, 1.0 - 1.0 / how.groups if how.groups > 1 else 0.0)
        alive = self.now < self.end
        self._spend("training", alive, whole * self.interval + kept)
        self._spend("saving", alive, whole * how.save + np.maximum(rest - self.interval, 0))
        self._spend("lost", alive, worked - kept)
        self.now = self.now + np.where(alive, up, 0)
        hit = alive & ~over
        self.count += hit & ~was_planned
        down = np.where(was_planned, how.save + how.restart, how.notice + how.restart)
        wait = self._wait(hit & breaks)
        off = np.minimum(down + wait, np.maximum(self.end - self.now, 0)) * hit
        share = 1.0 if how.groups == 1 else 1.0 / how.groups
        waited = np.minimum(off, wait * hit)
        self._spend("waiting", hit, waited * share)
        self._spend("down", hit, (off - waited) * share)
        self._spend("training", hit, off * (1 - share))
        self.now = self.now + off

    def _spend(self, name: str, who: np.ndarray, seconds: np.ndarray) -> None:
        self.spent[name] += np.where(who, seconds, 0)

    def _wait(self, broken: np.ndarray) -> np.ndarray:
        """Seconds until there is a node for the broken one, which comes back as a spare when it is repaired."""
        repair = self.remedies.repair * HOUR
        if self.enough:
            return np.zeros(len(broken))
        if self.none:
            return np.where(broken, repair, 0.0)
        first = self.ready.argmin(axis=1)
        rows = np.arange(len(broken))
        wait = np.where(broken, np.maximum(self.ready[rows, first] - self.now, 0.0), 0.0)
        self.ready[rows, first] = np.where(broken, self.now + repair, self.ready[rows, first])
        return wait


TRIED = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # times Daly's interval


def best_interval(
    devices: int,
    days: float,
    remedies: Remedies,
    record: Record | None = None,
    *,
    per_node: int = 8,
    draws: int = 200,
    seed: int = 1,
) -> float:
    """Seconds between checkpoints that train most, by simulation around Daly's, with the same draws.

    The share is flat about its maximum, so it is that of a parabola through the best and its neighbours.
    """
    between = 1 / (record or paper_record()).per_second(devices)
    around = max(daly(remedies.save, between), 1.0)
    tried = [around * factor for factor in TRIED]
    shares = [
        simulate(
            devices, days, remedies.model_copy(update={"interval": one}), record,
            per_node=per_node, draws=draws, seed=seed,
        ).mean
        for one in tried
    ]  # fmt: skip
    best = min(max(int(np.argmax(shares)), 1), len(tried) - 2)
    near = slice(best - 1, best + 2)
    curve, slope, _ = np.polyfit(np.log(tried[near]), shares[near], 2)
    if curve >= 0:
        return tried[int(np.argmax(shares))]
    return float(np.exp(np.clip(-slope / (2 * curve), math.log(tried[0]), math.log(tried[-1]))))


@dataclass(frozen=True)
class Worth:
    """What one remedy adds to the share of the time that trains."""

    remedy: str
    change: str
    """With what, beside without what."""

    had: bool
    """Whether the plan has it; else it is what it would add."""

    gain: float


def worth(
    devices: int,
    days: float,
    remedies: Remedies,
    record: Record | None = None,
    *,
    per_node: int = 8,
    draws: int = 300,
    seed: int = 1,
) -> list[Worth]:
    """What each remedy adds: those that the plan has beside the plan without, the others beside the plan with."""

    def share(changes: dict[str, Any]) -> float:
        how = remedies.model_copy(update=changes)
        return simulate(devices, days, how, record, per_node=per_node, draws=draws, seed=seed).mean

    r = remedies
    spares = "enough spare nodes" if r.spares is None else f"{r.spares} spare nodes"
    without: list[tuple[str, str, dict[str, Any]]] = [
        ("fast checkpoints", f"{r.save:g} s, not {6 * r.save:g}", {"save": 6 * r.save}),
        ("noticing at once", f"{r.notice:g} s, not {r.notice + 600:g}", {"notice": r.notice + 600}),
        ("fast restarts", f"{r.restart:g} s, not {2 * r.restart:g}", {"restart": 2 * r.restart}),
    ]
    further: list[tuple[str, str, dict[str, Any]]] = [
        ("checkpoints in memory", f"{r.save / 10:g} s, not {r.save:g}", {"save": r.save / 10}),
    ]
    if r.spares != 0:
        without.append(("spare nodes", f"{spares}, not none", {"spares": 0}))
    if r.spares is not None:
        further.append(("more spare nodes", f"enough, not {r.spares}", {"spares": None}))
    if r.groups > 1:
        without.append(("replica groups", f"{r.groups}, not 1", {"groups": 1}))
    elif devices > per_node:
        further.append(("replica groups", "8, not 1", {"groups": 8}))
    base = share({})
    found = [Worth(name, change, True, base - share(changes)) for name, change, changes in without]
    return found + [Worth(name, change, False, share(changes) - base) for name, change, changes in further]
