"""Drawing the next token: greedy, or by temperature, top-k and top-p, each row with its own settings.

Chance is a pure function of (request, step): a counter run through a mixing function, not a generator with
a state. So a request's draws do not depend on its neighbours, and a batch's are one small array.
Letters: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from herdbook.settings import Settings

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the step of the splitmix64 counter


class Sampling(Settings):
    """How an answer is drawn and when it ends."""

    max_tokens: int = Field(default=256, ge=1)
    """Longest answer, tokens."""

    temperature: float = Field(default=0.0, ge=0)
    """Logits are divided by it; 0 takes the likeliest token always."""

    top_k: int = Field(default=0, ge=0)
    """Draw among this many likeliest tokens only; 0 for all."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the fewest likeliest tokens whose probabilities reach this sum."""

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

    def __init__(self, samplings: Sequence[Sampling], keys: Sequence[int], device: torch.device | str) -> None:
        self.keys = np.array(keys, dtype=np.uint64)
        self.greedy = all(sampling.temperature == 0 for sampling in samplings)
        self.largest_k = max((sampling.top_k for sampling in samplings), default=0)
        self.all_have_k = all(sampling.top_k > 0 or sampling.temperature == 0 for sampling in samplings)
        self.cuts = any(sampling.top_k > 0 or sampling.top_p < 1 for sampling in samplings)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device).unsqueeze(1)

        self.temperature = column([sampling.temperature for sampling in samplings])
        self.top_k = column([sampling.top_k or float("inf") for sampling in samplings])
        self.top_p = column([sampling.top_p for sampling in samplings])

    def draw(
        self,
        logits: Tensor,  # (B, V)
        steps: Sequence[int],  # how many tokens each row has drawn before
    ) -> Tensor:  # (B,) int64
        """The next token of every row."""
        if self.greedy:
            return logits.argmax(-1)
        chance = torch.from_numpy(uniforms(self.keys, np.array(steps, dtype=np.uint64))).to(logits.device).unsqueeze(1)
        cold = self.temperature == 0
        scaled = logits.double() / torch.where(cold, 1.0, self.temperature)
        if not self.cuts:
            drawn = _pick(scaled.softmax(-1), chance)
        else:
            width = min(self.largest_k, logits.shape[-1]) if self.all_have_k else logits.shape[-1]
            best, order = scaled.topk(width, dim=-1)  # likeliest first
            place = torch.arange(width, device=logits.device)
            best = best.masked_fill(place >= self.top_k, float("-inf"))
            probabilities = best.softmax(-1)
            before = probabilities.cumsum(-1) - probabilities
            # The likeliest always stays; rounding in the sum must not push it out.
            probabilities = probabilities.masked_fill((before >= self.top_p) & (place > 0), 0.0)
            drawn = order.gather(1, _pick(probabilities, chance))
        return torch.where(cold, logits.argmax(-1, keepdim=True), drawn).squeeze(1)


def _pick(
    weights: Tensor,  # (B, V) not negative
    chance: Tensor,  # (B, 1) in [0, 1)
) -> Tensor:  # (B, 1) int64
    """The column where the running sum passes `chance` of the total: columns are picked by their weight."""
    sums = weights.cumsum(-1)
    place = torch.searchsorted(sums, chance * sums[:, -1:], right=True)
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).int().argmax(-1, keepdim=True)
    return torch.minimum(place, last)  # rounding may pass the end; the last possible one is meant then
