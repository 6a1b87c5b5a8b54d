"""Cross-entropy when each tensor-parallel rank has a part of the vocabulary (loss parallel, §3.3).

As in `loss.py` rows are taken in chunks and gradients are made in the same pass. Only three numbers per token are
exchanged: the largest logit, the sum of exponentials and the wanted logit.
Letters: N tokens, V vocabulary, W words of this rank, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from herdbook.train.spread import own_words


def parallel_cross_entropy(
    hidden: Tensor,  # (N, D), the same on every rank
    weight: DTensor,  # (V, D), cut by words
    targets: Tensor,  # (N,) int64, all counted
    rows: int,  # at a time
    dtype: torch.dtype,  # of the products
) -> Tensor:
    """Summed -log softmax(hidden @ weight.T)[target] in nats, on every rank; hidden's gradient is this rank's part."""
    mine, first, group = own_words(weight)
    assert group is not None
    learns = torch.is_grad_enabled()
    total: Tensor = _ParallelCrossEntropy.apply(hidden, mine, targets, first, rows, dtype, group, learns)
    return total


class _ParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,  # (W, D)
        targets: Tensor,
        first: int,
        rows: int,
        dtype: torch.dtype,
        group: dist.ProcessGroup,
        learns: bool,
    ) -> Tensor:
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=precise, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if learns else None
        grad_weight = torch.zeros_like(weight, dtype=precise) if learns else None
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                inputs = hidden[part].to(dtype)
                wanted = targets[part] - first
                here = (wanted >= 0) & (wanted < len(weight))
                nats, errors = _chunk((inputs @ head.t()).to(precise), wanted, here, group)
                total += nats.sum()
                if grad_hidden is None or grad_weight is None:
                    continue
                errors = errors.to(dtype)
                grad_hidden[part] = errors @ head
                grad_weight += errors.t() @ inputs
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        return grad_hidden, (grad_weight * scale).to(ctx.weight_dtype), None, None, None, None, None, None


def _chunk(logits: Tensor, wanted: Tensor, here: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Nats of each row, and the logits' gradient, from the (rows, W) logits of this rank's words."""
    empty = logits.shape[1] == 0  # a rank may have no word of a small vocabulary
    largest = logits.new_full((len(logits),), -torch.inf) if empty else logits.amax(dim=1)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    shifted = logits - largest.unsqueeze(1)
    place = torch.where(here, wanted, 0).unsqueeze(1)
    chosen = torch.zeros_like(largest) if empty else shifted.gather(1, place).squeeze(1) * here
    exponentials = shifted.exp_()
    sums = torch.stack([exponentials.sum(dim=1), chosen])
    dist.all_reduce(sums, group=group)
    errors = exponentials.div_(sums[0].unsqueeze(1))
    if not empty:
        errors.scatter_add_(1, place, -here.unsqueeze(1).to(errors.dtype))
    return sums[0].log() - sums[1], errors
