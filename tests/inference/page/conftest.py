"""A headless Chromium before the real server; without a Chromium or Playwright these tests are skipped and say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.inference.page.desk import Desk, endless_engine, opened_browser
from tests.support.servers import Running, chat_engine


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    """Two models that were taught to chat, and two base models, one of which never ends by itself."""
    engines = {
        "talker": chat_engine(0, max_length=4096),
        "other": chat_engine(5, max_length=512),
        "plain": chat_engine(1, taught=False, max_length=512),
        "endless": endless_engine(),
    }
    with Running(engines) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One browser for all tests of the page."""
    with opened_browser() as browser:
        yield browser


@pytest.fixture(scope="package")
def window(browser: Any, server: Running) -> Iterator[Desk]:
    """One window for the tests that need nothing special of it."""
    with Desk(browser, server.port) as desk:
        yield desk


@pytest.fixture
def desk(window: Desk) -> Iterator[Desk]:
    """The page, new and watched; what it asked for and complained of is looked at in the end."""
    window.clear()
    yield window
    window.check()
