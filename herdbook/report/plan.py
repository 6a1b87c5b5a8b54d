"""A plan as text: the layout and why, where a step's time and memory go, days, interruptions, energy, money."""

from __future__ import annotations

from herdbook.report.budget import amount
from herdbook.report.text import duration, table
from herdbook.scaling.interruptions import daly, young
from herdbook.scaling.planner import TrainingPlan
from herdbook.scaling.search import binding
from herdbook.scaling.steps import GIB

SHOWN = 5


def plan_lines(plan: TrainingPlan) -> list[str]:
    """A training plan, within 100 columns."""
    settings, step, cluster = plan.settings, plan.step, plan.cluster
    return [
        f"{plan.name}: {amount(plan.config.parameters())} parameters on {settings.devices:,} × {cluster.device} "
        f"({settings.cluster})",
        f"{amount(settings.tokens)} tokens in {plan.steps:,} steps of {amount(settings.batch)}, rows of "
        f"{settings.length:,}: {plan.steps * step.flops():.3g} FLOPs",
        "",
        *_layouts(plan),
        "",
        f"best: {step.layout}",
        "what binds it:",
        *(f"  {line}" for line in binding(step)),
        "",
        *(f"  {line}" for line in _why(plan)),
        "",
        *_time(plan),
        "",
        *_memory(plan),
        "",
        *_run(plan),
        "",
        *_interruptions(plan),
        "",
        *_calibration(plan),
    ]


def _layouts(plan: TrainingPlan) -> list[str]:
    found, best = plan.found, plan.step
    rows = []
    for step in found.best[:SHOWN]:
        lay, cost = step.layout, plan.costs(step)
        more = "" if step is best else f"{100 * (step.seconds / best.seconds - 1):+.1f} %"
        days = f"{cost['days']:,.1f}" if cost["days"] >= 1 else f"{24 * cost['days']:,.1f} h"
        rows.append(
            (
                " × ".join(map(str, lay.topology)), f"{lay.micros} × {lay.rows}", str(lay.stages), lay.recompute,
                f"{step.seconds:.3g}", more, days, f"{cost['dollars']:,.0f}", f"{step.tflops:.0f}",
                f"{100 * step.mfu():.1f} %", f"{step.memory / GIB:.1f}",
            )
        )  # fmt: skip
    heads = ("TP × CP × PP × DP", "micros", "stages", "recompute", "s/step", "more", "days", "$", "TFLOPs", "MFU")
    title = f"{found.tried:,} layouts divide model and batch, {found.fitted:,} fit; the best of each topology:"
    return [title, *table((*heads, "GiB"), rows, right=(0, 1, 2, 4, 5, 6, 7, 8, 9, 10))]


def _why(plan: TrainingPlan) -> list[str]:
    rows = []
    for reason in plan.reasons:
        took = "" if reason.ratio is None else f"{100 * (reason.ratio - 1):+.1f} %"
        rows.append((reason.change, took, reason.why))
    return table(("instead", "time", "because"), rows, right=(1,))


def _time(plan: TrainingPlan) -> list[str]:
    step = plan.step
    rows = [(name, f"{value:.3g}", f"{100 * value / step.seconds:.1f} %") for name, value in step.parts.items()]
    rows.append(("MFU with full attention", "", f"{100 * step.mfu(full=True):.1f} %"))
    return table((f"a step of {step.seconds:.3g} s", "s", "share"), rows, right=(1, 2))


def _memory(plan: TrainingPlan) -> list[str]:
    step, memory = plan.step, plan.cluster.memory
    parts = sorted(step.memory_parts().items(), key=lambda item: -item[1])
    rows = [(name, f"{size / GIB:.1f}", f"{100 * size / GIB / memory:.1f} %") for name, size in parts if size > 0]
    return table(("memory of the fullest device, lean in bf16", "GiB", f"of {memory:.1f}"), rows, right=(1, 2))


def _run(plan: TrainingPlan) -> list[str]:
    cluster = plan.cluster
    rows = [
        ("training alone", f"{plan.days:,.1f} days"),
        ("days in all", f"{plan.all_days:,.1f}"),
        ("device-hours", f"{plan.device_hours:,.0f}"),
        ("energy", f"{_watt_hours(plan.kwh)}, {cluster.watts:g} W a device, × {cluster.overhead:g} for the site"),
        ("carbon", f"{plan.tonnes:,.4g} t CO2e at {cluster.carbon:g} kg a kWh"),
        ("money", f"${plan.dollars:,.0f} at ${cluster.price:g} a device-hour"),
    ]
    return table((f"{amount(plan.settings.tokens)} tokens", ""), rows)


def _watt_hours(kwh: float) -> str:
    for size, unit in ((1e6, "GWh"), (1e3, "MWh")):
        if kwh >= size:
            return f"{kwh / size:,.3g} {unit}"
    return f"{kwh:,.3g} kWh"


def _interruptions(plan: TrainingPlan) -> list[str]:
    outcome, remedies = plan.outcome, plan.settings.remedies
    low, high = outcome.interval95
    save, between = remedies.save, outcome.between
    used = "" if remedies.interval is None else f"; the plan has {duration(outcome.interval)}"
    rows = [
        ("one every", duration(between)),
        ("effective training time", f"{100 * outcome.mean:.1f} % ({100 * low:.1f} to {100 * high:.1f} % of runs)"),
        ("lost to saving", f"{100 * outcome.saving:.1f} %"),
        ("  work done twice", f"{100 * outcome.lost:.1f} %"),
        ("  noticing, restarting", f"{100 * outcome.down:.1f} %"),
        ("  waiting for nodes", f"{100 * outcome.waiting:.1f} %"),
        ("a checkpoint every", f"Young {duration(young(save, between))}, Daly {duration(daly(save, between))}, "
         f"best simulated {duration(plan.best_interval)}{used}"),
    ]  # fmt: skip
    lines = table(("interruptions", ""), rows)
    days = plan.all_days
    worth = []
    for one in plan.worth:
        # The days that the run would take without what it has, or saves with what it has not.
        other = plan.days / max(plan.outcome.mean + (-one.gain if one.had else one.gain), 1e-6)
        saved = (other - days) if one.had else (days - other)  # below 0 for what only costs
        money = saved * 24 * plan.settings.devices * plan.cluster.price
        words = ("∞", "") if other > 100 * days else (f"{saved:,.1f}", f"{money:,.0f}")
        worth.append((one.remedy, one.change, "has" if one.had else "could", f"{100 * one.gain:+.1f}", *words))
    heads = ("remedy", "with, not without", "the plan", "points", "days saved", "$ saved")
    return [*lines, "", *table(heads, worth, right=(3, 4, 5))]


def _calibration(plan: TrainingPlan) -> list[str]:
    cal = plan.calibration
    fitted = cal.about or "row 1 of the paper's table 4; other shares are assumed"
    return [f"products reach {100 * cal.matmul:.1f} % of the peak, fitted to {fitted}"]
