"""The book: a folder of entries, each published whole by one rename and never changed afterwards.

A stage works in `BOOK/.work/<kind>-<id>`, held by a lock, so that two runs on one book wait for each other; what a
killed run left there is where the next one goes on. `BOOK/<stage>-<id>` appears when everything in it is written.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from herdbook import console, files
from herdbook.fingerprint import FOLDER_LETTERS, ID_LETTERS, Fingerprints
from herdbook.settings import UserError

_FOLDER = re.compile(rf"(?P<stage>.+)-(?P<id>[0-9a-f]{{{FOLDER_LETTERS}}})")


class Source(BaseModel):
    """A path that a stage read: where it was, and the fingerprint of what it held."""

    path: str
    content: str


class Parent(BaseModel):
    """An entry that fed another one."""

    stage: str
    id: str


class Entry(BaseModel):
    """What `entry.json` says: what was done, from what, by which code, where, how long, and what came out."""

    model_config = ConfigDict(extra="ignore")

    id: str
    kind: str
    stage: str
    settings: dict[str, Any]
    given: dict[str, Any] = {}
    inputs: dict[str, list[Parent]]
    sources: dict[str, Source] = {}
    code: str
    machine: dict[str, Any]
    started: str
    finished: str
    seconds: float
    attempts: int = 1
    energy: dict[str, Any] | None
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        """The entry's folder in the book, and the name it is called by."""
        return folder_name(self.stage, self.id)


def folder_name(stage: str, full_id: str) -> str:
    """`<stage>-<first letters of the id>`."""
    return f"{stage}-{full_id[:FOLDER_LETTERS]}"


class Book:
    """A folder of entries. Nothing is written before the first stage runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / ".work"
        self.fingerprints = Fingerprints(folder / ".fingerprints.json")

    def folder_of(self, entry: Entry) -> Path:
        """Where an entry's files are."""
        return self.folder / entry.name

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(item for item in self.folder.iterdir() if _FOLDER.fullmatch(item.name) and item.is_dir())

    def _read(self, folder: Path) -> Entry:
        """The entry in `folder`; a damaged one is a UserError that names the file and what to do."""
        path = folder / "entry.json"
        try:
            entry = Entry.model_validate(files.read_json(path))
            if entry.name != folder.name or len(entry.id) != ID_LETTERS:
                raise ValueError(f"it says that it is {entry.name}")
        except FileNotFoundError:
            reason = "it is missing"
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
        except (OSError, ValueError) as error:
            reason = str(error)
        else:
            return entry
        raise UserError(
            f"{path} is damaged: {reason}; restore it, or remove the folder {folder} and run the recipe again"
        )

    def entries(self) -> tuple[list[Entry], dict[str, UserError]]:
        """All entries, oldest first, and what is wrong with the damaged ones, by their folders' names."""
        good: list[Entry] = []
        damaged: dict[str, UserError] = {}
        for folder in self._folders():
            try:
                good.append(self._read(folder))
            except UserError as error:
                damaged[folder.name] = error
        return sorted(good, key=lambda entry: (entry.finished, entry.name)), damaged

    def find(self, full_id: str) -> Entry | None:
        """The entry with this id, whatever its stage was called; None when it is not in the book."""
        for folder in self._folders():
            if folder.name.endswith(f"-{full_id[:FOLDER_LETTERS]}"):
                entry = self._read(folder)
                if entry.id == full_id:
                    return entry
        return None

    def resolve(self, text: str, gives: str = "", kinds: frozenset[str] | None = None) -> Entry:
        """The one entry meant by an entry's name, the beginning of an id, or a stage's name.

        With `kinds` only entries of these kinds count (`gives` says what they give, for messages). None or several
        are a UserError that lists what there is.
        """
        if not self.folder.is_dir():
            raise UserError(f"there is no book {self.folder}; 'herdbook run RECIPE' begins one, --book names another")
        entries, damaged = self.entries()
        able = [entry for entry in entries if kinds is None or entry.kind in kinds]
        found = [entry for entry in able if text in (entry.name, entry.id, entry.stage)]
        if not found and len(text) >= 3:
            found = [entry for entry in able if entry.id.startswith(text) or entry.name.startswith(text)]
        if len(found) == 1:
            return found[0]
        what = f"entry that gives {gives}" if gives else "entry"
        if found:
            listed = "".join(f"\n  {entry.name}  finished {entry.finished}" for entry in reversed(found))
            raise UserError(f"{text!r} may be any of {len(found)} entries; name one of them:{listed}")
        for name, error in damaged.items():
            if name.startswith(text):
                raise error
        listed = "".join(f"\n  {entry.name}" for entry in reversed(able[-12:])) or " none"
        raise UserError(f"{self.folder} has no {what} {text!r}; it has:{listed}")

    def unfinished(self) -> list[str]:
        """Names of the work folders that killed or running stages have left."""
        return sorted(item.name for item in self.work.iterdir() if item.is_dir()) if self.work.is_dir() else []

    def workplace(self, kind: str, full_id: str) -> Workplace:
        """Where the stage with this id works until it is published."""
        return Workplace(self, folder_name(kind, full_id))


class Workplace:
    """The work folder of one entry to be, its lock, and what is known of earlier attempts at it."""

    def __init__(self, book: Book, name: str) -> None:
        self.book, self.name = book, name
        self.out = book.work / name
        self.error_log = book.work / f"{name}.error.log"
        self.attempts_file = book.work / f"{name}.attempts.json"
        self.lock_file = book.work / f"{name}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the work folder; while another run holds it, wait and say who does."""
        self.book.work.mkdir(parents=True, exist_ok=True)
        handle = self._take()
        try:
            yield
        finally:
            if handle is not None:
                self.lock_file.unlink(missing_ok=True)  # while it is held: whoever waits on it looks again
                os.close(handle)

    def _take(self) -> int:
        told = False
        while True:
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not told:
                        console.log("waiting", work=self.name, held_by=_holder(self.lock_file))
                        told = True
                    fcntl.flock(handle, fcntl.LOCK_EX)
                if _same_file(handle, self.lock_file):
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def prepare(self, resumes: bool) -> None:
        """Make the work folder; only a kind that resumes finds in it what an earlier attempt left."""
        if not resumes and self.out.exists():
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True, exist_ok=True)

    def earlier(self) -> list[dict[str, Any]]:
        """The attempts before this one: when each started and its seconds (None where it was killed)."""
        try:
            return list(files.read_json(self.attempts_file))
        except (OSError, ValueError):
            return []

    def newest_change(self) -> float:
        """When anything in the work folder was last changed, in seconds since 1970; 0 when it is empty."""
        return max((item.lstat().st_mtime for item in self.out.rglob("*")), default=0.0)

    def publish(self, entry: Entry) -> Path:
        """Write `entry.json`, make everything durable, and give the folder its name in the book by one rename."""
        files.write_json(self.out / "entry.json", entry.model_dump(mode="json"))
        for folder, _, names in os.walk(self.out):
            for name in names:
                _sync_file(Path(folder) / name)
            files.sync_folder(Path(folder))
        target = self.book.folder_of(entry)
        self.out.rename(target)
        files.sync_folder(self.book.folder)
        for left in (self.error_log, self.attempts_file):
            left.unlink(missing_ok=True)
        return target


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(lock_file: Path) -> str:
    try:
        held = files.read_json(lock_file)
        pid, host = int(held["pid"]), str(held["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
    ended = host == socket.gethostname() and not psutil.pid_exists(pid)
    return f"pid {pid} on {host}" + (", which has ended and whose workers still run" if ended else "")


def _sync_file(path: Path) -> None:
    if path.is_symlink():
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())
