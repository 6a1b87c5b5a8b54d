"""What changes a row of logits before a token is drawn: biases, penalties for what was said, a grammar's mask.

The order is vLLM's: bias, repetition, frequency, presence; then what the constraint forbids.
Letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from herdbook.inference.sampler import Sampling


class Adjuster:
    """One request's adjustments, and what it has drawn."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.sampling = sampling
        self.prompt = set(prompt) if sampling.repetition_penalty != 1 else set()
        self.drawn: dict[int, int] = {}  # how often each token was drawn

    @classmethod
    def of(cls, sampling: Sampling, prompt: Sequence[int]) -> Adjuster | None:
        """None when the settings ask for no adjustment."""
        s = sampling
        penalties = s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1
        return cls(s, prompt) if penalties or s.logit_bias or s.constraint is not None else None

    def take(self, token: int) -> None:
        """Count a drawn token."""
        self.drawn[token] = self.drawn.get(token, 0) + 1
        if self.sampling.constraint is not None:
            self.sampling.constraint.take(token)

    @property
    def ended(self) -> bool:
        """Whether the constraint lets nothing follow."""
        return self.sampling.constraint is not None and bool(self.sampling.constraint.ended)

    def apply(
        self,
        row: Tensor,  # (V,) float32, changed in place
    ) -> None:
        """Adjust the logits of the next token."""
        s, device = self.sampling, row.device
        if s.logit_bias:
            row[torch.tensor(list(s.logit_bias), device=device)] += torch.tensor(
                list(s.logit_bias.values()), device=device
            )
        if s.repetition_penalty != 1:
            said = torch.tensor(sorted(self.prompt.union(self.drawn)), device=device)
            logits = row[said]
            row[said] = torch.where(logits > 0, logits / s.repetition_penalty, logits * s.repetition_penalty)
        if self.drawn and (s.frequency_penalty or s.presence_penalty):
            counts = torch.tensor(list(self.drawn.values()), device=device, dtype=row.dtype)
            row[torch.tensor(list(self.drawn), device=device)] -= s.frequency_penalty * counts + s.presence_penalty
        if s.constraint is not None:
            row.masked_fill_(~allowed(s.constraint.mask(), row.shape[0]).to(device), float("-inf"))


def allowed(
    mask: Tensor | np.ndarray,  # (ceil(V / 32),) int32, bit i of word w stands for token 32 w + i
    vocabulary: int,
) -> Tensor:  # (V,) bool
    """A bit mask of tokens spelled out; tokens beyond its end are not allowed."""
    words = mask.numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    bits = np.unpackbits(np.ascontiguousarray(words, dtype="<i4").view(np.uint8), bitorder="little")
    out = np.zeros(vocabulary, dtype=bool)
    out[: min(vocabulary, len(bits))] = bits[:vocabulary]
    return torch.from_numpy(out)
