"""Checkpoints: torch DCP, a new folder per step, `.metadata` the commit mark (§3.3).

    checkpoints/step-00000100/{.metadata, __0_0.distcp, run.json, checksums.json}

A folder is never written twice: a save that was killed has no `.metadata` and is thrown away. Checksums are
compared before anything is loaded, so a damaged checkpoint is set aside and the newest whole one is used.
Saving is done by a thread. It first copies the tensors, into memory that it keeps for the next time, while the loop
does the next forward and backward pass: only before the optimizer changes them has the loop to wait (`settle`).
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from herdbook.console import log
from herdbook.files import read_json, sync_folder, write_json
from herdbook.settings import UserError
from herdbook.train.machine import one_thread
from herdbook.train.spread import local

PREFIX = "step-"
MARK, RUN, CHECKSUMS = ".metadata", "run.json", "checksums.json"
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

State = dict[str, Any]
"""What is saved: nested dicts of tensors, loaded in place."""


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int = 2, ranks: Any = None) -> None:
        """With `ranks` (`distributed.Ranks`) every call is made by all of them, and each writes and reads its part."""
        self.folder, self.keep, self.ranks = folder, keep, ranks
        self.background = RanksInThread(ranks)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=one_thread)
        self.pending: Future[None] | None = None
        self.copies: State = {}
        self.copied = threading.Event()
        self.copied.set()
        self.save_seconds: list[float] = []
        """What each save took, copy and all."""

    def steps(self) -> list[int]:
        """Steps of which there is a committed checkpoint, oldest first."""
        found = self.folder.glob(f"{PREFIX}*/{MARK}")
        return sorted(int(mark.parent.name.removeprefix(PREFIX)) for mark in found if _is_step(mark.parent))

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"{PREFIX}{step:08d}"

    def save(self, step: int, state: State, run: dict[str, Any]) -> None:
        """Start saving the state after `step` steps; waits for the save before. `run` is what JSON can hold.

        The tensors must not change before `settle`. Raises UserError when the disk is full or can't be written; older
        checkpoints stay.
        """
        self.wait()
        self.copied.clear()
        done = _event()
        self.pending = self.pool.submit(self._copy_and_write, step, state, {"step": step, **run}, done)

    def settle(self) -> None:
        """Wait until what is being saved has been copied; call it before any of it changes."""
        self.copied.wait()

    def _copy_and_write(self, step: int, state: State, run: dict[str, Any], done: tuple[int, Any] | None) -> None:
        begun = time.monotonic()
        try:
            with _beside(done):
                self.copies = _copied(state, self.copies)
        finally:
            self.copied.set()
        self._write(step, self.copies, run)
        self.save_seconds.append(time.monotonic() - begun)

    def wait(self) -> None:
        """Wait until what was saved is on disk; raises what the save raised."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def close(self) -> None:
        """Wait and stop the thread."""
        try:
            self.wait()
        finally:
            self.pool.shutdown()

    def newest(self) -> dict[str, Any] | None:
        """The `run` of the newest whole checkpoint, None where there is none; sets aside damaged and partial ones."""
        alone = self.ranks is None
        first: Callable[[Callable[[], Any]], Any] = (lambda do: do()) if alone else self.ranks.from_first
        for step in reversed(first(self._tidied)):
            path = self.path(step)
            # Every rank reads its share of the files; together they know whether all are whole.
            reasons = [damage(path)] if alone else self.ranks.gathered(damage(path, self.ranks.rank, self.ranks.size))
            reason = next((one for one in reasons if one is not None), None)
            if reason is None:
                run: dict[str, Any] = first(partial(read_json, path / RUN))
                return run
            first(partial(self._set_aside, step, reason))
        return None

    def _tidied(self) -> list[int]:
        for folder in self.folder.glob(f"{PREFIX}*"):
            if _is_step(folder) and not (folder / MARK).exists():
                shutil.rmtree(folder)  # killed while it was written
        return self.steps()

    def load(self, step: int, state: State) -> None:
        """Load a checkpoint into the tensors of `state`; UserError when it can't be read, or lacks a tensor."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        _quiet()
        try:
            alone = self.ranks is None
            group = None if alone else self.ranks.control
            dcp.load(state, checkpoint_id=self.path(step), no_dist=alone, process_group=group)
        except (Exception, CheckpointException) as error:
            self._raise_if_lost(error)
            causes = [str(cause) for cause in _causes(error) if not isinstance(cause, CheckpointException)]
            reason = causes[0] if causes else error
            raise UserError(
                f"{self.path(step)}: can't be loaded ({reason}); remove it to go on from the one before"
            ) from error

    def _set_aside(self, step: int, reason: str) -> None:
        path = self.path(step)
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        log("checkpoint_damaged", step=step, reason=reason, moved_to=aside.name)

    def _write(self, step: int, state: State, run: dict[str, Any]) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        _quiet()
        path, team = self.path(step), self.background
        try:
            team.first(lambda: self._begin(path, run))
            writer = dcp.FileSystemWriter(path, single_file_per_rank=True, thread_count=1)
            dcp.save(state, storage_writer=writer, no_dist=team.alone, process_group=team.group)
            sums = team.gathered(checksums(path, team.files))
            team.first(lambda: self._finish(path, {name: value for part in sums for name, value in part.items()}))
        except (Exception, CheckpointException) as error:  # DCP's own derives from BaseException
            if team.leads and not (path / CHECKSUMS).exists():
                (path / MARK).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)
            self._raise_if_lost(error)
            raise UserError(_save_failed(path, error, _size(state))) from error

    def _raise_if_lost(self, error: BaseException) -> None:
        """RuntimeError when another rank was lost meanwhile: a restart mends that, and no disk is to blame.

        DCP wraps what a rank could not do, and system errors are gathered; what is neither came from a message.
        """
        from torch.distributed.checkpoint.api import CheckpointException

        if self.ranks is not None and not any(isinstance(one, OSError | CheckpointException) for one in _causes(error)):
            raise RuntimeError(f"another rank was lost while a checkpoint was saved or loaded: {error}") from error

    def _begin(self, path: Path, run: dict[str, Any]) -> None:
        shutil.rmtree(path, ignore_errors=True)  # only ever a partial one
        path.mkdir(parents=True)
        write_json(path / RUN, run)

    def _finish(self, path: Path, sums: dict[str, int]) -> None:
        write_json(path / CHECKSUMS, sums)
        sync_folder(self.folder)
        for old in self.steps()[: -self.keep]:
            (self.path(old) / MARK).unlink(missing_ok=True)  # first, so that a kill leaves no half that looks whole
            shutil.rmtree(self.path(old), ignore_errors=True)


class RanksInThread:
    """What the saving thread asks of the other ranks' saving threads, over a group of their own."""

    def __init__(self, ranks: Any) -> None:
        self.alone, self.ranks = ranks is None, ranks
        self.leads = self.alone or ranks.rank == 0
        self.group = None if self.alone else ranks.background

    def first(self, do: Callable[[], None]) -> None:
        """The first rank does it, the others wait; when it can't, all raise."""
        problem: BaseException | None = None
        if self.leads:
            try:
                do()
            except OSError as error:
                problem = error
        for one in self.gathered(problem):
            if one is not None:
                raise one

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's value."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.ranks.size
        torch.distributed.all_gather_object(found, value, group=self.group)
        return found

    def files(self, name: str) -> bool:
        """Whether this rank looks after a file of the checkpoint: its own data, the first rank also the rest."""
        return self.alone or name.startswith(f"__{self.ranks.rank}_") or (self.leads and not name.startswith("__"))


def _quiet() -> None:
    """DCP warns at every call that it runs in one process, which is meant, and logs failures that we tell ourselves."""
    warnings.filterwarnings("ignore", message="torch.distributed is (disabled|unavailable|uninit)")
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.CRITICAL)


def _is_step(folder: Path) -> bool:
    return folder.name.removeprefix(PREFIX).isdigit()


def _copied(state: State, into: State) -> State:
    """The state copied to the host, into the tensors of an earlier copy where they are as large."""
    found: State = {}
    for key, value in state.items():
        before = into.get(key)
        if isinstance(value, Tensor):
            fits = (
                isinstance(before, Tensor) and type(before) is type(value.detach()) and _shape(before) == _shape(value)
            )
            copy: Any = before if fits else _room(value.detach())
            local(copy).copy_(local(value.detach()), non_blocking=True)
            found[key] = copy
        else:
            found[key] = _copied(value, before or {}) if isinstance(value, dict) else value
    return found


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    here = local(tensor)
    return tensor.shape, here.shape, here.dtype


def _room(tensor: Tensor) -> Tensor:
    """Memory on the host for a copy; of an accelerator's tensor it is pinned."""
    room: Any = torch.empty_like(tensor, device="cpu")
    if tensor.device.type == "cuda":
        if hasattr(room, "_local_tensor"):
            room._local_tensor = room._local_tensor.pin_memory()
        else:
            room = room.pin_memory()
    return room


def _event() -> tuple[int, Any] | None:
    """On CUDA, this process's device, and what tells that all its work so far is done."""
    if not torch.cuda.is_initialized():
        return None
    return torch.cuda.current_device(), torch.cuda.current_stream().record_event()


@contextmanager
def _beside(done: tuple[int, Any] | None) -> Iterator[None]:
    """Copies within run beside the device's own work, after `done`, and are over at the end."""
    if done is None:
        yield
        return
    device, event = done
    with torch.cuda.device(device):  # a thread begins with the first device, whatever this rank's is
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            stream.wait_event(event)
            yield
        stream.synchronize()


def _size(state: State) -> int:
    """Bytes of all tensors."""
    values = (_size(value) if isinstance(value, dict) else local(value).nbytes for value in state.values())
    return sum(values)


def _save_failed(path: Path, error: BaseException, size: int) -> str:
    refusals = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    refusal = refusals[0] if refusals else _refusal(path.with_name(".probe"), size)
    if refusal is not None and refusal.errno in FULL:
        return f"{path}: the disk is full ({refusal}); older checkpoints are whole: free some space and run again"
    return f"{path}: the checkpoint could not be written ({refusal or error}); older ones are whole: run again to go on"


def _refusal(probe: Path, size: int) -> OSError | None:
    """Why `size` bytes can't be written, None when they can: torch's own writer hides the system's reason."""
    block = bytes(1 << 20)
    try:
        with open(probe, "wb") as file:
            for _ in range(0, size, len(block)):
                file.write(block)
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # DCP gathers the errors of all ranks: {rank: (exception, traceback)}.
        for failure in getattr(error, "failures", {}).values():
            yield from _causes(failure[0] if isinstance(failure, tuple) else failure)
        error = error.__cause__ or error.__context__


def checksums(folder: Path, mine: Callable[[str], bool] = bool) -> dict[str, int]:
    """CRC-32 of every file of a checkpoint but the list itself, or of those whose name is `mine`."""
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.name == CHECKSUMS or not path.is_file() or path.name.endswith(".tmp") or not mine(path.name):
            continue
        value = 0
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                value = zlib.crc32(block, value)
        sums[path.name] = value
    return sums


def damage(folder: Path, share: int = 0, shares: int = 1) -> str | None:
    """What is wrong with a committed checkpoint, None when it is whole; only one share of its files is read.

    One that was killed between commit and checksums has no list; it was synced to disk before, so it is whole.
    """
    try:
        if not (folder / CHECKSUMS).exists():
            read_json(folder / RUN)
            return None
        expected: dict[str, int] = read_json(folder / CHECKSUMS)
        mine = set(sorted(expected)[share::shares])
        expected = {name: value for name, value in expected.items() if name in mine}
        found = checksums(folder, mine.__contains__)
    except (OSError, ValueError) as error:
        return f"unreadable: {error}"
    wrong = [name for name, value in expected.items() if found.get(name) != value]
    return f"changed or missing: {', '.join(wrong)}" if wrong else None


def random_state() -> dict[str, Tensor]:
    """The state of torch's generators, as tensors."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Set torch's generators."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
