"""Laws fitted to runs as text: isoFLOP minima, the three approaches, every law's error, the forecast, over-training."""

from __future__ import annotations

from typing import Any

from herdbook.report.budget import amount
from herdbook.report.text import table
from herdbook.scaling.fitting import Ladder
from herdbook.scaling.isoflop import sizes_of


def law_lines(found: Ladder) -> list[str]:
    """What `herdbook scale` prints."""
    figures = found.figures
    budgets = len(found.curves.curves)
    return [
        f"{len(found.runs)} runs, {budgets} isoFLOP curves; a run's loss is off its curve by {found.curves.noise:.2g}",
        "",
        *_minima(found),
        "",
        f"best tokens = {found.curves.tokens.coefficient:.3g} · FLOPs^{found.curves.tokens.exponent:.3f}",
        *_approaches(figures["approaches"]),
        "",
        *_laws(figures),
        "",
        *_forecast(figures["forecast"]),
        "",
        *_overtrained(figures["overtrained"], figures["forecast"]["flops"]),
    ]


def _span(one: dict[str, Any], digits: str = ".3f") -> str:
    return f"{one['low']:{digits}} – {one['high']:{digits}}" if "low" in one else ""


def _minima(found: Ladder) -> list[str]:
    rows = []
    for curve in found.curves.curves:
        size = found.runs.parameters[curve.runs]
        best = curve.parameters
        rows.append(
            (
                f"{curve.flops:.3g}", f"{sizes_of(found.runs, curve.runs)}",
                f"{amount(size.min())} – {amount(size.max())}",
                amount(best), amount(curve.tokens), f"{curve.tokens / best:.3g}", f"{curve.loss:.4g}",
            )
        )  # fmt: skip
    heads = ("FLOPs", "sizes", "trained", "best size", "best tokens", "tokens a parameter", "loss there")
    return table(heads, rows, right=(0, 1, 3, 4, 5, 6))


def _approaches(found: dict[str, dict[str, Any]]) -> list[str]:
    rows = [
        (name, f"{one['value']:.3f}" if "value" in one else "–", _span(one) or one.get("without", ""))
        for name, one in found.items()
    ]
    return table(("approach", "best size grows with FLOPs^", "95 % interval"), rows, right=(1,))


def _laws(figures: dict[str, Any]) -> list[str]:
    rows = [
        (name, f"{100 * one['fitted']:.2f} %", f"{100 * one['error']:.2f} %", f"{100 * one['bias']:+.2f} %")
        for name, one in sorted(figures["held_out"].items(), key=lambda item: item[1]["error"])
    ]
    heads = ("law", "error, smaller budgets", "error, largest budget, unseen", "bias there")
    told = ", ".join(f"{name} {value:.4g}" for name, value in figures["constants"].items())
    return [*table(heads, rows, right=(1, 2, 3)), f"chinchilla's constants on all runs: {told}"]


def _forecast(coming: dict[str, Any]) -> list[str]:
    loss = coming["loss"]
    lines = [
        f"forecast for {coming['flops']:.3g} FLOPs: {amount(coming['parameters'])} parameters on "
        f"{amount(coming['tokens'])} tokens, loss {loss['value']:.4g} ({_span(loss, '.4g')})"
    ]
    for name, one in coming.items():
        if name.startswith("score_"):
            lines.append(f"  {name.removeprefix('score_')}: {one['value']:.3f} ({_span(one)})")
    return lines


def _overtrained(found: list[dict[str, Any]] | dict[str, str], flops: float) -> list[str]:
    if isinstance(found, dict):
        return [f"over-training: {found['without']}"]
    rows = []
    for one in found:
        reached = one["tokens"] is not None
        rows.append(
            (
                f"{one['share']:g}", amount(one["parameters"]), f"{one['loss']:.4g}",
                amount(one["tokens"]) if reached else "never", f"{one['training']:.2f} ×" if reached else "",
                f"{one['share']:g} ×" if reached else "", amount(one["served"]) if reached else "",
            )
        )  # fmt: skip
    heads = (
        "of the best size", "parameters", "loss, same FLOPs", "tokens to be as good", "training", "serving",
        "pays off from, tokens served",
    )  # fmt: skip
    return [
        f"smaller models trained longer, beside the best for {flops:.3g} FLOPs:",
        *table(heads, rows, right=(0, 1, 2, 3, 4, 5, 6)),
    ]
