"""Muon (Jordan et al. 2024): momentum whose singular values are all brought to 1, for the matrices of the blocks.

A gradient's few large directions would else decide every step; made orthogonal, all directions of a matrix
learn equally fast. The orthogonal factor comes from five matrix polynomials with the coefficients of Polar
Express (Amsel et al. 2025); afterwards each output unit's update is brought to the same long-run size
(NorMuon, Li et al. 2025). Matrices of one shape are stacked, so a step is a few batched products.
Letters: K matrices of a shape, R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from herdbook.train.spread import is_spread, local, orthogonalize_spread, parts_of

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SAFETY = 1.02  # the polynomials want singular values a little below 1


def orthogonalize(
    matrices: Tensor,  # (K, R, C)
    dtype: torch.dtype = torch.float32,  # of the products; bfloat16 is precise enough
) -> Tensor:  # (K, R, C), in `dtype`
    """The nearest matrices with orthonormal rows or columns: U @ V.T of U S V.T, singular values within a few %."""
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x.float(), dim=(1, 2), keepdim=True) * SAFETY + 1e-7).to(dtype)
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, scaled by sqrt(max(1, R / C)); decoupled weight decay.

    All parameters must be matrices. State of each: `momentum` (R, C) and `square` (R, 1), both fp32, made at once
    so that a checkpoint can be loaded into them.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        row_beta: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "row_beta": row_beta}
        super().__init__(params, defaults)
        self.dtype = dtype
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.ndim != 2:
                    raise ValueError(f"Muon takes matrices only, got a weight of shape {tuple(weight.shape)}")
                self.state[weight]["momentum"] = torch.zeros_like(weight)
                self.state[weight]["square"] = torch.zeros(
                    (weight.shape[0], 1), dtype=weight.dtype, device=weight.device
                )  # whole on every rank

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step from the `.grad` of the weights; weights without a gradient stay as they are."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:  # experts may lie on fewer ranks than other matrices of their shape
                    where = weight.device_mesh if is_spread(weight) else None
                    alike.setdefault((tuple(weight.shape), where), []).append(weight)
            for weights in alike.values():
                self._step_alike(weights, group)
        return loss

    def _step_alike(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        grads = [local(weight.grad) for weight in weights if weight.grad is not None]
        momenta = [local(self.state[weight]["momentum"]) for weight in weights]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, momenta, group["momentum"])
        if is_spread(weights[0]):
            update = orthogonalize_spread(ahead, weights, lambda whole: orthogonalize(whole, self.dtype).float())
        else:
            update = orthogonalize(torch.stack(ahead), self.dtype).float()
        update = self._even_rows(update, [self.state[weight]["square"] for weight in weights], group["row_beta"])
        rows, columns = weights[0].shape
        parts, changes = [local(weight) for weight in weights], parts_of(update, weights)
        torch._foreach_mul_(parts, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parts, changes, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    @staticmethod
    def _even_rows(update: Tensor, squares: list[Tensor], beta: float) -> Tensor:
        """Divide each row by its running size, then bring each matrix back to the norm it had."""
        norm = torch.linalg.vector_norm(update, dim=(1, 2), keepdim=True)
        torch._foreach_lerp_(squares, list(update.square().mean(dim=2, keepdim=True).unbind()), 1 - beta)
        update = update * torch.stack(squares).clamp_min(1e-12).rsqrt()
        return update * (norm / torch.linalg.vector_norm(update, dim=(1, 2), keepdim=True).clamp_min(1e-12))
