"""Who holds a run up, when it hangs (§3.3.4): found from the ranks' beats and torch's flight recorders.

A recorder keeps the last collectives of every group of ranks, on NCCL and on gloo; the last of them that a rank has
begun is how far it has come. Each rank's record and Python stack are left in `hangs/`, where torch's own reader
(`torchfrtrace --prefix rank_ FOLDER`) takes them.
"""

from __future__ import annotations

import faulthandler
import json
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from herdbook import console
from herdbook.files import write_json


@dataclass
class Verdict:
    """Which ranks hold the run up, where they are and what the others wait for."""

    ranks: list[int]
    step: int
    """The step that hangs."""

    last_seen: str
    """Stage and step the ranks were last known to be in."""

    why: str
    waiting: str
    """The collective that other ranks have begun, empty where none has."""

    seconds: float
    stopped: list[tuple[int, float, str]] = field(default_factory=list)
    """(process, its start, host) of ranks that give no sign of life."""

    @property
    def line(self) -> str:
        """All of it in words."""
        ranks = ", ".join(map(str, self.ranks))
        waits = f"; the others wait in {self.waiting}" if self.waiting else ""
        return (
            f"step {self.step}: rank {ranks}, last seen in {self.last_seen}, {self.why}{waits} ({self.seconds:.0f} s)"
        )


def arrivals() -> dict[str, list[Any]]:
    """Group and library → [number, name] of the last collective this process has begun there, the newest last."""
    found: dict[str, list[Any]] = {}
    for entry in recorded():
        if not entry.get("is_p2p"):
            group, sizes = entry["process_group"], entry.get("input_sizes", "")
            name = f"{entry['profiling_name']} of {sizes} in group {' '.join(group)}"
            key = f"{group[0]} {entry['profiling_name'].split(':')[0]}"  # NCCL and gloo each count for themselves
            found.pop(key, None)
            found[key] = [int(entry["collective_seq_id"]), name]
    return found


def recorded() -> list[dict[str, Any]]:
    """What both of torch's recorders hold: NCCL keeps one of its own, all other backends share the other."""
    recorders: Any = torch._C._distributed_c10d
    dumps = [getattr(recorders, name, None) for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json")]
    return [entry for dump in dumps if dump is not None for entry in json.loads(dump()).get("entries", [])]


def judge(beats: dict[int, dict[str, Any]], silent: list[int], seconds: float) -> Verdict:
    """Who holds the others up: the silent; else who has not come where others wait; else who is behind in stages."""
    lacking, waiting = behind(beats)
    ranks = silent or lacking
    if silent:
        waiting = newest([beat for rank, beat in beats.items() if rank not in silent])
    if ranks:
        why = "gives no sign of life" if silent else "has not come"
    else:
        least = min(beat["count"] for beat in beats.values())
        ranks, why = [rank for rank, beat in beats.items() if beat["count"] == least], "stands still"
    known = [beats[rank] for rank in ranks if rank in beats]
    stopped = [(beat["pid"], beat["born"], beat["host"]) for beat in known] if silent else []
    if silent and known:
        why += state_of(known[0])
    first: dict[str, Any] = known[0] if known else {"step": -1, "stage": "starting"}
    step = max([beat["step"] for beat in beats.values()], default=-1)  # a silent one's last word may be a second old
    return Verdict(ranks, step, f"{first['stage']} of step {first['step']}", why, waiting, seconds, stopped)


def behind(beats: dict[int, dict[str, Any]]) -> tuple[list[int], str]:
    """Ranks that others wait for in a collective and that wait for nobody themselves, and that collective."""
    last: dict[str, int] = {}
    names: dict[str, str] = {}
    for beat in beats.values():
        for group, (number, name) in beat.get("arrived", {}).items():
            if number > last.get(group, 0):
                last[group], names[group] = number, f"#{number} {name}"
    late = {group: set[int]() for group in last}
    waits: set[int] = set()
    for group, number in last.items():
        at = {rank: beat["arrived"][group][0] for rank, beat in beats.items() if group in beat.get("arrived", {})}
        late[group] = {rank for rank, reached in at.items() if reached < number}
        if late[group]:
            waits |= at.keys() - late[group]
    everyone = set().union(*late.values()) if late else set()
    # Who waits elsewhere is held up by somebody else, unless they wait for each other.
    roots = everyone - waits or everyone
    group = next((group for group in late if late[group] & roots), None)
    return sorted(roots), names[group] if group is not None else ""


def newest(beats: list[dict[str, Any]]) -> str:
    """The collective that most of these ranks have begun last; empty where none has."""
    found = [list(beat["arrived"].values())[-1] for beat in beats if beat.get("arrived")]
    counted = Counter(f"#{number} {name}" for number, name in found)
    return counted.most_common(1)[0][0] if counted else ""


def state_of(beat: dict[str, Any]) -> str:
    """What the system says of a silent process, where it runs on this machine."""
    if beat["host"] != socket.gethostname():
        return f" on {beat['host']}"
    try:
        return f" (process {beat['pid']} is {psutil.Process(beat['pid']).status()})"
    except psutil.NoSuchProcess:
        return f" (process {beat['pid']} is gone)"


def dump(folder: Path, rank: int) -> None:
    """Leave this rank's flight record and Python stacks, unless they are there."""
    stacks = folder / f"stack_{rank}.txt"
    if stacks.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(stacks, "w", encoding="utf-8") as file:
        faulthandler.dump_traceback(file)
    recorders: Any = torch._C._distributed_c10d
    of_nccl = hasattr(recorders, "_dump_nccl_trace") and torch.cuda.is_available()
    (folder / f"rank_{rank}").write_bytes(recorders._dump_nccl_trace() if of_nccl else recorders._dump_fr_trace())


def tell(verdict: Verdict, folder: Path, rank: int) -> None:
    """Say it in a line, whichever rank this is, and leave it beside the records."""
    write_json(folder / "hang.json", {**verdict.__dict__, "line": verdict.line, "judged_by": rank})
    console.err.quiet = False
    console.log(
        "hang", rank=",".join(map(str, verdict.ranks)), step=verdict.step, last_seen=verdict.last_seen, why=verdict.why,
        others_wait_in=verdict.waiting or "nothing", seconds=round(verdict.seconds, 1), records=folder,
    )  # fmt: skip
