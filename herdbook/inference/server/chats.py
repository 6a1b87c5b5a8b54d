"""`/v1/chat/completions`: dialogs answered, as OpenAI answers them; calls of tools are told apart from words."""

from __future__ import annotations

import json
import secrets
from typing import Any

from herdbook.inference.request import TokenLogprob
from herdbook.inference.server.answers import Reply, finite, token_name
from herdbook.inference.server.bodies import ChatBody
from herdbook.inference.server.service import Ticket, Update
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.tokens.tools import Call, may_be_call, read_calls


class ChatReply(Reply):
    """The answer to a dialog, choice by choice."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"
    body: ChatBody

    def __init__(self, body: ChatBody, ticket: Ticket, model: str, tokenizer: Tokenizer) -> None:
        super().__init__(body, ticket, model, tokenizer)
        tools = body.tools if body.tools and body.tool_choice != "none" else []
        names = frozenset(tool.function.name for tool in tools)
        self.choices = [_Choice(names, body.parallel_tool_calls is not False) for _ in ticket.asks]

    def take(self, update: Update) -> None:
        """Add an update to the whole answer."""
        choice = self.choices[update.index]
        choice.text += update.piece
        choice.finish = update.finish
        choice.logprobs += self._logprobs(update)

    def whole(self) -> dict[str, Any]:
        """The whole answer."""
        choices = []
        for index, choice in enumerate(self.choices):
            calls = choice.read()
            message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
            if calls:
                message |= {"content": None, "tool_calls": [_call(call) for call in calls]}
            logprobs = {"content": choice.logprobs, "refusal": None} if self.body.logprobs else None
            finish = "tool_calls" if calls else choice.finish
            choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
        return {**self.head, "object": self.kind, "choices": choices, "usage": self.usage}

    def opening(self) -> list[dict[str, Any]]:
        """Every choice begins with the role."""
        return [self._delta(index, {"role": "assistant", "content": ""}) for index in range(len(self.choices))]

    def pieces(self, update: Update) -> list[dict[str, Any]]:
        """The update as choices of a stream: words at once, what may be a call when it is known to be one."""
        choice, finish = self.choices[update.index], update.finish
        content, calls = choice.stream(update.piece, finish)
        delta: dict[str, Any] = {"content": content} if content else {}
        if calls:
            delta["tool_calls"] = [{"index": place, **_call(call)} for place, call in enumerate(calls)]
            finish = "tool_calls"
        entries = self._logprobs(update)
        if not delta and not entries and finish is None:
            return []
        return [self._delta(update.index, delta, entries, finish)]

    def _delta(
        self, index: int, delta: dict[str, Any], entries: list[dict[str, Any]] | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        logprobs = {"content": entries or [], "refusal": None} if self.body.logprobs else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, update: Update) -> list[dict[str, Any]]:
        """How likely the tokens of an update were; those that are no text (such as the end) are left out."""
        if not self.body.logprobs:
            return []
        return [self._entry(entry) for entry in update.logprobs if entry.token < len(self.tokenizer.ranks)]

    def _entry(self, entry: TokenLogprob) -> dict[str, Any]:
        top = [self._token(token, logprob) for token, logprob in entry.top]
        return {**self._token(entry.token, entry.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        known = token < self.tokenizer.vocab_size
        data = list(self.tokenizer.decode_bytes([token])) if known else None
        return {"token": token_name(self.tokenizer, token), "logprob": finite(logprob), "bytes": data}


class _Choice:
    """One choice as it grows."""

    def __init__(self, names: frozenset[str], several: bool) -> None:
        self.names, self.several = names, several
        self.text, self.held = "", ""
        self.finish: str | None = None
        self.logprobs: list[dict[str, Any]] = []
        self.words = not names  # whether it is known to be no call

    def read(self, text: str | None = None) -> list[Call]:
        """The calls that the answer consists of."""
        calls = read_calls(self.text if text is None else text, self.names) if self.names else None
        return (calls or [])[: None if self.several else 1]

    def stream(self, piece: str, finish: str | None) -> tuple[str, list[Call]]:
        """What of the text can be sent now: words, or calls at the end."""
        self.held += piece
        self.words = self.words or not may_be_call(self.held)
        calls = self.read(self.held) if finish is not None and not self.words else []
        if calls or (finish is None and not self.words):
            return "", calls
        sent, self.held = self.held, ""
        return sent, []


def _call(call: Call) -> dict[str, Any]:
    """A call as OpenAI writes it, under a name of its own."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
