"""Which tokens end an answer, as a model's folder names them."""

from __future__ import annotations

from pathlib import Path

from herdbook.files import read_json


def read_stop_ids(folder: Path) -> list[int]:
    """The ids that end an answer, as generation_config.json (or config.json) names them; none when neither does."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = read_json(path).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    return []
