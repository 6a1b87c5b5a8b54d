"""A chat endpoint on this machine that behaves as badly as a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | float | None
"""What one request gets: an answer's text, an HTTP status, seconds of silence, or None: the connection is cut."""


def page_of(body: dict[str, Any]) -> str:
    """The document that was shown."""
    return body["messages"][0]["content"].split("==========")[1].strip()


class Fake(ThreadingHTTPServer):
    """Counts requests and keeps their bodies and headers."""

    daemon_threads = True

    def __init__(self, answer: Callable[[dict[str, Any], int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.bodies, self.headers, self.lock = answer, [], [], threading.Lock()
        self.now = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            number = len(self.server.bodies)
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        try:
            answer = self.server.answer(body, number)
            if isinstance(answer, float):
                time.sleep(answer)
                answer = "Grade: 1"
        finally:
            with self.server.lock:  # before the reply: whoever has it may ask again before another line runs here
                self.server.now -= 1
        self.reply(answer)

    def reply(self, answer: str | int | None) -> None:
        if answer is None:
            self.connection.close()
            return
        status = answer if isinstance(answer, int) else 200
        said = {"choices": [{"message": {"role": "assistant", "content": answer}}]}
        said["usage"] = {"prompt_tokens": 100, "completion_tokens": 10}  # type: ignore[assignment]
        data = b"broken" if status != 200 else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Answer]) -> Iterator[Fake]:
    """A fake endpoint while the block runs."""
    server = Fake(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
