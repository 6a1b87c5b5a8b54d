"""Log-probabilities of tokens by the raw distribution, as OpenAI and vLLM report them.

Letters: M places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from herdbook.inference.request import TokenLogprob

LOGITS = 1 << 25
"""Logits held at once, numbers."""


def token_logprobs(
    logits: Tensor,  # (M, V)
    tokens: Sequence[int],  # M of them
    tops: Sequence[int],  # how many likeliest ones each place wants besides
) -> list[TokenLogprob]:
    """How likely each token is in its place."""
    logits = logits.float()
    total = logits.logsumexp(-1, keepdim=True)
    chosen = (logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None]) - total)[:, 0].tolist()
    most = min(max(tops), logits.shape[-1])
    if not most:
        return [TokenLogprob(token, logprob, []) for token, logprob in zip(tokens, chosen, strict=True)]
    values, ids = logits.topk(most, dim=-1)
    likeliest = zip(ids.tolist(), (values - total).tolist(), tops, strict=True)
    return [
        TokenLogprob(token, logprob, list(zip(best[:count], their[:count], strict=True)))
        for token, logprob, (best, their, count) in zip(tokens, chosen, likeliest, strict=True)
    ]
