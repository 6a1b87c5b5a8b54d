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


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """With several processes a file's tests stay together, and those of the chat page: they share a browser."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            page = "page" in item.path.parts
            item.add_marker(pytest.mark.xdist_group(str(item.path.parent if page else item.path)))


TOLD: list[str] = []  # lines for the end of a run, from wherever the tests ran


def lines_here() -> list[str]:
    """How far each topology was from one process, and the ranks that were lost, where such tests ran here."""
    parity, ranks = sys.modules.get("tests.train.parity"), sys.modules.get("tests.support.ranks")
    return [*(parity.table() if parity is not None else []), *(ranks.LOST if ranks is not None else [])]


def pytest_sessionfinish(session: Any) -> None:
    """A process that runs tests for another hands its lines over."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["lines"] = lines_here()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take such lines."""
    TOLD.extend(getattr(node, "workeroutput", {}).get("lines", []))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print them."""
    for line in TOLD or lines_here():
        terminalreporter.write_line(line)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for jobs that a shell puts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
