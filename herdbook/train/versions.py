"""What all ranks of a run must have in common, compared when they meet: the code, torch, and the stage's settings.

A machine that was updated while others were not trains something else, and nothing would tell.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import herdbook
from herdbook import files
from herdbook.settings import UserError


def mine(job: dict[str, Any]) -> dict[str, str]:
    """What this rank runs: digests of herdbook's code and of what the job asks for, and torch's version."""
    import torch

    asked = {key: job[key] for key in ("function", "settings_class", "settings")}
    return {
        "herdbook's code": code_digest(Path(herdbook.__file__).parent),
        "torch": torch.__version__,
        "settings": hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=6).hexdigest(),
    }


def code_digest(folder: Path) -> str:
    """A digest of the names and contents of a package's Python files."""
    found = hashlib.blake2b(digest_size=6)
    for path in files.source_files(folder):
        if path.suffix == ".py":
            found.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def check(everyones: list[dict[str, Any]]) -> None:
    """UserError that names the ranks that differ from most; `everyones` has each rank's `mine` and its host."""
    for what in [key for key in everyones[0] if key != "host"]:
        counted = Counter(one[what] for one in everyones)
        usual, _ = counted.most_common(1)[0]
        others = {rank: one for rank, one in enumerate(everyones) if one[what] != usual}
        if others:
            named = ", ".join(f"rank {rank} on {one['host']} has {one[what]}" for rank, one in list(others.items())[:8])
            more = f" and {len(others) - 8} more ranks" if len(others) > 8 else ""
            raise UserError(
                f"{what} is not the same on all ranks: {named}{more}, the others have {usual}; "
                "bring all machines to one version and run again"
            )
