"""One answer on its way: what was asked, what has been drawn, and where its past lies in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from herdbook.inference.adjust import Adjuster
from herdbook.inference.blocks import Name
from herdbook.inference.sampler import Sampling
from herdbook.inference.text import GrowingText

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenLogprob:
    """How likely one token was where it stands, by the model alone: before penalties, temperature and cuts."""

    token: int
    """Its id."""

    logprob: float
    """Natural log of its probability."""

    top: list[tuple[int, float]]
    """The likeliest tokens there and their log-probabilities, likeliest first, as many as were asked for."""


@dataclass(frozen=True)
class Completion:
    """An answer."""

    text: str
    """Its text, without stop text and special tokens."""

    token_ids: list[int]
    """All tokens drawn, the one that ended it included."""

    finish_reason: Finish
    """`stop`: a stop token or text came; `length`: max_tokens or the model's context was used up."""

    logprobs: list[TokenLogprob] | None = None
    """Of each token drawn, when asked for."""

    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Of each token of the prompt (None for the first, which nothing foretells), when asked for."""


@dataclass(eq=False)
class Request:
    """An answer that is waited for; `Engine.step` fills it in."""

    prompt: list[int]
    sampling: Sampling
    key: int
    """Of its chance; see `request_key`."""
    room: int
    """Most tokens it may draw."""

    ids: list[int] = field(default_factory=list)
    """Tokens drawn so far."""
    piece: str = ""
    """Text that became certain in the last step."""
    finish: Finish | None = None
    """Why it ended; None while it goes on, or when it was cancelled."""
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    cached: int = 0
    """Tokens of the prompt that were found in the cache when it was first read."""

    # What the engine keeps; nobody else's business.
    tokens: list[int] = field(default_factory=list)  # prompt and drawn
    read: int = 0  # tokens whose keys and values lie in the cache
    table: list[int] = field(default_factory=list)  # its blocks
    names: list[Name] = field(default_factory=list)  # of its full blocks, as far as they were needed
    row: int = -1  # its row in the scheduler's tables while it runs
    started: bool = False

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        self.growing = GrowingText(self.sampling.stop)
        self.adjuster = Adjuster.of(self.sampling, self.prompt)
        if self.sampling.logprobs is not None:
            self.logprobs = []
        if self.sampling.prompt_logprobs is not None:
            self.prompt_logprobs = [None]

    @property
    def text(self) -> str:
        """The text that is certain so far."""
        return self.growing.text

    @property
    def prompt_scored(self) -> bool:
        """Whether no log-probabilities of the prompt are waited for."""
        return self.prompt_logprobs is None or len(self.prompt_logprobs) == len(self.prompt)

    @property
    def completion(self) -> Completion:
        """What `generate` gives."""
        return Completion(self.text, self.ids, self.finish or "length", self.logprobs, self.prompt_logprobs)


def check_prompt(prompt: Sequence[int], vocabulary: int) -> str | None:
    """What is wrong with a prompt's ids, if anything is."""
    if not prompt:
        return "is empty; begin it with the begin-of-text token"
    wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
    return None if wrong is None else f"holds the id {wrong}; the model's vocabulary has {vocabulary}"
