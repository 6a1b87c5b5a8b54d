"""The processes of a `SpreadModel`: started by the command itself, or by torchrun where they are on several machines.

Followers of one machine are new processes that meet the first rank at a port of this machine; they end with it,
however it ends. Under torchrun every process runs the same command: the first goes on, the others follow and end.
Run as `-m herdbook.inference.ranks JSON` for a follower. Tried with gloo only.
"""

from __future__ import annotations

import atexit
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from herdbook.inference.layout import Layout, check_layout
from herdbook.inference.parallel import SpreadModel, follow
from herdbook.inference.pipeline import Member
from herdbook.inference.shares import Place, Share, load_share
from herdbook.model.huggingface import read_config
from herdbook.settings import UserError

IDLE = datetime.timedelta(days=365)
"""How long followers wait for the next request; that the first rank is gone they see at once."""
START_SECONDS = 600.0
"""Time for a follower to start, before its weights are read."""
WATCH_SECONDS = 0.5


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def follows(layout: Layout) -> bool:
    """Whether this process is a rank but the first under torchrun: `load_spread` then never returns."""
    return layout.ranks > 1 and started_by_torchrun() and os.environ["RANK"] != "0"


def load_spread(
    folder: Path, layout: Layout, device: str | None = None, dtype: torch.dtype | None = None
) -> SpreadModel:
    """The model of a Hugging Face folder on the ranks of a layout, `device` cpu or cuda (where there is one if None).

    UserError when the model cannot lie so, or there are too few devices or processes.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: only Hugging Face folders are read on several ranks; convert this one first")
    check_layout(layout, read_config(folder))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        raise UserError(f"device={kind}: with several ranks say cpu or cuda; each rank takes a device of its own")
    if dist.is_initialized():
        raise UserError(
            "only one model of a process can lie on several ranks; serve the others by commands of their own"
        )
    if started_by_torchrun():
        return _by_torchrun(folder, layout, kind, dtype)
    if kind == "cuda" and torch.cuda.device_count() < layout.ranks:
        raise UserError(
            f"tensor_parallel={layout.tensor_parallel} * pipeline_parallel={layout.pipeline_parallel} asks for "
            f"{layout.ranks} GPUs, and this machine has {torch.cuda.device_count()}; on several machines use torchrun"
        )
    return _by_this_process(folder, layout, kind, dtype)


def join(folder: Path, layout: Layout, kind: str, dtype: torch.dtype | None) -> Member:
    """This rank's part, in a group of processes that have met; an error of any rank is raised on all."""
    place = Place(layout, dist.get_rank())
    group = None
    for stage in range(layout.pipeline_parallel):
        first = stage * layout.tensor_parallel
        if layout.tensor_parallel > 1:
            made = dist.new_group(list(range(first, first + layout.tensor_parallel)), timeout=IDLE)
            group = made if stage == place.stage else group
    problem: BaseException | None = None
    share: Share | None = None
    try:
        share = load_share(
            folder, place, group, dtype, f"cuda:{torch.cuda.current_device()}" if kind == "cuda" else kind
        )
    except Exception as error:
        problem = error
    told: list[Any] = [None] * layout.ranks
    dist.all_gather_object(told, None if problem is None else (isinstance(problem, UserError), str(problem)))
    for rank, one in enumerate(told):
        if one is not None:
            raise UserError(one[1]) if one[0] else RuntimeError(f"rank {rank}: {one[1]}") from problem
    assert share is not None
    return Member(share)


def _by_torchrun(folder: Path, layout: Layout, kind: str, dtype: torch.dtype | None) -> SpreadModel:
    size = int(os.environ["WORLD_SIZE"])
    if size != layout.ranks:
        raise UserError(
            f"torchrun started {size} processes, and tensor_parallel={layout.tensor_parallel} * pipeline_parallel="
            f"{layout.pipeline_parallel} asks for {layout.ranks}"
        )
    _meet(kind, int(os.environ.get("LOCAL_RANK", "0")), init_method="env://")
    member = join(folder, layout, kind, dtype)
    if member.place.rank > 0:
        _ignore_signals()
        follow(member)
        sys.exit(0)
    return _first(member, lambda: None)


def _by_this_process(folder: Path, layout: Layout, kind: str, dtype: torch.dtype | None) -> SpreadModel:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(minutes=5))
    threads = max(1, torch.get_num_threads() // layout.ranks)
    told = {
        "port": store.port,
        "parent": os.getpid(),
        "folder": str(folder.absolute()),
        "layout": layout.model_dump(),
        "kind": kind,
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    followers = [
        subprocess.Popen(
            [sys.executable, "-m", "herdbook.inference.ranks", json.dumps({**told, "rank": rank})], env=environment
        )
        for rank in range(1, layout.ranks)
    ]

    def end() -> None:
        for follower in followers:
            try:
                follower.wait(10)
            except subprocess.TimeoutExpired:
                follower.kill()
                follower.wait()

    try:
        _await(store, followers)
        _meet(kind, 0, store=store, rank=0, world_size=layout.ranks)
        torch.set_num_threads(threads)
        return _first(join(folder, layout, kind, dtype), end)
    except BaseException:
        for follower in followers:
            follower.kill()
            follower.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
        raise


def _first(member: Member, end: Callable[[], None]) -> SpreadModel:
    """The model on the first rank; when it is closed, or this process ends, the others end."""

    def close() -> None:
        end()
        if dist.is_initialized():
            dist.destroy_process_group()

    model = SpreadModel(member, close)
    atexit.register(model.close)
    return model


def _await(store: dist.TCPStore, followers: list[subprocess.Popen[bytes]]) -> None:
    """Until every follower is there; RuntimeError when one ends before."""
    over = time.monotonic() + START_SECONDS
    while not store.check([f"here/{rank}" for rank in range(1, len(followers) + 1)]):
        for rank, follower in enumerate(followers, 1):
            if follower.poll() is not None:
                raise RuntimeError(f"rank {rank} ended at its start (exit code {follower.returncode})")
        if time.monotonic() > over:
            raise RuntimeError(f"not all ranks were there after {START_SECONDS:.0f} s")
        time.sleep(0.02)


def _meet(kind: str, local_rank: int, **how: Any) -> None:
    if kind == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=IDLE, **how)


def _ignore_signals() -> None:
    """A terminal's Ctrl-C and a scheduler's SIGTERM go to all ranks; the first one decides when to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _follower(told: dict[str, Any]) -> None:
    """A follower's whole life."""
    parent = int(told["parent"])
    _ignore_signals()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    wait = datetime.timedelta(minutes=5)
    store = dist.TCPStore("127.0.0.1", told["port"], is_master=False, timeout=wait)
    layout, dtype = Layout(**told["layout"]), told["dtype"] and getattr(torch, told["dtype"])
    store.set(f"here/{told['rank']}", "")
    _meet(told["kind"], told["rank"], store=store, rank=told["rank"], world_size=layout.ranks)
    try:
        member = join(Path(told["folder"]), layout, told["kind"], dtype)
    except UserError:
        sys.exit(2)  # the first rank tells
    try:
        follow(member)
    except RuntimeError:
        if os.getppid() == parent:
            raise
    os._exit(0)  # what is left of the group belongs to no pass


def _end_with(parent: int) -> None:
    """End when the first rank's process is gone, even where it is not waited for."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    _follower(json.loads(sys.argv[1]))
