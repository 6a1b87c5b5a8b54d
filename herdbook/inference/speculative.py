"""Speculative decoding (after Leviathan et al. 2023): cheap guesses at the next tokens, all checked in one pass.

A pass over a few tokens of a sequence reads each weight once, as a pass over one token does; so where reading weights
is what takes the time, right guesses are nearly free. A guess counts as right when it is the very token that the model
draws in that place, with that place's own chance. So an answer is the same with and without guesses, token for token,
whatever is guessed, and its distribution is the model's. (The paper's rule, which may take another token of the same
distribution, accepts somewhat oftener; then answers would depend on what was guessed.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from herdbook.inference.decode import Batch
from herdbook.inference.engine import Engine
from herdbook.inference.logprobs import token_logprobs
from herdbook.inference.request import Request
from herdbook.inference.sampler import GOLDEN, Sampler
from herdbook.inference.scheduler import Load
from herdbook.settings import UserError

FIRST = 4
"""Guesses asked for at an answer's first step; then one more than were right, or twice as many if all were."""


class Guesser(Protocol):
    """Where guesses come from."""

    def guess(self, requests: Sequence[Request], counts: Sequence[int]) -> list[list[int]]:
        """For each answer, at most so many tokens that may come next; it may be none."""


class NGrams:
    """What came the last time after the answer's last few tokens: for answers that quote, list or repeat."""

    def __init__(self, longest: int = 4, shortest: int = 2) -> None:
        self.longest, self.shortest = longest, shortest

    def guess(self, requests: Sequence[Request], counts: Sequence[int]) -> list[list[int]]:
        """See `Guesser`."""
        return [self.after(request.tokens, count) for request, count in zip(requests, counts, strict=True)]

    def after(self, tokens: list[int], count: int) -> list[int]:
        """What followed the latest earlier place where the last tokens stand; the longest match goes first."""
        line = np.array(tokens)
        for size in range(min(self.longest, len(line) - 1), self.shortest - 1, -1):
            windows = np.lib.stride_tricks.sliding_window_view(line[:-1], size)
            found = np.flatnonzero((windows == line[-size:]).all(1))
            if len(found):
                start = int(found[-1]) + size
                return tokens[start : start + count]
        return []


class Draft:
    """A smaller model of the herd that draws with the same chance, so where both find the same likely, it is right."""

    def __init__(self, engine: Engine) -> None:
        """`engine` must know the same tokens; it is used for nothing else at the same time."""
        self.engine = engine

    def guess(self, requests: Sequence[Request], counts: Sequence[int]) -> list[list[int]]:
        """See `Guesser`; what the draft model has read of an answer it finds again in its prefix cache."""
        own: list[Request | None] = []
        for request, count in zip(requests, counts, strict=True):
            if len(request.tokens) + count > self.engine.limit:
                own.append(None)
                continue
            changes: dict[str, Any] = {"max_tokens": count, "ignore_end": True, "stop": (), "stop_ids": ()}
            changes |= {"logprobs": None, "prompt_logprobs": None}
            asked = self.engine.submit(request.tokens, request.sampling.model_copy(update=changes))
            asked.key = (request.key + len(request.ids) * GOLDEN) % 2**64  # its step 0 is the answer's next
            own.append(asked)
        while any(asked is not None and asked.finish is None for asked in own):
            self.engine.step()
        return [asked.ids if asked is not None else [] for asked in own]


class SpeculativeEngine(Engine):
    """An engine whose answers are those of `Engine`, sooner where few are written at once."""

    def __init__(
        self,
        *given: Any,
        guesser: Guesser | None = None,
        guesses: int = 8,
        rows_guessed: int | None = None,
        **more: Any,
    ):
        """As `Engine`; `guesser`: n-grams when not given; `guesses`: most per answer and step; `rows_guessed`: with
        more answers at work none are guessed, since then a pass is bound by arithmetic (on a CPU with a second one
        already, so 1 when not given; else 8)."""
        super().__init__(*given, **more)
        self.guesses = guesses
        self.rows_guessed = rows_guessed or (1 if self.device.type == "cpu" else 8)
        self.guesser: Guesser = NGrams()
        self.tried = self.right = 0
        """Guesses checked so far, and those that were right."""
        self.counts: WeakKeyDictionary[Request, int] = WeakKeyDictionary()
        if guesser is not None:
            self.guess_by(guesser)

    def guess_by(self, guesser: Guesser) -> None:
        """Take guesses from there; UserError when a draft model knows other tokens."""
        if isinstance(guesser, Draft):
            drafts, ours = guesser.engine.tokenizer.hash, self.tokenizer.hash
            if drafts != ours or guesser.engine.model.config.vocab_size < self.model.config.vocab_size:
                raise UserError(
                    "the draft model has another tokenizer than the model; take one raised on the same tokens"
                )
        self.guesser = guesser

    @property
    def workload(self) -> Load:
        """See `Engine.workload`."""
        return replace(super().workload, guessed=self.tried, guessed_right=self.right)

    def step(self) -> list[Request]:
        """See `Engine.step`; an answer may get several tokens."""
        at_work = self.scheduler.running
        plain = (
            not at_work
            or len(at_work) > self.rows_guessed
            or bool(self.scheduler.waiting)
            or any(len(r.tokens) - r.read != 1 or r.adjuster is not None for r in at_work)
        )
        if plain:
            return super().step()
        with torch.inference_mode():
            requests = [request for request, _ in self.scheduler.plan()]
            try:
                guesses = self._guess(requests)
                order = sorted(range(len(requests)), key=lambda at: len(guesses[at]) > 0)  # those with one token first
                requests, guesses = [requests[at] for at in order], [guesses[at] for at in order]
                self._check(requests, guesses, self._read(requests, guesses))
            except BaseException:
                self.scheduler.blocks.forget()
                raise
        for request in requests:
            if request.finish is not None:
                self.scheduler.drop(request)
        return requests

    def _guess(self, requests: list[Request]) -> list[list[int]]:
        """Guesses for each, as many as its blocks have room for."""
        counts = [
            max(0, min(self.counts.get(request, FIRST), self.guesses, request.room - len(request.ids) - 1))
            for request in requests
        ]
        guesses = [
            list(guess[:count]) for guess, count in zip(self.guesser.guess(requests, counts), counts, strict=True)
        ]
        for request, guess in zip(requests, guesses, strict=True):
            held = self.scheduler.extend(request, request.read + 1 + len(guess))
            del guess[max(0, held - request.read - 1) :]
        return guesses

    def _read(self, requests: list[Request], guesses: list[list[int]]) -> Tensor:
        """Logits behind the last token of each and behind its guesses, one after the other."""
        counts = [1 + len(guess) for guess in guesses]
        tokens = [token for request, guess in zip(requests, guesses) for token in (request.tokens[-1], *guess)]
        longest = max(len(request.table) for request in requests)
        batch = Batch(
            np.array(tokens, np.int32),
            np.array(counts, np.int32),
            np.array([request.read for request in requests], np.int32),
            self.scheduler.tables[[request.row for request in requests], :longest],
            np.arange(len(tokens), dtype=np.int32),
        )
        return self.runner.head(self.runner(batch))

    def _check(self, requests: list[Request], guesses: list[list[int]], logits: Tensor) -> None:
        """Draw in every place, and take what was drawn as far as the guesses before it were right."""
        owners = [request for request, guess in zip(requests, guesses) for _ in range(1 + len(guess))]
        steps = [len(r.ids) + place for r, guess in zip(requests, guesses) for place in range(1 + len(guess))]
        sampler = Sampler([r.sampling for r in owners], [r.key for r in owners], self.device, self.compiled_draw)
        drawn = sampler.draw(logits, steps).tolist()
        first = 0
        for request, guess in zip(requests, guesses, strict=True):
            pieces, taken = "", 0
            for place, token in enumerate(drawn[first : first + 1 + len(guess)]):
                if request.logprobs is not None:
                    row = logits[first + place : first + place + 1]
                    request.logprobs += token_logprobs(row, [token], [request.sampling.logprobs or 0])
                request.piece = ""
                self._take(request, token)
                pieces, taken = pieces + request.piece, place + 1
                if request.finish is not None or guess[place : place + 1] != [token]:
                    break
            request.piece = pieces
            self.scheduler.read_on(request, taken)
            self.tried, self.right = self.tried + len(guess), self.right + taken - 1
            if guess:
                self.counts[request] = 2 * len(guess) if taken > len(guess) else taken
            first += 1 + len(guess)
