"""A forecast beside what was measured, as text."""

from __future__ import annotations

from typing import Any

from herdbook.report.text import table

UNITS = {"memory": ("MiB", 1 << 20), "step_seconds": ("s", 1.0), "energy": ("kJ", 1e3)}
NAMES = {"step_seconds": "step time"}


def against_lines(name: str, where: str, found: dict[str, Any]) -> list[str]:
    """A line a figure, how it was measured below it."""
    rows = []
    for what in ("memory", "step_seconds", "loss", "score", "energy"):
        if what not in found:
            continue
        one = found[what]
        unit, size = UNITS.get(what, ("", 1.0))
        foreseen = one["forecast"]
        value = foreseen["value"] if isinstance(foreseen, dict) else foreseen
        told = f"{value / size:.4g} {unit}".strip()
        if isinstance(foreseen, dict):
            told += f" ({foreseen['low']:.3g} to {foreseen['high']:.3g})"
        measured = f"{one['measured'] / size:.4g} {unit}".strip()
        if "low" in one:
            measured += f" ({one['low']:.3g} to {one['high']:.3g})"
        error = f"{100 * one['error']:+.1f} " + ("points" if what == "score" else "%")
        rows.append((NAMES.get(what, what), told, measured, error))
    cal = found["calibration"]
    fitted = f"fitted to {cal['about']}" if cal["about"] else "as the paper's did; --calibrate ENTRY fits it to a run"
    notes = [f"  {NAMES.get(what, what)}: {one['source']}" for what, one in found.items() if _told(one)]
    if "energy" in found:
        notes.append(f"  energy's forecast: {found['energy']['forecast_source']}; the whole stage was measured")
    if "memory" not in found:
        notes.append("  memory: not told by the run (compiled, older, or adapters alone)")
    return [
        f"{name} on {where}",
        f"{found['layout']}",
        f"products reach {100 * cal['matmul']:.1f} % of the peak, {fitted}",
        "",
        *table(("", "forecast", "measured", "error"), rows, right=(3,)),
        "",
        "measured:",
        *notes,
    ]


def _told(one: Any) -> bool:
    return isinstance(one, dict) and "source" in one
