"""A real server on a free port, in a thread of the test, over tiny random models."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from herdbook.inference.engine import Engine
from herdbook.inference.server.app import make_app
from herdbook.inference.server.herd import Herd, Served
from herdbook.inference.server.serve import Server, listen
from herdbook.inference.server.service import Service
from herdbook.inference.server.settings import ServeSettings
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()


def chat_engine(seed: int = 0, *, taught: bool = True, max_length: int = 512, **options: Any) -> Engine:
    """A tiny random model with a vocabulary of bytes; `taught` to end its turns, or a base model."""
    model = tiny_model(seed, vocab_size=TOKENIZER.vocab_size, max_length=max_length)
    ends = [TOKENIZER.eos_id, TOKENIZER.eot_id] if taught else [TOKENIZER.eos_id]
    return Engine(model, TOKENIZER, ends, **options)


class Running:
    """A server while the block runs."""

    def __init__(self, engines: dict[str, Engine], **settings: Any) -> None:
        self.settings = ServeSettings(**{"port": 0, **settings})
        herd = Herd(Served(name, engine) for name, engine in engines.items())
        self.gate = make_app(herd, self.settings)
        self.service: Service = self.gate.app.state.service
        self.server = Server(self.gate, self.settings, self.service)
        self.socket = listen(self.settings)
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        self.wait(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.socket.close()
        assert not self.thread.is_alive()

    def wait(self, true: Callable[[], bool], seconds: float = 20.0) -> None:
        """Until something is true; fails when it does not become so."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not come true"
            time.sleep(0.005)

    def openai(self, key: str = "none", **options: Any) -> Any:
        """The official client."""
        import openai

        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60, **options)

    def connect(self) -> http.client.HTTPConnection:
        """A plain connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = ""
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON (or text) of one request; `body` is bytes, or anything that JSON holds."""
        connection = self.connect()
        try:
            return ask(connection, path, body, headers, method)
        finally:
            connection.close()


def ask(
    connection: http.client.HTTPConnection,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    method: str = "",
) -> tuple[int, dict[str, str], Any]:
    """One request over an open connection."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **(headers or {})}
    connection.request(method or ("GET" if body is None else "POST"), path, data, given)
    response = connection.getresponse()
    text = response.read().decode()
    kind = response.headers.get("Content-Type", "")
    return response.status, dict(response.headers), json.loads(text) if kind == "application/json" else text
