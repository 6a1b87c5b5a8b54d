"""The gate before every route: host name, API key, body's size and kind; and a count of all that passes.

It is plain ASGI, so that nothing of a request is read before its sender is known, and bodies are read whole, within
their limit, before anything else sees them.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from herdbook import console
from herdbook.inference.server.errors import ApiError, wrong
from herdbook.inference.server.metrics import Metrics
from herdbook.inference.server.settings import ServeSettings

BODY_SECONDS = 30.0  # how long a body may take to arrive
WITH_KEY = ("/v1/", "/tokenize", "/detokenize", "/metrics")  # what a key, when there is one, protects


class Gone(Exception):
    """The client left before its request was whole."""


class Gate:
    """Lets a request through to the routes, or answers it with what is wrong."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        key = settings.api_key
        self.key = key.get_secret_value().encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # 499: the client left before there was an answer

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self.check(scope)
            if scope["method"] in ("POST", "PUT", "PATCH"):
                receive = replay(await self.read_body(scope, receive), receive)
            await self.app(scope, receive, counted)
        except ApiError as error:
            await error.response()(scope, receive, counted)
        except Gone:
            pass
        finally:
            seconds = time.perf_counter() - start
            self.metrics.request(scope["path"], status, seconds)
            if self.settings.log_requests:
                console.log("request", method=scope["method"], path=scope["path"], status=status, seconds=seconds)

    def check(self, scope: Scope) -> None:
        """Raise ApiError unless the request calls us by a known name and brings the key where one is asked for."""
        hosts = self.settings.known_hosts
        name = host_name(header(scope, b"host"))
        if hosts is not None and name not in hosts:
            raise ApiError(
                403, f"this server does not answer to the host name {name!r:.80}; start it with --name to allow it"
            )
        if self.key is None or not scope["path"].startswith(WITH_KEY):
            return
        scheme, _, given = header(scope, b"authorization").partition(b" ")
        right = hmac.compare_digest(given.strip(), self.key)  # takes as long whatever is wrong
        if scheme.lower() != b"bearer" or not right:
            raise ApiError(
                401,
                "this server wants its API key as 'Authorization: Bearer KEY'"
                + ("; the one given is not right" if given else ""),
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; raises ApiError when it is too large, too slow, or not said to be JSON."""
        kind = header(scope, b"content-type").split(b";")[0].strip().lower()
        if kind != b"application/json":  # also keeps simple requests of foreign web pages out
            raise ApiError(415, f"the body must be JSON; Content-Type is {kind.decode('latin-1')!r:.80}")
        limit = self.settings.body_bytes
        told = header(scope, b"content-length")
        if told.isdigit() and int(told[:20]) > limit:
            raise too_large(limit)
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large(limit)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
        if not size:
            raise wrong("the request has no body; it must be a JSON object")
        return b"".join(parts)


def too_large(limit: int) -> ApiError:
    """The error of a body beyond the limit."""
    return ApiError(413, f"the body is larger than the {limit:,} bytes that this server takes", code="body_too_large")


def header(scope: Scope, name: bytes) -> bytes:
    """A header's value, empty when it is not there."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return next((value for key, value in headers if key == name), b"")


def host_name(value: bytes) -> str:
    """The name in a Host header, without its port and the brackets of IPv6."""
    text = value.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body already read, then what the real one gives (the client's leaving)."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
