"""What training stages need, as `herdbook run --check` prints it: batches, ranks, memory, time."""

from __future__ import annotations

from collections.abc import Iterable

from herdbook.budget import Budget
from herdbook.report.text import table
from herdbook.train.devices import GIB

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def budget_lines(found: Iterable[Budget]) -> list[str]:
    """The lines of all stages; none when no stage trains a model whose shape is known."""
    lines: list[str] = []
    for item in found:
        lines += ["", *_one(item)]
    return lines


def _one(found: Budget) -> list[str]:
    parallel, device = found.settings.parallel, found.device
    devices = f"{parallel.size:,} × {device.name}" if parallel.size > 1 else device.name
    machines = -(-parallel.size // found.machine.per_machine)
    where = f" on {machines:,} machines of {found.machine.per_machine}" if machines > 1 else ""
    lines = [f"{found.stage}: {amount(found.config.parameters())} parameters, {devices}{where}"]
    if parallel.size > 1:
        axes = ("pipeline", "data", "shard", "context", "tensor")
        lines.append("  ranks: " + " × ".join(f"{name} {getattr(parallel, name)}" for name in axes))
    if parallel.tensor > found.machine.per_machine:
        lines.append(f"  tensor={parallel.tensor} crosses machines of {found.machine.per_machine}: slow")
    lines += ["", *(f"  {line}" for line in _phases(found)), "", *(f"  {line}" for line in _memory(found))]
    return [*lines, "", f"  {_time(found)}"]


def _phases(found: Budget) -> list[str]:
    piped = found.settings.parallel.pipeline > 1
    rows = []
    for phase in found.phases:
        part = phase.part
        batch = f"{part.rows} × {part.length:,} × {part.accumulate}"
        cells = [f"{part.first:,}", f"{phase.steps:,}", batch, f"{part.step_tokens:,}", amount(phase.tokens)]
        cells += [f"{phase.flops_per_token:.3g}", f"{phase.need.total / GIB:.1f}"]
        rows.append([*cells, f"{100 * phase.bubble:.0f} %"] if piped else cells)
    heads = ["from step", "steps", "rows × length × micro-batches", "tokens a step", "tokens", "FLOPs a token"]
    heads += ["GiB a device", *(["pipeline idle"] if piped else [])]
    return table(heads, rows, right=tuple(range(len(heads))))


def _memory(found: Budget) -> list[str]:
    need, memory = found.fullest.need, found.device.memory
    items = [*need.parts.items(), *([("driver and gaps", found.reserve)] if found.reserve else [])]
    rows = [(name, f"{size / GIB:.2f}", f"{100 * size / GIB / memory:.1f} %") for name, size in items]
    free = found.free / GIB
    rows.append(("free" if free >= 0 else "too much", f"{abs(free):.2f}", f"{100 * abs(free) / memory:.1f} %"))
    where = f" (pipeline rank {need.rank})" if found.settings.parallel.pipeline > 1 else ""
    return table((f"memory at the fullest moment{where}", "GiB", f"of {memory:.1f}"), rows, right=(1, 2))


def _time(found: Budget) -> str:
    tokens = sum(phase.tokens for phase in found.phases)
    said = f"{amount(tokens)} tokens in {sum(phase.steps for phase in found.phases):,} steps, {found.flops:.2g} FLOPs"
    if found.days is None:
        return f"{said}; days are told where the recipe's machine has an mfu and a known device"
    assert found.machine.mfu is not None and found.device.peak is not None
    time = f"{found.days:.1f} days" if found.days >= 2 else f"{24 * found.days:.1f} hours"
    rate = found.device.peak * found.machine.mfu / 1e12
    return f"{said}: {time} at {100 * found.machine.mfu:.0f} % MFU ({rate:.0f} TFLOPs a device)"


def amount(number: float) -> str:
    """A number as a reader says it: `15.6T`, `405.9B`, `1.2M`."""
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"
