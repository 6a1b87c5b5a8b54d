"""Real data that lies beside a checkout on some machines; tests that need it skip where it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared(path: str) -> Path:
    """The path of a shared file or folder; skips the running test, saying so, where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"needs the shared data {path!r}, which is not on this machine")
    return found
