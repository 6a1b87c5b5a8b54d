"""Every way to lay a training step over a cluster's devices, the best first, and why (§3.3.2).

All of tensor, context, pipeline and data ranks, micro-batch sizes, interleaved stages and recomputation are tried; what
does not divide or does not fit is left out and counted. A layout's neighbours tell what binds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from herdbook.model.config import ModelConfig
from herdbook.scaling.cluster import Calibration, Cluster
from herdbook.scaling.steps import GIB, RESERVE_GIB, Layout, Recompute, Step
from herdbook.settings import UserError

MOST_ROWS = 8
CONTEXT_TOKENS = 8192
"""Tokens of a row that a context rank has at least, as in the paper's table 4: what shorter pieces lose in small
kernels and in messages that wait for the slowest of many nodes is not in the step's arithmetic."""
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Found:
    """What a search found."""

    best: list[Step]
    """The best layout of each topology, fastest first."""

    tried: int
    """Layouts that divide model and batch."""

    fitted: int
    """Those of them that fit the devices."""


def powers(most: int) -> list[int]:
    """1, 2, 4, … up to `most`."""
    return [1 << n for n in range(max(most, 1).bit_length())]


def layouts(
    config: ModelConfig,
    cluster: Cluster,
    devices: int,
    rows: int,
    length: int,
    context_tokens: int = CONTEXT_TOKENS,
) -> Iterator[Layout]:
    """Every layout of `devices` that divides the model and a step of `rows` rows."""
    for tensor in powers(min(cluster.devices_per_node, devices)):
        if config.heads % tensor or config.kv_heads % tensor or config.ffn_dim % tensor or length % tensor:
            continue
        for context in powers(devices // tensor):
            if context > 1 and (length % (2 * context * tensor) or length // context < context_tokens):
                continue
            for pipeline in powers(min(devices // tensor // context, config.layers + 2)):
                data, more = divmod(devices, tensor * context * pipeline)
                if more or rows % data:
                    continue
                yield from _schedules(config, tensor, context, pipeline, data, rows // data)


def _schedules(config: ModelConfig, tensor: int, context: int, pipeline: int, data: int, rows: int) -> Iterator[Layout]:
    for each in powers(min(MOST_ROWS, rows)):
        micros, more = divmod(rows, each)
        if more or micros < pipeline:
            continue
        stages = [v for v in range(1, 17) if (config.layers + 2) % (pipeline * v) == 0] or [1]
        if pipeline == 1 or micros % pipeline:
            stages = [1]
        for count in stages:
            for recompute in RECOMPUTE:
                yield Layout(tensor, context, pipeline, data, each, micros, count, recompute)


def search(
    config: ModelConfig,
    cluster: Cluster,
    calibration: Calibration,
    devices: int,
    tokens: int,
    length: int,
    context_tokens: int = CONTEXT_TOKENS,
) -> Found:
    """The fastest layouts of a step of `tokens` tokens in rows of `length`.

    Raises UserError when the batch is no whole number of rows, when nothing divides, and when nothing fits: then it
    says how much the leanest layout lacks and how many devices would hold it.
    """
    rows, more = divmod(tokens, length)
    if more or not rows:
        raise UserError(
            f"a step of {tokens:,} tokens is no whole number of rows of {length:,}; {max(rows, 1) * length:,} is"
        )
    best: dict[tuple[int, int, int, int], Step] = {}
    tried = fitted = 0
    leanest: Step | None = None
    for layout in layouts(config, cluster, devices, rows, length, context_tokens):
        step = Step(config, layout, length, cluster, calibration)
        tried += 1
        if not step.fits:
            leanest = step if leanest is None or step.memory < leanest.memory else leanest
            continue
        fitted += 1
        held = best.get(layout.topology)
        if held is None or step.seconds < held.seconds:
            best[layout.topology] = step
    if not best:
        raise UserError(_nothing(config, cluster, calibration, devices, tokens, length, context_tokens, leanest))
    return Found(sorted(best.values(), key=lambda step: step.seconds), tried, fitted)


def _nothing(
    config: ModelConfig,
    cluster: Cluster,
    calibration: Calibration,
    devices: int,
    tokens: int,
    length: int,
    context_tokens: int,
    leanest: Step | None,
) -> str:
    if leanest is None:
        return (
            f"no layout of {devices:,} devices divides the model and {tokens // length:,} rows; take a power of two of "
            "devices, or a batch with more rows"
        )

    def hold(count: int) -> bool:
        return any(
            Step(config, layout, length, cluster, calibration).fits
            for layout in layouts(config, cluster, count, tokens // length, length, context_tokens)
        )

    powers = (1 << power for power in range(devices.bit_length(), 21))
    more = next((count for count in powers if hold(count)), 0)
    if more:  # whole nodes of a count that is no power of two may do, where the rows divide among them
        unit = 1 if more <= cluster.devices_per_node else cluster.devices_per_node
        between = range(devices // unit * unit + unit, more, unit)
        more = next((count for count in between if hold(count)), more)
    lacks = leanest.memory / GIB - (cluster.memory - (0 if cluster.device == "cpu" else RESERVE_GIB))
    hint = f"{more:,} would hold it" if more else "no number of them would, with this batch"
    return (
        f"{devices:,} devices of {cluster.memory:.1f} GiB do not hold this model: the leanest layout "
        f"({leanest.layout}) lacks {lacks:.1f} GiB; {hint}"
    )


@dataclass(frozen=True)
class Reason:
    """What becomes of a layout when one thing about it is changed."""

    change: str
    """The thing, and what it was changed to."""

    ratio: float | None
    """How many times as long a step takes then; None where it does not divide or fit."""

    why: str
    """What it costs or gains most, or why it cannot be."""


def reasons(step: Step, context_tokens: int = CONTEXT_TOKENS) -> list[Reason]:
    """Why this layout and not its neighbours: each of its ranks doubled or halved at the expense of data ranks.

    `context_tokens` is that of the search which found it.
    """
    found = []
    for name in ("tensor", "context", "pipeline"):
        value = getattr(step.layout, name)
        for other in (value * 2, value // 2):
            if other:
                found.append(_reason(step, name, other, context_tokens))
    for recompute in RECOMPUTE:
        if recompute != step.layout.recompute:
            changed = replace(step, layout=replace(step.layout, recompute=recompute))
            found.append(_judged(step, changed, f"recompute {recompute}"))
    return found


def _reason(step: Step, name: str, value: int, context_tokens: int) -> Reason:
    lay = step.layout
    rows = step.tokens // step.length
    change = f"{name} {value}"
    if name == "context" and value > 1 and step.length // value < context_tokens:
        return Reason(change, None, f"leaves a rank {step.length // value:,} tokens of a row, not {context_tokens:,}")
    others = [
        layout
        for layout in layouts(step.config, step.cluster, lay.devices, rows, step.length, context_tokens)
        if getattr(layout, name) == value
        and all(getattr(layout, n) == getattr(lay, n) for n in ("tensor", "context", "pipeline") if n != name)
    ]
    if not others:
        return Reason(change, None, "does not divide model or node, or leaves too few micro-batches")
    steps = [replace(step, layout=layout) for layout in others]
    fitting = [one for one in steps if one.fits]
    best = min(fitting or steps, key=lambda one: one.seconds if fitting else one.memory)
    return _judged(step, best, change)


def _judged(step: Step, changed: Step, change: str) -> Reason:
    if not changed.fits:
        return Reason(change, None, f"needs {changed.memory / GIB:.1f} GiB")
    was, now = _grouped(step), _grouped(changed)
    slower = changed.seconds > step.seconds
    moved = {name: now.get(name, 0.0) - was.get(name, 0.0) for name in {*was, *now}}
    name = max(sorted(moved), key=lambda one: moved[one] if slower else -moved[one])
    return Reason(change, changed.seconds / step.seconds, f"{name} {100 * moved[name] / step.seconds:+.1f} %")


def _grouped(step: Step) -> dict[str, float]:
    """Seconds by part, the head's among the products, as a pipeline has them."""
    parts = dict(step.parts)
    parts["products"] += parts.pop("head", 0.0)
    return parts


def binding(step: Step) -> list[str]:
    """What keeps the step from being faster: memory where it is nearly full, the parts that take most of the time."""
    told = []
    usable = step.cluster.memory - (0.0 if step.cluster.device == "cpu" else RESERVE_GIB)
    full = step.memory / GIB / usable
    if full > 0.85:
        told.append(f"memory: {step.memory / GIB:.1f} of {usable:.1f} GiB that a run may use")
    for name, value in sorted(_grouped(step).items(), key=lambda part: -part[1]):
        share = f"{name}: {100 * value / step.seconds:.1f} % of the step"
        if name == "products":
            told.append(f"{share}, at {100 * step.calibration.matmul:.1f} % of the peak")
        elif value > 0.04 * step.seconds:
            told.append(share)
    return told
