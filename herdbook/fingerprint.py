"""What makes an entry the same entry: a hash of its kind, its settings, its inputs' ids and its sources' contents.

A path that is an input counts by its last name and its contents, not by where it lies, so that a moved crawl or another
machine's library folder gives the same id. The version of the code is written down with the entry and is no part of it.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from herdbook import console, files, schema
from herdbook.settings import Settings, UserError

ID_LETTERS = 40
FOLDER_LETTERS = 12
_CACHED_FROM = 1 << 20  # smaller files are read as fast as they are looked up
_SETTLED_SECONDS = 2.0  # a file changed within its clock's tick could change again unseen
_BAR_FROM = 256 << 20


def plain(value: Any, only_set: bool = False) -> Any:
    """A setting's value as JSON knows it; with `only_set`, without settings left at their defaults."""
    if isinstance(value, BaseModel):
        names = [name for name in type(value).model_fields if not only_set or name in value.model_fields_set]
        return {name: plain(getattr(value, name), only_set) for name in names}
    if isinstance(value, dict):
        return {str(key): plain(item, only_set) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, only_set) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, only_set) for item in value), key=canonical)
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, float) and value - value != 0:
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Path, datetime.date, datetime.timedelta)):
        return str(value)
    raise TypeError(f"a setting of type {type(value).__name__} has no canonical form")


def canonical(value: Any) -> str:
    """JSON in which equal values are equal texts, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def entry_id(kind: str, settings: Settings, inputs: dict[str, Any], contents: dict[schema.Location, str]) -> str:
    """The id of an entry: 40 hexadecimal letters. `contents` has a fingerprint for each path among the settings."""
    settings_value = plain(settings)
    for location, content in contents.items():
        *way, last = location
        here = settings_value
        for step in way:
            here = here[step]
        here[last] = {"name": Path(here[last]).name, "content": content}
    whole = {"kind": kind, "settings": settings_value, "inputs": inputs}
    return digest(canonical(whole).encode())


def digest(data: bytes) -> str:
    """A 160-bit BLAKE2b hash in hexadecimal."""
    return hashlib.blake2b(data, digest_size=ID_LETTERS // 2).hexdigest()


class Fingerprints:
    """Fingerprints of files and folders; those of large files are remembered by path, size and time of change."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self.known: dict[str, list[Any]] = {}
        self.changed = False
        if cache and cache.exists():
            try:
                self.known = dict(files.read_json(cache))
            except (ValueError, OSError):
                self.known = {}  # it only saves time

    def of(self, path: Path) -> str:
        """The fingerprint of a file's bytes, or of a folder's sorted names and bytes."""
        try:
            if path.is_dir():
                listing = [(item.relative_to(path).as_posix(), self._file(item)) for item in self._listed(path)]
                return digest(canonical(listing).encode())
            return self._file(path)
        except OSError as error:
            raise UserError(f"{error.filename or path} can't be read: {error.strerror}") from None

    def _listed(self, folder: Path) -> Iterator[Path]:
        items = list(files.source_files(folder))
        total = sum(item.stat().st_size for item in items)
        if total < _BAR_FROM:
            yield from items
            return
        with console.progress(f"reading {folder}", total >> 20, "MiB") as bar:
            for item in items:
                yield item
                bar.advance(item.stat().st_size / (1 << 20))

    def _file(self, path: Path) -> str:
        stat = path.stat()
        key, mark = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        found = self.known.get(key)
        if found and found[:2] == mark:
            return str(found[2])
        with open(path, "rb") as file:
            made = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=ID_LETTERS // 2)).hexdigest()
        if stat.st_size >= _CACHED_FROM and time.time() - stat.st_mtime > _SETTLED_SECONDS:
            self.known[key] = [*mark, made]
            self.changed = True
        return made

    def save(self) -> None:
        """Remember what was read for the next run."""
        if self.cache and self.changed:
            try:
                self.cache.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(self.cache, self.known)
            except OSError:
                return  # it only saves time
            self.changed = False
