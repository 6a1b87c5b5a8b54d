"""`/v1/completions`: texts gone on with, as OpenAI answers them."""

from __future__ import annotations

import codecs
from typing import Any

from herdbook.inference.request import TokenLogprob
from herdbook.inference.server.answers import Reply, finite, token_name
from herdbook.inference.server.bodies import CompletionBody
from herdbook.inference.server.service import Ticket, Update
from herdbook.tokens.tokenizer import Tokenizer


class CompletionReply(Reply):
    """The answer to a completion, choice by choice."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"
    body: CompletionBody

    def __init__(self, body: CompletionBody, ticket: Ticket, model: str, tokenizer: Tokenizer) -> None:
        super().__init__(body, ticket, model, tokenizer)
        self.choices = [_Choice(tokenizer) for _ in ticket.asks]

    def take(self, update: Update) -> None:
        """Add an update to the whole answer."""
        choice = self.choices[update.index]
        choice.text += self._begin(update) + update.piece
        choice.finish = update.finish
        if self.body.logprobs is not None:
            choice.add(self._logprobs(update))

    def whole(self) -> dict[str, Any]:
        """The whole answer."""
        choices = [
            {
                "index": index,
                "text": choice.text,
                "logprobs": choice.logprobs if self.body.logprobs is not None else None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(self.choices)
        ]
        return {**self.head, "object": self.kind, "choices": choices, "usage": self.usage}

    def pieces(self, update: Update) -> list[dict[str, Any]]:
        """The update as a choice of a stream."""
        text, logprobs = self._begin(update) + update.piece, None
        if self.body.logprobs is not None:
            logprobs = self._logprobs(update)
        if not text and update.finish is None and not (logprobs and logprobs["tokens"]):
            return []
        return [{"index": update.index, "text": text, "logprobs": logprobs, "finish_reason": update.finish}]

    def _begin(self, update: Update) -> str:
        """With echo: the prompt's text, once, before a choice's own."""
        choice = self.choices[update.index]
        if not self.body.echo or choice.begun:
            return ""
        choice.begun = True
        words = len(self.tokenizer.ranks)  # special tokens are no text
        return self.tokenizer.decode(token for token in self.ticket.asks[update.index].prompt if token < words)

    def _logprobs(self, update: Update) -> dict[str, list[Any]]:
        """OpenAI's four lists for the tokens of an update; with echo the prompt's come first."""
        choice, lists = self.choices[update.index], _lists()
        if self.body.echo and update.prompt_logprobs is not None:
            prompt = self.ticket.asks[update.index].prompt
            for token, entry in zip(prompt, update.prompt_logprobs, strict=True):
                choice.name(token, entry, lists)
        for entry in update.logprobs:
            choice.name(entry.token, entry, lists)
        return lists


def _lists() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


class _Choice:
    """One choice as it grows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.text = tokenizer, ""
        self.finish: str | None = None
        self.begun = False
        self.logprobs = _lists()
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.offset = 0  # characters that are whole

    def add(self, lists: dict[str, list[Any]]) -> None:
        """Append to the logprobs."""
        for name, values in lists.items():
            self.logprobs[name] += values

    def name(self, token: int, entry: TokenLogprob | None, lists: dict[str, list[Any]]) -> None:
        """Write a token, how likely it was (None for the first of a prompt), and where its text begins."""
        lists["tokens"].append(token_name(self.tokenizer, token))
        lists["text_offset"].append(self.offset)
        lists["token_logprobs"].append(finite(entry.logprob) if entry else None)
        if entry is None:
            lists["top_logprobs"].append(None)
        else:
            top = [*entry.top, (token, entry.logprob)]  # the token itself is always among them
            lists["top_logprobs"].append({token_name(self.tokenizer, one): finite(value) for one, value in top})
        if token < len(self.tokenizer.ranks):
            self.offset += len(self.decoder.decode(self.tokenizer.decode_bytes([token])))
