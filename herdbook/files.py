"""Writing files so that a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically: a temporary file beside it, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value stored in a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` durable (a no-op where the system has no such call)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def left_out(name: str) -> bool:
    """Whether a file or folder of this name is no source: hidden, Python's byte code, or installed packages.

    These change without the sources changing, and an entry's id must not change with them.
    """
    return name.startswith(".") or name in ("__pycache__", "site-packages", "dist-packages")


def source_files(folder: Path) -> Iterator[Path]:
    """The files under a folder of sources, at any depth, in the order of their names.

    What `left_out` names is passed over, and links to folders are not followed.
    """
    for item in sorted(folder.iterdir()):
        if left_out(item.name):
            continue
        if item.is_dir() and not item.is_symlink():
            yield from source_files(item)
        elif item.is_file():
            yield item
