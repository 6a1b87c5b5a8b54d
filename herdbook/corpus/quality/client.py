"""A client of an OpenAI-compatible address: requests that fail are sent again after growing pauses.

What comes back is not trusted: answers are limited in size and time, and what is no JSON object is a failure.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from herdbook.corpus.quality.settings import EndpointSettings
from herdbook.settings import UserError

AGAIN = frozenset((408, 409, 425, 429))
HOPELESS = frozenset((401, 403, 404, 405))
LARGEST_ANSWER = 4 << 20
LONGEST_PAUSE = 60.0


class Failed(Exception):
    """One request got no usable reply; `endpoint` says whether that speaks against the endpoint."""

    def __init__(self, reason: str, endpoint: bool = True, fatal: bool = False) -> None:
        super().__init__(reason)
        self.endpoint, self.fatal = endpoint, fatal


class Client:
    """Sends chats to an endpoint, from any number of threads; `stop` ends all waiting."""

    def __init__(self, settings: EndpointSettings) -> None:
        import httpx2

        self.settings, self.stop = settings, threading.Event()
        self.url = settings.base_url.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        if settings.api_key_env:
            key = os.environ.get(settings.api_key_env)
            if not key:
                raise UserError(
                    f"endpoint: the environment variable {settings.api_key_env} is not set; put the key there"
                )
            headers["Authorization"] = f"Bearer {key}"
        limits = httpx2.Limits(max_connections=settings.parallel, max_keepalive_connections=settings.parallel)
        self.client = httpx2.Client(headers=headers, timeout=settings.timeout, limits=limits)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def post(self, asked: dict[str, Any], retrying: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The reply to a chat completion's body; `retrying` is called before each further try. Raises `Failed`."""
        failed = Failed("stopped")
        for attempt in range(self.settings.tries):
            if self.stop.is_set():
                raise failed
            try:
                return self._post({"model": self.settings.model, **asked})
            except Failed as error:
                failed = error
                if error.fatal or not error.endpoint:
                    raise
            if attempt + 1 < self.settings.tries:
                retrying()
                asked_for = getattr(failed, "retry_after", 0.0)
                pause = max(self.settings.pause * 2**attempt * random.uniform(0.5, 1.5), asked_for)
                self.stop.wait(min(pause, LONGEST_PAUSE))
        raise Failed(f"{failed} (sent {self.settings.tries} times)")

    def _post(self, asked: dict[str, Any]) -> dict[str, Any]:
        import httpx2

        ends, data = time.monotonic() + self.settings.timeout, b""
        try:
            with self.client.stream("POST", self.url, json=asked) as response:
                for piece in response.iter_bytes():  # the client's timeout is for each piece, ours for all of them
                    data += piece
                    if time.monotonic() > ends:
                        raise Failed(f"no whole answer within {self.settings.timeout:g} s")
                    if len(data) > LARGEST_ANSWER:
                        raise Failed("an answer of more than 4 MB")
        except httpx2.TimeoutException:
            raise Failed(f"no answer within {self.settings.timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Failed(f"{type(error).__name__}: {error}") from None
        _check_status(response.status_code, response.headers.get("retry-after", ""), data)
        try:
            body = json.loads(data)
        except ValueError:
            raise Failed(f"its reply is no JSON: {data[:80]!r}") from None
        if not isinstance(body, dict):
            raise Failed(f"its reply is no chat completion: {data[:80]!r}")
        return body


def _check_status(status: int, retry_after: str, data: bytes) -> None:
    if status < 300:
        return
    reason = f"HTTP {status}: {' '.join(data[:200].decode('utf-8', 'replace').split())}"
    if status in HOPELESS or 300 <= status < 400:
        raise Failed(reason, fatal=True)
    failed = Failed(reason, endpoint=status >= 500 or status in AGAIN)
    if retry_after.strip().isdigit():
        failed.retry_after = float(retry_after)  # type: ignore[attr-defined]
    raise failed


def content(body: dict[str, Any]) -> str:
    """The answer's text; empty where a reply has another form."""
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""


def tokens(body: dict[str, Any], name: str) -> int:
    """A number of the reply's `usage`; 0 where it has none."""
    usage = body.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else 0
    return count if isinstance(count, int) and count > 0 else 0
