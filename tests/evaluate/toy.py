"""A language model small enough to do by hand: bytes as tokens, each with a fixed chance whatever came before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

BEGIN, END = 256, 257


class ByteTokenizer:
    """Ids are bytes; text begins with 256."""

    vocab_size, bos_id, eos_id = 258, BEGIN, END

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        return [BEGIN] * bos + list(text.encode()) + [END] * eos

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")


@dataclass
class Completion:
    text: str
    token_ids: list[int]
    finish_reason: str


@dataclass
class Score:
    logprob: float
    tokens: int
    greedy: bool


class ToyEngine:
    """Scores by a table of chances per byte; writes what `reply` says to a prompt, stop strings and limit obeyed."""

    def __init__(
        self,
        chances: dict[str, float] | None = None,
        reply: Callable[[str], str] = lambda prompt: "",
        max_length: int = 4096,
    ) -> None:
        self.tokenizer = ByteTokenizer()
        self.model = SimpleNamespace(config=SimpleNamespace(max_length=max_length))
        self.knows_chat, self.limit = False, max_length
        self.chances = {ord(key): value for key, value in (chances or {}).items()}
        self.reply = reply
        self.asked: list[str] = []
        self.limits: list[int] = []

    def score(self, prompts: Sequence[list[int]], continuations: Sequence[list[int]]) -> list[Score]:
        assert all(prompt[0] == BEGIN and prompt.count(BEGIN) == 1 for prompt in prompts)
        self.asked += [self.tokenizer.decode(prompt) for prompt in prompts]
        return [
            Score(sum(math.log(self.chances.get(i, 1e-3)) for i in ids), len(ids), False)
            for _, ids in zip(prompts, continuations, strict=True)
        ]

    def generate(self, prompts: Sequence[list[int]], sampling: Any) -> list[Completion]:
        completions = []
        for prompt in prompts:
            assert prompt[0] == BEGIN
            assert len(prompt) + sampling.max_tokens <= self.model.config.max_length
            text = self.tokenizer.decode(prompt)
            self.asked.append(text)
            self.limits.append(sampling.max_tokens)
            ids = self.tokenizer.encode(self.reply(text))[: sampling.max_tokens]
            written = self.tokenizer.decode(ids)
            ends = [written.find(stop) for stop in sampling.stop if stop in written]
            completions.append(Completion(written[: min(ends)] if ends else written, ids, "stop" if ends else "length"))
        return completions

    def close(self) -> None:
        """Nothing to close."""
