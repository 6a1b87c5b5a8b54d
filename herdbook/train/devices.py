"""The accelerators a recipe may be meant for, so that its memory and time can be reckoned on any machine.

A recipe's `machine:` block names them. It is no part of any stage's settings: the same run on other devices is the same
entry. Figures are the makers': dense bf16 operations without sparsity, and the memory that the driver shows.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass

import psutil
from pydantic import Field, field_validator

from herdbook.settings import Settings, UserError

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """One accelerator, or a CPU's share of its machine."""

    name: str
    """What it is called."""

    memory: float
    """Its memory, GiB."""

    peak: float | None
    """Dense bf16 operations per second; None where nobody has said."""


DEVICES = {
    device.name: device
    for device in (
        Device("a100-40gb", 40.0, 312e12),
        Device("a100", 80.0, 312e12),
        Device("h100", 79.6, 989e12),
        Device("h200", 140.4, 989e12),
        Device("b200", 179.0, 2250e12),
        Device("l40s", 45.0, 362e12),
        Device("rtx4090", 24.0, 165e12),
    )
}


class MachineSettings(Settings):
    """The machines a recipe is meant for; `herdbook run --check` reckons with them."""

    device: str = ""
    """The accelerator's name (a100, h100, h200, b200, …); this machine's own when empty."""

    memory: float | None = Field(None, gt=0)
    """Memory of one device, GiB, where the name does not tell."""

    per_machine: int = Field(8, gt=0)
    """Devices of one machine."""

    reserve: float = Field(4.0, ge=0)
    """Memory that CUDA, NCCL and the allocator's gaps take beside the run's tensors, GiB of each device."""

    mfu: float | None = Field(None, gt=0, lt=1)
    """Share of the device's peak that the run is thought to reach, causal count; the days are told from it."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if device and device.lower() not in DEVICES:
            raise UserError(f"there is no device {device!r} in the list; it has {', '.join(DEVICES)}")
        return device.lower()

    def chosen(self, processes: int) -> Device:
        """The device of each of `processes` processes: the named one, this machine's, or a share of its memory."""
        found = DEVICES.get(self.device) or here(processes)
        return Device(found.name, self.memory, found.peak) if self.memory else found

    @property
    def told(self) -> bool:
        """Whether the recipe says how much memory a device has."""
        return bool(self.device or self.memory)


def here(processes: int) -> Device:
    """This machine's GPU, or each process's share of its memory where there is none."""
    shown = _driver()
    if shown:
        name, memory = shown
        known = next((device for device in DEVICES.values() if device.name in name.lower().replace(" ", "")), None)
        return Device(name, memory, known.peak if known else None)
    return Device("cpu", psutil.virtual_memory().total / GIB / processes, None)


def available_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the physical cores this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def visible_devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, else the numbers of all GPUs the driver knows; asks no torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(number) for number in range(len(_asked()))]


def _driver() -> tuple[str, float] | None:
    """Name and GiB of the first GPU, as the driver tells; None without one."""
    try:
        name, mebibytes = _asked()[0].rsplit(",", 1)
        return name.strip(), float(mebibytes) / 1024
    except (IndexError, ValueError):
        return None


@functools.cache
def _asked() -> list[str]:
    """The driver's line of each GPU, `name, MiB`; asking torch would take seconds."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    ask = [command, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
