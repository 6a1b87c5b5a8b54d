"""What both kinds of answers have in common: how tokens are named, usage counted, answers sent whole or as a stream."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from herdbook.inference.server.bodies import Asked
from herdbook.inference.server.errors import ApiError
from herdbook.inference.server.service import Ticket, Update
from herdbook.tokens.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"


class Reply(ABC):
    """One answer to a request: its name, its time, and the tokens counted so far."""

    prefix, kind, chunk_kind = "", "", ""

    def __init__(self, body: Asked, ticket: Ticket, model: str, tokenizer: Tokenizer) -> None:
        self.body, self.ticket, self.tokenizer = body, ticket, tokenizer
        self.head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.drawn = self.cached = 0

    def count(self, update: Update) -> None:
        """Count an update's tokens."""
        self.drawn += len(update.ids)
        if update.finish is not None and update.index % (self.body.n or 1) == 0:
            self.cached += update.cached

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens of prompts (each once, however many answers it got) and answers."""
        read = sum(len(ask.prompt) for ask in self.ticket.asks[:: self.body.n or 1])
        return {
            "prompt_tokens": read,
            "completion_tokens": self.drawn,
            "total_tokens": read + self.drawn,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    @abstractmethod
    def take(self, update: Update) -> None:
        """Add an update to the whole answer."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The whole answer, when all updates were taken."""

    def opening(self) -> list[dict[str, Any]]:
        """The choices that a stream begins with."""
        return []

    @abstractmethod
    def pieces(self, update: Update) -> list[dict[str, Any]]:
        """The choices that an update sends in a stream; none while nothing is certain."""

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One event of a stream."""
        return {**self.head, "object": self.chunk_kind, "choices": choices, **more}


async def answer(request: Request, reply: Reply) -> Response:
    """The response to a request: whole, or as events if it asked for a stream. Ends the ticket whatever happens.

    Raises ApiError when an answer cannot be given.
    """
    if reply.body.stream:
        return Events(reply)
    leaving, taking = asyncio.create_task(_left(request)), asyncio.create_task(_take_all(reply))
    try:
        await asyncio.wait((leaving, taking), return_when=asyncio.FIRST_COMPLETED)
        if not taking.done():
            return Response(status_code=499)  # nobody reads it
        taking.result()  # raises what went wrong
        return JSONResponse(reply.whole())
    finally:
        leaving.cancel()
        taking.cancel()
        reply.ticket.close()


async def _take_all(reply: Reply) -> None:
    async for update in reply.ticket:
        reply.count(update)
        reply.take(update)


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """An answer as server-sent events."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; the ticket ends with it, even when the client left before the first event."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.reply.ticket.close()

    async def _events(self) -> AsyncIterator[bytes]:
        reply = self.reply
        counted = reply.body.stream_options is not None and bool(reply.body.stream_options.include_usage)
        more: dict[str, Any] = {"usage": None} if counted else {}
        try:
            for choice in reply.opening():
                yield event(reply.chunk([choice], **more))
            async for update in reply.ticket:
                reply.count(update)
                for choice in reply.pieces(update):
                    yield event(reply.chunk([choice], **more))
            if counted:
                yield event(reply.chunk([], usage=reply.usage))
        except ApiError as error:
            yield event(error.body)
        yield DONE


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event. In ASCII: some clients take U+2028 and its like in a text for the end of a line."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold: -9999 stands for impossible, as with vLLM."""
    return max(logprob, -9999.0)


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; `bytes:\\xe2\\x82` when its bytes are no whole characters, so that every name is one token's."""
    if token >= tokenizer.vocab_size:  # a model may have more logits than its tokenizer has tokens
        return f"token:{token}"
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{value:02x}" for value in data)
