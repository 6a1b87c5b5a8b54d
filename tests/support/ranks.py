"""Runs a function on several ranks: processes forked after torch was imported, joined by gloo.

Forking costs a fraction of what a fresh Python with torch does. A rank that raises, or hangs, ends the others.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LOST: list[str] = []
"""What ranks left that hung or were ended by a signal, for the end of the test run."""


class RankFailed(AssertionError):
    """A rank raised or was stopped; the message has its traceback."""


class RankLost(RankFailed):
    """A rank was ended by a signal, or all of them hung."""


def run_ranks(count: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """`function(*args)` on each of `count` ranks; what each returned, by rank.

    Ranks that hung or were ended by a signal get one more turn, since gloo on a busy machine can do that to a sound
    program; what they left is told at the end of the test run, so that it does not go unseen.
    """
    try:
        return _turn(count, function, args, timeout)
    except RankLost as error:
        LOST.append(f"a second turn for {getattr(function, '__name__', function)} on {count} ranks:\n{error}")
        return _turn(count, function, args, timeout)


def _turn(count: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = [_fork(rank, count, folder, function, args, timeout) for rank in range(count)]
        failed = _wait(children, timeout)
        notes = [folder / f"{rank}.{kind}" for rank in range(count) for kind in ("error", "crash")]
        told = [note.read_text() for note in notes if note.exists() and note.stat().st_size]
        if failed or told:
            crashed = any(how.startswith("was ended") for how in failed.values())
            hung = failed and all(how.startswith("was stopped") for how in failed.values())
            text = "\n".join([*(f"rank {rank} {how}" for rank, how in failed.items()), *told])
            raise (RankLost if crashed or hung else RankFailed)(text)
        return [pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(count)]


def _fork(
    rank: int, count: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...], timeout: float
) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    crash = (folder / f"{rank}.crash").open("w")
    faulthandler.enable(crash)  # a rank ended by a signal leaves the lines it was at, and so does one that hangs
    faulthandler.register(signal.SIGUSR1, crash)
    gc.freeze()  # what the parent had is its own to end: a process group's threads, say, are not here to be joined
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), count)
        wait = timedelta(seconds=timeout)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=wait)
        result = function(*args)
        (folder / f"{rank}.result").write_bytes(pickle.dumps(result))
        dist.barrier()
        code = 0
    except BaseException:
        (folder / f"{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
    finally:
        os._exit(code)


def _wait(children: list[int], timeout: float) -> dict[int, str]:
    """How ranks ended that did not end well; when one does the others are killed, for they would wait for it."""
    left, end = dict(enumerate(children)), time.monotonic() + timeout
    failed: dict[int, str] = {}
    while left:
        for rank, child in list(left.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del left[rank]
                if os.WIFSIGNALED(status):
                    failed[rank] = f"was ended by {signal.Signals(os.WTERMSIG(status)).name}"
                elif status:
                    failed[rank] = f"ended with {os.waitstatus_to_exitcode(status)}"
        if failed or time.monotonic() > end:
            for child in left.values():
                os.kill(child, signal.SIGUSR1)
            time.sleep(0.5)
            for child in left.values():
                os.kill(child, signal.SIGSTOP)  # so that none tells of another's end as if that were its own trouble
            for rank, child in left.items():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                failed[rank] = f"was stopped, after {timeout} s or because another failed"
            break
        time.sleep(0.01)
    return failed
