"""The energy a stage used: read from the processor's own counters where we may, estimated and called so elsewhere.

RAPL counts micro-joules per processor package and wraps around, so a thread reads it often enough. NVIDIA GPUs count
millijoules since their driver started. The estimate is watts times processor seconds, and says its watts.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
WATTS_PER_CORE = 8.0
"""Watts of one busy core with its share of the package, for the estimate (a 2-core laptop's 15 W is about this)."""

SAMPLE_SECONDS = 30.0


class Meter:
    """Counts energy from `start` to `stop`; `stop` returns `{"joules", "source"}`."""

    def __init__(self, rapl: Path = RAPL) -> None:
        self.domains = [domain for domain in sorted(rapl.glob("intel-rapl:*")) if _is_package(domain)]
        self.last: dict[Path, int] = {}
        self.microjoules = 0
        self.ended = threading.Event()

    def start(self) -> Meter:
        """Begin to count."""
        self.last = {domain: value for domain in self.domains if (value := _read(domain / "energy_uj")) is not None}
        self.gpus = _gpu_joules()
        self.processor, self.wall = _processor_seconds(), time.monotonic()
        if self.last:
            threading.Thread(target=self._watch, name="energy", daemon=True).start()
        return self

    def _watch(self) -> None:
        while not self.ended.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        for domain, before in self.last.items():
            now = _read(domain / "energy_uj")
            if now is None:
                continue
            wrap = _read(domain / "max_energy_range_uj") or 0
            self.microjoules += now - before if now >= before else now + wrap - before
            self.last[domain] = now

    def stop(self) -> dict[str, Any]:
        """The joules since `start`, and where the figure comes from."""
        self.ended.set()
        if self.last:
            self._sample()
            joules, source = self.microjoules / 1e6, "rapl"
        else:
            watts = float(os.environ.get("HERDBOOK_WATTS_PER_CORE") or WATTS_PER_CORE)
            seconds = _processor_seconds() - self.processor
            joules, source = watts * seconds, f"estimate: {watts:g} W per busy core × {seconds:.0f} core seconds"
        gpus = _gpu_joules()
        if gpus is not None and self.gpus is not None:
            joules, source = joules + gpus - self.gpus, f"{source}; GPUs: nvml"
        elif _gpu_in_use():
            source = f"{source}; GPUs not counted"
        return {"joules": round(joules, 1), "source": source}


def _is_package(domain: Path) -> bool:
    return domain.name.count(":") == 1  # intel-rapl:0 is a package, intel-rapl:0:1 a part of it


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _gpu_in_use() -> bool:
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda.is_available())


def _gpu_joules() -> float | None:
    """Joules all NVIDIA GPUs have used since their driver started; None without GPUs or without the counter."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0 or not count.value:
            return None
        total = 0.0
        for index in range(count.value):
            device, used = ctypes.c_void_p(), ctypes.c_ulonglong()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
                return None
            if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(used)) != 0:
                return None
            total += used.value / 1000
        return total
    finally:
        nvml.nvmlShutdown()
