"""Sources at addresses, of any kind fsspec knows: listed when planning, fetched a shard at a time.

A file is copied whole to a temporary folder when its shard is measured and removed afterwards, so readers that seek and
map files work on it as on any other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from herdbook.files import left_out
from herdbook.settings import UserError


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address."""

    url: str
    name: str
    """Where it lies below the source's address."""
    size: int
    changed: int
    """A number that changes with its contents, as far as the place can tell."""


def list_files(url: str, glob: str | None) -> list[RemoteFile]:
    """The file at an address, or those below it that the glob matches; raises UserError where there is none."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        details = system.find(path, detail=True)
        if not details and system.exists(path):
            details = {path: system.info(path)}
    except ImportError as error:
        raise UserError(f"{url}: this kind of address needs another package ({error})") from error
    except Exception as error:  # each kind of place raises its own
        raise UserError(f"{url}: can't be listed ({type(error).__name__}: {error})") from error
    if not details:
        raise UserError(f"{url}: there is no such file or folder; mend the `url` of the source")
    found = []
    for full, info in sorted(details.items()):
        name = full[len(path) :].strip("/") or PurePosixPath(full).name
        wanted = glob is None or fnmatch(name, glob) or fnmatch(name, glob.removeprefix("**/"))
        if wanted and not any(map(left_out, name.split("/"))):
            mark = [info.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")]
            stamp = _number(repr([str(part) for part in mark if part is not None]))
            found.append(RemoteFile(system.unstrip_protocol(full), name, int(info.get("size") or 0), stamp))
    return found


def _number(text: str) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(text.encode()) >> 2


def first_bytes(url: str, count: int = 16) -> bytes:
    """How a file begins; nothing where it can't be read, which its shard will say."""
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            return bytes(file.read(count))
    except Exception:
        return b""


@contextmanager
def fetched(urls: tuple[str, ...], names: list[str]) -> Iterator[Path]:
    """A temporary folder with the files under their names; raises OSError where one can't be fetched."""
    import fsspec

    folder = Path(tempfile.mkdtemp(prefix="herdbook-"))
    try:
        for url, name in zip(urls, names):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with fsspec.open(url, "rb") as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
            except Exception as error:  # each kind of place raises its own
                raise OSError(f"can't be fetched ({type(error).__name__}: {error})") from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
