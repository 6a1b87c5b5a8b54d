"""Drawing the next token: greedy, or by temperature, top-k, top-p and min-p, each row with its own settings.

Chance is a pure function of (request, step): a counter run through a mixing function, not a generator with
a state. So a request's draws do not depend on its neighbours, and a batch's are one small array.
Letters: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field, SkipValidation
from torch import Tensor

from herdbook.settings import Settings

FIRST = 256
"""How many likeliest tokens are looked at first for top-p and min-p."""
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the step of the splitmix64 counter


class Sampling(Settings):
    """How an answer is drawn and when it ends."""

    max_tokens: int = Field(default=256, ge=0)
    """Longest answer, tokens; 0 reads the prompt only (for `prompt_logprobs`)."""

    temperature: float = Field(default=0.0, ge=0)
    """Logits are divided by it; 0 takes the likeliest token always."""

    top_k: int = Field(default=0, ge=0)
    """Draw among this many likeliest tokens only; 0 for all."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the fewest likeliest tokens whose probabilities reach this sum."""

    min_p: float = Field(default=0.0, ge=0, le=1)
    """Draw among tokens at least this many times as likely as the likeliest; 0 for all."""

    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the answer holds already."""

    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time the answer holds it already."""

    repetition_penalty: float = Field(default=1.0, gt=0)
    """Logits of tokens in prompt or answer are divided by it when positive, else multiplied; 1 changes nothing."""

    logit_bias: dict[int, float] = Field(default_factory=dict)
    """Added to these tokens' logits."""

    logprobs: int | None = Field(default=None, ge=0)
    """Give the log-probability of each token drawn, and of this many likeliest ones; none when not given."""

    prompt_logprobs: int | None = Field(default=None, ge=0)
    """The same for the prompt's tokens."""

    constraint: SkipValidation[Any] = None
    """What the answer must keep to (a `Constraint`): one object per request, since it follows the answer."""

    ignore_end: bool = False
    """Go on after the ids that the model's folder names as ends, until `max_tokens`; for benchmarks."""

    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""

    stop_ids: tuple[int, ...] = ()
    """Token ids that end the answer, besides those the model's folder names."""

    seed: int = 0
    """Chooses among the possible answers; the same seed gives the same answer."""


def request_key(seed: int, prompt: Sequence[int], occurrence: int) -> int:
    """The 64-bit key of a request's chance: its seed, its prompt, and how often that prompt came before it."""
    digest = hashlib.blake2b(f"{seed}/{occurrence}/".encode(), digest_size=8)
    digest.update(np.asarray(prompt, dtype=np.int64).tobytes())
    return int.from_bytes(digest.digest(), "little")


def uniforms(
    keys: np.ndarray,  # (B,) uint64
    steps: np.ndarray,  # (B,) uint64
) -> np.ndarray:  # (B,) float64 in [0, 1)
    """One uniform number per row, by splitmix64 at each row's step."""
    z = keys + (steps + np.uint64(1)) * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


class Sampler:
    """The settings of a batch's rows as tensors, so that a step draws for all rows at once."""

    def __init__(
        self,
        samplings: Sequence[Sampling],
        keys: Sequence[int],
        device: torch.device | str,
        compiled: Callable[[Tensor, Sequence[Tensor]], Tensor] | None = None,  # `Native.draw`
    ) -> None:
        self.compiled = compiled
        self.keys = np.array(keys, dtype=np.uint64)
        self.greedy = all(sampling.temperature == 0 for sampling in samplings)
        self.some_greedy = any(sampling.temperature == 0 for sampling in samplings)
        cut = [s for s in samplings if s.temperature > 0 and (s.top_k > 0 or s.top_p < 1 or s.min_p > 0)]
        self.largest_k = max((sampling.top_k for sampling in cut), default=0)
        self.all_have_k = all(sampling.top_k > 0 for sampling in cut)
        self.some_cut = bool(cut)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device).unsqueeze(1)

        self.temperature = column([sampling.temperature or 1.0 for sampling in samplings])
        self.cold = column([float(sampling.temperature == 0) for sampling in samplings]) > 0
        self.top_k = column([sampling.top_k or float("inf") for sampling in samplings])
        self.top_p = column([sampling.top_p for sampling in samplings])
        self.min_p = column([sampling.min_p for sampling in samplings])
        self.uncut = self.cold | ((self.top_k == float("inf")) & (self.top_p >= 1) & (self.min_p <= 0))
        self.some_uncut = len(cut) < sum(sampling.temperature > 0 for sampling in samplings)
        self.settings = [
            torch.tensor([float(getattr(sampling, name)) for sampling in samplings], dtype=torch.float64)
            for name in ("temperature", "top_k", "top_p", "min_p")
        ]

    def draw(
        self,
        logits: Tensor,  # (B, V)
        steps: Sequence[int],  # how many tokens each row has drawn before
    ) -> Tensor:  # (B,) int64
        """The next token of every row."""
        if self.greedy:
            return logits.argmax(-1)
        chances = torch.from_numpy(uniforms(self.keys, np.array(steps, dtype=np.uint64)))
        if self.compiled is not None:
            return self.compiled(logits, (*self.settings, chances))
        chance = chances.to(logits.device).unsqueeze(1)
        scaled = logits.double() / self.temperature
        # A row is drawn in the same way whatever its neighbours' settings are.
        drawn = torch.zeros_like(self.uncut, dtype=torch.int64)
        if self.some_cut:
            weights, order = self._likeliest(scaled)
            drawn = order.gather(1, _pick(weights, chance))
        if self.some_uncut:
            drawn = torch.where(self.uncut, _pick(scaled.softmax(-1), chance), drawn)
        if self.some_greedy:
            drawn = torch.where(self.cold, logits.argmax(-1, keepdim=True), drawn)
        return drawn.squeeze(1)

    def _likeliest(
        self,
        scaled: Tensor,  # (B, V) float64 logits
    ) -> tuple[Tensor, Tensor]:  # (B, K) each: weights, and the tokens they belong to
        """What top-k, top-p and min-p leave. Most often few tokens are enough to tell; all are sorted otherwise."""
        vocabulary = scaled.shape[-1]
        width = min(self.largest_k if self.all_have_k else FIRST, vocabulary)
        total = scaled.logsumexp(-1, keepdim=True)
        while True:
            best, order = scaled.topk(width, dim=-1)  # likeliest first
            place = torch.arange(width, device=scaled.device)
            # Top-p and min-p count what top-k left as the whole.
            kept = best.masked_fill(place >= self.top_k, float("-inf"))
            whole = torch.where(self.top_k <= width, kept.logsumexp(-1, keepdim=True), total)
            probabilities = (kept - whole).exp()
            before = probabilities.cumsum(-1) - probabilities
            out = (before >= self.top_p) | (probabilities < self.min_p * probabilities[:, :1])
            if width == vocabulary or bool((out[:, -1:] | (self.top_k <= width) | self.uncut).all()):
                # The likeliest always stays; rounding in the sum must not push it out.
                return probabilities.masked_fill(out & (place > 0), 0.0), order
            width = min(16 * width, vocabulary)


def _pick(
    weights: Tensor,  # (B, V) not negative
    chance: Tensor,  # (B, 1) in [0, 1)
) -> Tensor:  # (B, 1) int64
    """The column where the running sum passes `chance` of the total: columns are picked by their weight."""
    sums = weights.cumsum(-1)
    place = torch.searchsorted(sums, chance * sums[:, -1:], right=True)
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).int().argmax(-1, keepdim=True)
    return torch.minimum(place, last)  # rounding may pass the end; the last possible one is meant then
