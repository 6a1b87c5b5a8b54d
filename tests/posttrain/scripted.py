"""A chat endpoint on this machine that answers by a function of the last message: real network, scripted words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from herdbook.corpus.quality.settings import EndpointSettings
from tests.corpus.fake_endpoint import Answer, Fake, serving


@contextmanager
def scripted(
    answer: Callable[[list[dict[str, Any]], int], Answer], folder: Path
) -> Iterator[tuple[Fake, EndpointSettings]]:
    """The endpoint and settings to ask it; `answer` gets the messages and the seed of the request."""
    with serving(lambda body, number: answer(body["messages"], body["seed"])) as server:
        settings = EndpointSettings(
            base_url=server.url, model="scripted", cache=str(folder / "cache"), pause=0.01, parallel=4, tries=2
        )
        yield server, settings


def dialog(question: str, answer: str, **columns: Any) -> dict[str, Any]:
    """A row of one question and one answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **columns}
