"""Which weight is trained by what, how fast (§3.4 uses AdamW for all; Muon learns more per second on small machines).

Weights are of four kinds: matrices of the blocks, embedding, head, norms. Each kind has its own highest
learning rate; only matrices decay. With Muon, embedding, head and norms are still AdamW's: an embedding row
is not a map of a space, and orthogonalising it would move words that did not occur.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from herdbook.train.muon import Muon
from herdbook.train.schedule import learning_rate_share, momentum
from herdbook.train.settings import TrainSettings

KINDS = ("matrix", "embedding", "head", "norm")


def kinds_of_weights(model: nn.Module) -> dict[str, list[tuple[str, Tensor]]]:
    """The trainable weights by kind, with their names; a head tied to the embedding counts as head.

    A module may hold several models, as PPO's does.
    """
    kinds: dict[str, list[tuple[str, Tensor]]] = {kind: [] for kind in KINDS}
    heads, embeddings = set(), set()
    for part in model.modules():
        head, embedding = (_trained(getattr(part, name, None)) for name in ("head", "embedding"))
        tied = embedding is not None and getattr(getattr(part, "config", None), "tied_embeddings", False)
        heads.add(id(embedding if tied else head))
        embeddings.add(id(embedding))
    for name, weight in model.named_parameters():  # a shared weight comes once
        if not weight.requires_grad:
            continue
        if id(weight) in heads:
            kind = "head"
        elif id(weight) in embeddings:
            kind = "embedding"
        else:
            kind = "matrix" if weight.ndim == 2 else "norm"
        kinds[kind].append((name, weight))
    return kinds


def _trained(module: nn.Module | None) -> Tensor | None:
    """The weight of an embedding or head, or the rows of it that are trained (`model.lora.TokenRows`)."""
    return getattr(module, "rows", None) if hasattr(module, "rows") else getattr(module, "weight", None)


def peak_rates(settings: TrainSettings, dim: int) -> dict[str, float]:
    """Highest learning rate of each kind, for a residual stream of width `dim`."""
    muon = settings.optimizer == "muon"
    matrix = settings.peak_lr or (0.02 if muon else 0.002)
    # Adam moves every number by about the rate; the logits sum `dim` of them, hence the square root.
    width = (128 / dim) ** 0.5
    return {
        "matrix": matrix,
        "embedding": settings.embedding_lr or (0.4 * width if muon else matrix),
        "head": settings.head_lr or (0.02 * width if muon else matrix),
        "norm": settings.norm_lr or (0.01 if muon else matrix),
    }


class Optimizers:
    """The optimizers of one model, stepped as one."""

    def __init__(self, model: nn.Module, settings: TrainSettings, dtype: torch.dtype = torch.float32) -> None:
        """`dtype` is the type of Muon's products. All state is made at once, so checkpoints load into it."""
        self.settings = settings
        kinds = kinds_of_weights(model)
        self.names = {weight: name for named in kinds.values() for name, weight in named}
        config = getattr(model, "config", None)
        rates = peak_rates(settings, config.dim if config is not None else 128)
        self.parts: list[torch.optim.Optimizer] = []
        self.muon: Muon | None = None
        if settings.optimizer == "muon" and kinds["matrix"]:
            matrices = [weight for _, weight in kinds.pop("matrix")]
            self.muon = Muon(matrices, rates["matrix"], settings.momentum, settings.weight_decay, dtype=dtype)
            self.muon.param_groups[0] |= {"peak": rates["matrix"], "kind": "matrix"}
            self.parts.append(self.muon)
        groups = [
            {
                "params": [weight for _, weight in named],
                "kind": kind,
                "peak": rates[kind],
                "weight_decay": settings.weight_decay if kind == "matrix" else 0.0,
            }
            for kind, named in kinds.items()
            if named
        ]
        if groups:
            self.parts.append(adamw(groups, settings.betas))

    @property
    def weights(self) -> list[Tensor]:
        """All trained weights."""
        return list(self.names)

    def set_step(self, step: int) -> float:
        """Set learning rates and momentum for this step (from 0); returns the share of the highest rate."""
        share = learning_rate_share(step, self.settings)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * share
        if self.muon is not None:
            self.muon.param_groups[0]["momentum"] = momentum(step, self.settings.momentum)
        return share

    def rates(self) -> dict[str, float]:
        """The learning rates in force, by kind of weight."""
        return {f"{group['kind']}_lr": group["lr"] for part in self.parts for group in part.param_groups}

    def step(self) -> None:
        """Change the weights by their gradients."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight in self.names:
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the optimizers' state as `weight's name/what`, not copied: loading in place restores it."""
        return {
            f"{self.names[weight]}/{key}": value
            for part in self.parts
            for weight, values in part.state.items()
            for key, value in values.items()
        }


def adamw(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.AdamW:
    """torch's fused AdamW with its state made at once."""
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-10, fused=True)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
    return optimizer


def scale_gradients(weights: list[Tensor], count: float, clip: float) -> Tensor:
    """Turn summed gradients into the mean over `count`, clipped to norm `clip`; returns the mean's norm.

    One pass over the gradients does both. A norm that is not finite leaves the gradients as they are.
    """
    grads = [weight.grad for weight in weights if weight.grad is not None]
    norms = torch._foreach_norm(grads)
    norm = torch.linalg.vector_norm(torch.stack(norms)) / count
    if torch.isfinite(norm):
        torch._foreach_mul_(grads, float(torch.clamp(clip / (norm + 1e-6), max=1.0)) / count)
    return norm
