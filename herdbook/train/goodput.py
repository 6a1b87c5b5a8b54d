"""The goodput ledger: where a run's seconds went, over all its attempts (§3.3: more than 90 % of them to training).

Steps that count keep their seconds in the checkpoint, so a killed run neither loses nor doubles them. What a kill cost
is found by the next attempt: steps recorded after the checkpoint it goes on from are lost work, and the time from the
last of them to its own first step went to restarting. Both are added to `ledger.jsonl`. All clocks are monotonic; only
between two starts of the machine, where there is no such clock, the time of day is asked, and never below zero.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from herdbook.train.metrics import read_whole

ACCOUNTS = ("training", "waiting_for_data", "validating", "checkpointing", "starting", "restarting", "lost_work")


def machine_start() -> str:
    """What tells one start of this machine from another; empty where the system has no such thing."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


class Ledger:
    """The seconds of one run; `kept` goes into checkpoints, what restarts cost into `ledger.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.jsonl"
        self.begun = time.monotonic()
        self.kept = dict.fromkeys(ACCOUNTS[:5], 0.0)
        self.entries = read_whole(self.path)
        self.gap: float | None = None
        """Seconds from the last sign of life of the attempt before to this one; None for a first attempt."""

    def resume(self, kept: dict[str, float], step: int, metrics: Path) -> None:
        """Go on from a checkpoint after `step` steps (0 for none) of an attempt that left `metrics`, not yet cut."""
        done = [entry for entry in self.entries if entry["event"] == "finished" and entry["step"] == step]
        self.kept |= done[-1]["kept"] if done else kept
        records = read_whole(metrics)
        after = [record for record in records if record.get("step", 0) >= step]
        if after:
            lost = sum(record.get("seconds", 0.0) for record in after)
            self._add({"event": "lost_work", "seconds": lost, "steps": len(after), "resumed_at": step})
        if self.entries or records:
            self.gap = self._gap(records, metrics)

    def _gap(self, records: list[dict[str, Any]], metrics: Path) -> float:
        """Seconds from the last sign of life to the start of this attempt; none after a stop that was asked for."""
        last: dict[str, Any] = next((entry for entry in reversed(self.entries) if entry["event"] != "lost_work"), {})
        if last.get("event") == "stopped":
            return 0.0
        clock = max([last.get("clock", 0.0), *(record.get("clock", 0.0) for record in records[-1:])])
        if last.get("machine") == machine_start() and clock <= self.begun:
            return self.begun - clock
        return max(0.0, time.time() - metrics.stat().st_mtime) if metrics.exists() else 0.0

    def started(self) -> None:
        """The first step begins: what came before it was a start, or a restart."""
        now = time.monotonic() - self.begun
        if self.gap is None:
            self.kept["starting"] += now
            self._add({"event": "starting", "seconds": now})
        else:
            self._add({"event": "restarting", "seconds": now + self.gap})

    def lost(self, seconds: float, steps: int, step: int) -> None:
        """Within the run, seconds or a step came to nothing because others were lost or came back."""
        self._add({"event": "lost_work", "seconds": seconds, "steps": steps, "resumed_at": step})

    def stopped(self, step: int) -> None:
        """The run ends here because it was asked to; the time until somebody starts it again is theirs."""
        self._add({"event": "stopped", "step": step})

    def finished(self, step: int) -> None:
        """The run is at its end; its seconds are final."""
        self._add({"event": "finished", "step": step, "kept": self.kept})

    def figures(self) -> dict[str, Any]:
        """Seconds by account, restarts, steps done in vain, and the share of all seconds that went to training."""
        seconds = dict(self.kept)
        for account in ("restarting", "lost_work"):
            seconds[account] = sum(entry["seconds"] for entry in self.entries if entry["event"] == account)
        restarts = sum(entry["event"] == "restarting" for entry in self.entries)
        lost = sum(entry["steps"] for entry in self.entries if entry["event"] == "lost_work")
        total = sum(seconds.values())
        shown = {f"{account}_seconds": round(value, 3) for account, value in seconds.items()}
        return {**shown, "restarts": restarts, "lost_steps": lost, "share": seconds["training"] / max(total, 1e-9)}

    def _add(self, entry: dict[str, Any]) -> None:
        entry = {**entry, "clock": time.monotonic(), "time": time.time(), "machine": machine_start()}
        self.entries.append(entry)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
