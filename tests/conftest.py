"""What every test can rely on."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def smallest_numbers_are_kept() -> Iterator[None]:
    """Training flushes denormals in its thread; hypothesis, in the same process, wants them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
