"""Answers that keep to a form: a JSON schema, a regular expression, one of some texts, a grammar.

llguidance walks the grammar token by token and says which tokens may come next; the sampler draws among those only.
Its tokenizer ends an answer with one token, so that is the only end the mask ever lets through, and only where the
form is complete.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from herdbook.settings import UserError
from herdbook.tokens.tokenizer import SPLIT_PATTERN, Tokenizer

if TYPE_CHECKING:
    import llguidance

KEPT = 64  # grammars kept compiled
WHITE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as `json.dumps` writes it: with blanks wherever a model likes, a weak one would write blanks for ever."""


class Constraint(Protocol):
    """What tokens of one answer may come next; it moves on with the answer."""

    @property
    def ended(self) -> bool:
        """Whether the answer is complete and nothing can follow."""

    def mask(self) -> np.ndarray:  # (ceil(V / 32),) int32
        """One bit per token, the lowest first: set where it may come next."""

    def take(self, token: int) -> None:
        """Move on by the token drawn."""


class Guided:
    """A `Constraint` by llguidance; `copy` makes one at the beginning for another answer."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, end_id: int) -> None:
        self.matcher, self.vocab_size, self.end_id = matcher, vocab_size, end_id
        self.error = ""  # why it gave up, when the grammar became too much for it; the answer then ends

    @property
    def ended(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return bool(self.error) or self.matcher.is_stopped()

    def mask(self) -> np.ndarray:  # (ceil(V / 32),) int32
        """One bit per token, the lowest first: set where it may come next; the end alone when it gave up."""
        if not self.error:
            packed = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.int32)
            self.error = self.matcher.get_error()
        if self.error:
            packed = np.zeros((self.vocab_size + 31) // 32, dtype=np.uint32)
            packed[self.end_id // 32] = 1 << (self.end_id % 32)
        return packed.view(np.int32)

    def take(self, token: int) -> None:
        """Move on by the token drawn."""
        if not self.error and not self.matcher.is_stopped():
            self.matcher.consume_token(token)
            self.error = self.matcher.get_error()

    def copy(self) -> Guided:
        """The same form, for another answer."""
        return Guided(self.matcher.deep_copy(), self.vocab_size, self.end_id)


class Guide:
    """Makes constraints for the answers of one model; safe to call from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,  # of the model: its logits may be more than the tokenizer's tokens
        end_id: int,  # the token that ends an answer
    ) -> None:
        self.tokenizer, self.vocab_size, self.end_id = tokenizer, vocab_size, end_id
        self._lock = threading.Lock()
        self._table: llguidance.LLTokenizer | None = None
        self._compiled = lru_cache(KEPT)(self._compile)

    def json_schema(self, schema: dict[str, Any] | bool) -> Guided:
        """JSON that the schema takes, written as `json.dumps` does; UserError where it asks for what we lack."""
        return self._guided(lambda matcher: matcher.grammar_from_json_schema(json.dumps(schema), overrides=WHITE))

    def json_object(self) -> Guided:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Guided:
        """A text that the whole pattern matches (Rust's syntax: no backreferences, no look-around)."""
        return self._guided(lambda matcher: matcher.grammar_from_regex(pattern))

    def choice(self, texts: Sequence[str]) -> Guided:
        """One of these texts."""
        return self.lark("start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts))

    def lark(self, grammar: str) -> Guided:
        """What a Lark grammar derives from `start`."""
        return self._guided(lambda matcher: matcher.grammar_from_lark(grammar))

    def _guided(self, write: Callable[[type[llguidance.LLMatcher]], str]) -> Guided:
        from llguidance import LLMatcher

        try:
            grammar = write(LLMatcher)
        except ValueError as error:
            raise UserError(f"the form of the answer cannot be read: {error}") from None
        with self._lock:
            return self._compiled(grammar).copy()

    def _compile(self, grammar: str) -> Guided:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokens(), grammar, log_level=0)
        if matcher.is_error():
            raise UserError(f"the form of the answer cannot be kept to: {matcher.get_error()[:500].strip()}")
        return Guided(matcher, self.vocab_size, self.end_id)

    def _tokens(self) -> llguidance.LLTokenizer:
        """The vocabulary as llguidance walks it; made once, it takes about a second for 128,000 tokens."""
        if self._table is None:
            from llguidance import LLTokenizer

            self._table = LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]  # not in its stubs
                encoder=self.tokenizer.ranks,
                special_tokens=self.tokenizer.special_tokens,
                pattern=SPLIT_PATTERN,
                eos_token=self.end_id,
                n_vocab=self.vocab_size,
                slices=None,
            )
        return self._table
