"""Cross-entropy of the head's logits without ever holding them all.

For a vocabulary of V and N tokens the logits are N * V numbers, often more than the whole model. Here the
rows are taken in chunks that stay in cache; the gradients of hidden states and head are computed in the
same pass, so the chunk's logits are thrown away at once and the head's product is done three times, not four.
Letters: N tokens, V vocabulary, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100  # a target that is not counted
CHUNK_NUMBERS = 1 << 21  # logits held at once, 8 MiB in fp32: more falls out of cache, and costs 3 x per number
ACCELERATOR_CHUNK_NUMBERS = 1 << 28  # there is no such cache there, and thin products leave most of it idle
CHUNK_ROWS = 128  # but at least so many rows, or the products are thin


def linear_cross_entropy(
    hidden: Tensor,  # (N, D)
    weight: Tensor,  # (V, D)
    targets: Tensor,  # (N,) int64; IGNORED where not counted
    chunk: int | None = None,  # rows at a time
) -> tuple[Tensor, int]:
    """Sum over counted targets of -log softmax(hidden @ weight.T)[target], in nats (fp32), and their number.

    Under autocast the products run in its type; softmax and sums are in fp32 (fp64 for fp64 inputs).
    """
    counted = targets != IGNORED
    count = int(counted.sum())
    if count < targets.numel():  # before the product: a row that does not count costs nothing
        index = counted.nonzero().squeeze(1)
        hidden, targets = hidden.index_select(0, index), targets.index_select(0, index)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    learns = torch.is_grad_enabled()
    wants = (learns and hidden.requires_grad, learns and weight.requires_grad)
    numbers = CHUNK_NUMBERS if device == "cpu" else ACCELERATOR_CHUNK_NUMBERS
    rows = chunk or max(CHUNK_ROWS, numbers // weight.shape[0])
    if type(weight) not in (Tensor, nn.Parameter):  # cut by words over ranks
        from herdbook.train.vocabulary import parallel_cross_entropy

        return parallel_cross_entropy(hidden, weight, targets, rows, dtype), count  # type: ignore[arg-type]
    return _LinearCrossEntropy.apply(hidden, weight, targets, rows, dtype, wants), count


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        rows: int,
        dtype: torch.dtype,
        wants: tuple[bool, bool],
    ) -> Tensor:
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=precise, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants[0] else None
        grad_weight = torch.zeros_like(weight, dtype=precise) if wants[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            buffers = torch.empty(2, min(rows, len(targets)), len(weight), dtype=precise, device=hidden.device)
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                inputs, wanted = hidden[part].to(dtype), targets[part].unsqueeze(1)
                logits, probabilities = buffers[0, : len(inputs)], buffers[1, : len(inputs)]
                if dtype == precise:
                    torch.mm(inputs, head.t(), out=logits)
                else:
                    logits.copy_(inputs @ head.t())
                torch.softmax(logits, dim=1, out=probabilities)
                total += _nats(logits, probabilities, wanted).sum()
                if not any(wants):
                    continue
                errors = probabilities.scatter_add_(1, wanted, -torch.ones_like(wanted, dtype=precise)).to(dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = errors @ head
                if grad_weight is not None:
                    _add_product(grad_weight, errors.t(), inputs)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        if grad_hidden is not None:
            grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * scale).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _nats(logits: Tensor, probabilities: Tensor, wanted: Tensor) -> Tensor:
    """-log probability of each wanted token, exact also where the probability underflows to 0."""
    chosen = probabilities.gather(1, wanted).squeeze(1)
    nats = -chosen.log()
    lost = (chosen < 1e-30).nonzero().squeeze(1)
    if lost.numel():
        row = logits[lost]
        nats[lost] = row.logsumexp(dim=1) - row.gather(1, wanted[lost]).squeeze(1)
    return nats


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, added up in total's type."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
