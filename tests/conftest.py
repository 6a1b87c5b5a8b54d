"""What every test can rely on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("no clock", deadline=None)  # machines are shared: no test is timed
hypothesis.settings.load_profile("no clock")


@pytest.fixture(autouse=True)
def smallest_numbers_are_kept() -> Iterator[None]:
    """Training flushes denormals in its thread; hypothesis, in the same process, wants them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """After the tests of parallelism: how far each topology was from one process."""
    parity = sys.modules.get("tests.train.parity")
    for line in parity.table() if parity is not None else []:
        terminalreporter.write_line(line)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for jobs that a shell puts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
