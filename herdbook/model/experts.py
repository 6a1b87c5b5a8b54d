"""Mixture of experts: a router sends each token to the few feed-forwards that suit it (Mixtral; Shazeer et al. 2017).

A dense model becomes one by sparse upcycling (Komatsuzaki et al. 2023): every expert begins as a copy of the dense
feed-forward. The chosen experts' weights sum to 1, so the new model begins as exactly the same function.
Letters: N tokens, E experts, K experts per token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model.config import ModelConfig
from herdbook.model.feed_forward import FeedForward

ROUTER_DEVIATION = 0.02
"""Deviation of an upcycled router's weights: nearly even at first, so that every expert is given something to learn."""


class Experts(nn.Module):
    """E feed-forwards, K of which work on each token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.per_token = config.experts_per_token
        self.router = nn.Linear(config.dim, config.experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(config) for _ in range(config.experts))
        self.imbalance: Tensor | None = None

    def forward(
        self,
        x: Tensor,  # (B, T, dim)
    ) -> Tensor:  # (B, T, dim)
        """The chosen experts' outputs, weighed; leaves its imbalance to be collected when gradients are taken."""
        tokens = x.flatten(0, -2)
        with torch.autocast(x.device.type, enabled=False):  # near ties must not be decided by rounding
            shares = F.linear(tokens.float(), self.router.weight.float()).softmax(dim=-1)
        weights, chosen = shares.topk(self.per_token, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        # Set anew each time: what recomputing in a backward pass left must not count when the model is judged.
        self.imbalance = imbalance(shares, chosen) if torch.is_grad_enabled() else None
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            token, place = torch.where(chosen == index)
            part = expert(tokens[token]) * weights[token, place].unsqueeze(1)
            mixed.index_add_(0, token, part.to(mixed.dtype))
        return mixed.view(x.shape)


def imbalance(
    shares: Tensor,  # (N, E) float32, the router's probabilities
    chosen: Tensor,  # (N, K) int64
) -> Tensor:
    """How unevenly tokens are spread: E * sum over experts of (tokens' part given) * (mean share), K when even.

    The auxiliary loss of Switch Transformers (Fedus et al. 2021), for K experts per token as Mixtral has it.
    """
    given = F.one_hot(chosen, shares.shape[1]).sum(dim=1).float().mean(dim=0)
    return shares.shape[1] * (given * shares.mean(dim=0)).sum()


def collect_imbalance(model: nn.Module) -> Tensor | None:
    """Mean imbalance of the layers' last forward pass, which is forgotten; None for a dense model."""
    found = []
    for module in model.modules():
        if isinstance(module, Experts) and module.imbalance is not None:
            found.append(module.imbalance)
            module.imbalance = None
    return torch.stack(found).mean() if found else None
