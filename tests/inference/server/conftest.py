"""One server for the tests that need nothing special of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import Running, chat_engine


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    """A model that was taught to chat and a base model, behind one server."""
    with Running({"talker": chat_engine(0), "base": chat_engine(1, taught=False)}) as running:
        yield running
