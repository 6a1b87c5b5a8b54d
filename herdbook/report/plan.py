"""A plan as text: the layout and why, where a step's time and memory go, days, energy, money; what serving costs."""

from __future__ import annotations

from collections.abc import Sequence

from herdbook.report.budget import amount
from herdbook.report.text import duration, table
from herdbook.scaling.planner import TrainingPlan
from herdbook.scaling.search import reasons
from herdbook.scaling.serving import Serving
from herdbook.scaling.steps import GIB

SHOWN = 5


def plan_lines(plan: TrainingPlan) -> list[str]:
    """A training plan."""
    settings, step, cluster = plan.settings, plan.step, plan.cluster
    return [
        f"{settings.model}: {amount(plan.config.parameters())} parameters on {settings.devices:,} × {cluster.device} "
        f"({settings.cluster})",
        f"{amount(settings.tokens)} tokens in {plan.steps:,} steps of {amount(settings.batch)}, rows of "
        f"{settings.length:,}: {plan.steps * step.flops():.3g} FLOPs",
        "",
        *_layouts(plan),
        "",
        f"best: {step.layout}",
        *(f"  {line}" for line in _why(plan)),
        "",
        *_time(plan),
        "",
        *_memory(plan),
        "",
        *_run(plan),
    ]


def _layouts(plan: TrainingPlan) -> list[str]:
    found = plan.found
    rows = []
    for step in found.best[:SHOWN]:
        lay = step.layout
        rows.append(
            (
                " × ".join(map(str, lay.topology)), f"{lay.micros} × {lay.rows}", str(lay.stages), lay.recompute,
                f"{step.seconds:.3g}", f"{step.tflops:.0f}", f"{100 * step.mfu():.1f} %",
                f"{100 * step.mfu(full=True):.1f} %", f"{step.memory / GIB:.1f}",
            )
        )  # fmt: skip
    heads = ("TP × CP × PP × DP", "micro-batches × rows", "stages", "recompute", "s a step", "TFLOPs", "MFU")
    title = f"{found.tried:,} layouts divide model and batch, {found.fitted:,} fit; the best of each topology:"
    return [title, *table((*heads, "MFU, full attention", "GiB"), rows, right=tuple(range(9)))]


def _why(plan: TrainingPlan) -> list[str]:
    rows = []
    for reason in reasons(plan.step):
        took = "" if reason.ratio is None else f"{100 * (reason.ratio - 1):+.1f} %"
        rows.append((reason.change, took, reason.why))
    return table(("instead", "time", "because"), rows, right=(1,))


def _time(plan: TrainingPlan) -> list[str]:
    step = plan.step
    rows = [(name, f"{value:.3g}", f"{100 * value / step.seconds:.1f} %") for name, value in step.parts.items()]
    return table((f"a step of {step.seconds:.3g} s", "s", "share"), rows, right=(1, 2))


def _memory(plan: TrainingPlan) -> list[str]:
    step, memory = plan.step, plan.cluster.memory
    parts = sorted(step.memory_parts().items(), key=lambda item: -item[1])
    rows = [(name, f"{size / GIB:.1f}", f"{100 * size / GIB / memory:.1f} %") for name, size in parts if size > 0]
    return table(("memory of the fullest device, lean in bf16", "GiB", f"of {memory:.1f}"), rows, right=(1, 2))


def _run(plan: TrainingPlan) -> list[str]:
    outcome, settings = plan.outcome, plan.settings
    low, high = outcome.interval95
    spread = f"{100 * low:.1f} to {100 * high:.1f} %"
    rows = [
        ("training alone", f"{plan.days:,.1f} days"),
        ("an interruption every", duration(outcome.between)),
        ("a checkpoint every", duration(outcome.interval)),
        ("effective training time", f"{100 * outcome.mean:.1f} % ({spread} of simulated runs)"),
        (
            "lost to",
            f"saving {100 * outcome.saving:.1f} %, work done twice {100 * outcome.lost:.1f} %, noticing and restarting "
            f"{100 * outcome.down:.1f} %, waiting for nodes {100 * outcome.waiting:.1f} %",
        ),
        ("days in all", f"{plan.all_days:,.1f}"),
        ("device-hours", f"{plan.device_hours:,.0f}"),
        (
            "energy",
            f"{plan.kwh / 1e6:,.3g} GWh, {plan.cluster.watts:.0f} W a device, × {plan.cluster.overhead:g} for the site",
        ),
        ("carbon", f"{plan.tonnes:,.0f} t CO2e at {plan.cluster.carbon:g} kg a kWh"),
        ("money", f"${plan.dollars:,.0f} at ${plan.cluster.price:g} a device-hour"),
        ("products reach", f"{100 * plan.calibration.matmul:.1f} % of the peak (the one figure that was fitted)"),
    ]
    return table((f"{amount(settings.tokens)} tokens", ""), rows)


def serving_lines(found: Sequence[Serving]) -> list[str]:
    """What serving costs, a line a scheme."""
    rows = [
        (
            one.scheme, str(one.devices), f"{one.cache_per_token / 1024:.0f} KiB", f"{one.most:,}", f"{one.batch:,}",
            f"{one.prefill:,.0f}", f"{one.decode:,.0f}", f"{1000 * one.step:.1f} ms", f"${one.dollars:.2f}",
        )
        for one in found
    ]  # fmt: skip
    heads = ("scheme", "devices", "cache a token", "answers held", "batch", "prompt tokens/s/device")
    return table((*heads, "answer tokens/s/device", "a token", "a million tokens"), rows, right=tuple(range(1, 9)))
