"""Mixture of experts: a router sends each token to the few feed-forwards that suit it (Mixtral; Shazeer et al. 2017).

A dense model becomes one by sparse upcycling (Komatsuzaki et al. 2023): every expert begins as a copy of the dense
feed-forward. The chosen experts' weights sum to 1, so the new model begins as exactly the same function.
Letters: N tokens, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model.config import ModelConfig
from herdbook.model.feed_forward import FeedForward

ROUTER_DEVIATION = 0.02
"""Deviation of an upcycled router's weights: nearly even at first, so that every expert is given something to learn."""


class Router(nn.Linear):
    """Scores of the experts for each token, in fp32 whatever the weights are in: rounding must not decide near ties."""

    def forward(
        self,
        x: Tensor,  # (N, dim)
    ) -> Tensor:  # (N, E) float32
        return F.linear(x.float(), self.weight.float())


class ExpertSet(nn.ModuleDict):
    """The feed-forwards, by number; each works on its own rows. Expert parallelism spreads these over ranks."""

    def forward(
        self,
        rows: Tensor,  # (R, dim), those of one expert after those of another
        counts: list[int],  # how many each expert has
    ) -> Tensor:  # (R, dim)
        parts = zip(self.values(), rows.split(counts), strict=True)
        return torch.cat([expert(part) for expert, part in parts])


class Experts(nn.Module):
    """E feed-forwards, K of which work on each token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.count, self.per_token = config.experts, config.experts_per_token
        self.router = Router(config.dim, config.experts, bias=False)
        self.experts = ExpertSet({str(number): FeedForward(config) for number in range(config.experts)})
        self.cost = 0.0  # what a unit of imbalance adds to the loss; see `burden`
        self.everywhere: Callable[[Tensor], Tensor] = _here  # sums over the ranks that share a batch
        self.imbalance: Tensor | None = None

    def forward(
        self,
        x: Tensor,  # (B, T, dim)
    ) -> Tensor:  # (B, T, dim)
        """The chosen experts' outputs, weighed; leaves its imbalance to be collected when gradients are taken."""
        tokens = x.flatten(0, -2)
        with torch.autocast(x.device.type, enabled=False):
            shares = self.router(tokens).softmax(dim=-1)
        weights, chosen = shares.topk(self.per_token, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        given = chosen.flatten().bincount(minlength=self.count)
        order = chosen.flatten().argsort(stable=True)  # expert after expert
        token = order // self.per_token
        part = self.experts(tokens.index_select(0, token), given.tolist())
        part = part * weights.flatten().index_select(0, order).unsqueeze(1)
        mixed = torch.zeros_like(tokens).index_add_(0, token, part.to(tokens.dtype))
        # Set anew each time: what recomputing in a backward pass left must not count when the model is judged.
        self.imbalance = None
        if torch.is_grad_enabled():
            uneven = imbalance(shares, self.everywhere(given), self.per_token)
            mixed = _Burden.apply(mixed, uneven, self.cost)
            self.imbalance = uneven.detach()
        return mixed.view(x.shape)


def _here(counts: Tensor) -> Tensor:
    return counts


class _Burden(torch.autograd.Function):
    """Passes `x` on; in the backward pass `uneven` gets the gradient `cost`, as if the loss had it as a term.

    So the term reaches the routers from wherever a block lies, whatever the objective makes of the last output.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, uneven: Tensor, cost: float) -> Tensor:
        ctx.cost = cost
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], torch.tensor(ctx.cost, device=grads[0].device), None


def imbalance(
    shares: Tensor,  # (N, E) float32, the router's probabilities for the tokens here
    given: Tensor,  # (E,) int64, tokens that each expert was given, here and wherever else the batch lies
    per_token: int,
) -> Tensor:
    """How unevenly tokens are spread: E * sum over experts of (tokens' part given) * (mean share), K when even.

    The auxiliary loss of Switch Transformers (Fedus et al. 2021), for K experts per token as Mixtral has it. Where
    ranks share a batch this is the part of the rank's tokens; the parts sum to the imbalance of the batch.
    """
    tokens = given.sum() / per_token
    return shares.shape[1] * (given / tokens * shares.sum(dim=0) / tokens).sum()


def burden(model: nn.Module, cost: float) -> None:
    """Let a unit of any layer's imbalance add `cost` to the loss of the forward passes to come."""
    for module in model.modules():
        if isinstance(module, Experts):
            module.cost = cost


def collect_imbalance(model: nn.Module) -> Tensor | None:
    """Sum of the layers' imbalance in the last forward pass, which is forgotten; None for a dense model."""
    found = []
    for module in model.modules():
        if isinstance(module, Experts) and module.imbalance is not None:
            found.append(module.imbalance)
            module.imbalance = None
    return torch.stack(found).sum() if found else None
