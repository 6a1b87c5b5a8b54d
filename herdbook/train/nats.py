"""What an objective of sequences builds on: the cost of every token by itself, scores, and sums over documents.

`loss.linear_cross_entropy` knows only the sum over tokens, which is all that next-token training needs. Where losses
are a function of whole answers (preferences, rewards) the gradient of each token's cost is known only afterwards, so
logits are computed again in backward, chunk by chunk. Nothing here depends on how the model is spread: with tensor
parallelism each rank has some words of the head, with context parallelism some tokens of every document.
Letters: N tokens, D width, V vocabulary, W words of this rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model.documents import Documents
from herdbook.train.loss import CHUNK_NUMBERS, CHUNK_ROWS, IGNORED
from herdbook.train.spread import all_gather_into, is_spread, own_words, words_each


def token_nats(
    hidden: Tensor,  # (N, D)
    weight: Tensor,  # (V, D), the head's
    targets: Tensor,  # (N,) int64; IGNORED where nothing is asked
    chunk: int | None = None,  # rows at a time
) -> Tensor:  # (N,) float32 (float64 for float64 inputs)
    """-log softmax(hidden @ weight.T)[target] of each token in nats, 0 where ignored; gradients for both inputs.

    Under autocast the products run in its type.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    index = (targets != IGNORED).nonzero().squeeze(1)
    rows = chunk or max(CHUNK_ROWS, CHUNK_NUMBERS // weight.shape[0])
    words, first, group = own_words(weight)
    nats = _TokenNats.apply(
        hidden.index_select(0, index), words, targets.index_select(0, index), first, rows, dtype, group
    )
    return nats.new_zeros(len(targets)).index_copy(0, index, nats)


def scores(
    hidden: Tensor,  # (N, D)
    weight: Tensor,  # (V, D) of a small head: a reward model's has V = 1
) -> Tensor:  # (N, V) float32 (float64 for float64 inputs)
    """hidden @ weight.T, whole on every rank."""
    words, _, group = own_words(weight)
    if is_spread(weight) and group is None:  # all ranks do the same, and the gradients of their inputs are added up
        hidden = _OneOfMany.apply(hidden, weight.device_mesh.size())
    precise = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    with torch.autocast(hidden.device.type, enabled=False):  # scores of bf16 tell a hundred answers apart, not more
        found = F.linear(hidden.to(precise), words.to(precise))
    return found if group is None else _AllWords.apply(found, weight.shape[0], group)


def document_sums(
    model: nn.Module,
    values: Tensor,  # (B, T) of this rank's tokens
    documents: Documents,  # of whole rows
) -> Tensor:  # (documents of the batch,), row after row
    """The sum of each document's tokens, wherever they lie; the same on every rank that shares the rows.

    For objectives that say `of_documents`, all of whose losses are made of such sums.
    """
    numbers = documents.starts.flatten().cumsum(0).view(documents.ids.shape) - 1
    return _numbered_sums(model, values, numbers, len(documents.lengths))


def branch_sums(
    model: nn.Module,
    values: Tensor,  # (B, T) of this rank's tokens
    documents: Documents,  # of whole rows
    most: int,  # A, at least as many as any row has branches
) -> Tensor:  # (B, A), 0 where a row has fewer
    """As `document_sums`, of the branches only, in their order: the answers to the prompts of a row."""
    numbers, rows = documents.branch_numbers, len(documents.ids)
    first = torch.arange(rows, device=numbers.device).unsqueeze(1) * most
    slots = torch.where(numbers < 0, rows * most, numbers + first)
    return _numbered_sums(model, values, slots, rows * most + 1)[:-1].view(rows, most)


def _numbered_sums(model: nn.Module, values: Tensor, numbers: Tensor, count: int) -> Tensor:
    """(count,) sums of the tokens that have each number; `numbers` (B, T) are of whole rows."""
    context = getattr(model, "context", None)
    if context is not None:
        numbers = context.own(numbers)
    sums = values.new_zeros(count).index_add(0, numbers.flatten(), values.flatten())
    return sums if context is None else _SumOnce.apply(sums, context.group)


class _TokenNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,  # (W, D)
        targets: Tensor,
        first: int,
        rows: int,
        dtype: torch.dtype,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        wholes, chosen = (torch.empty(len(targets), dtype=precise, device=hidden.device) for _ in range(2))
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                logits = (hidden[part].to(dtype) @ head.t()).to(precise)
                place, here = _places(targets[part], first, len(head))
                wholes[part] = logits.logsumexp(dim=1) if len(head) else -torch.inf
                chosen[part] = logits.gather(1, place).squeeze(1) * here if len(head) else 0.0
        if group is not None:
            wholes, chosen = _over_words(wholes, chosen, group)
        ctx.save_for_backward(hidden, weight, targets, wholes)
        ctx.first, ctx.rows, ctx.dtype = first, rows, dtype
        return wholes - chosen

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, wholes = ctx.saved_tensors
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight, dtype=wholes.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            head = weight.to(ctx.dtype)
            for start in range(0, len(targets) if len(head) else 0, ctx.rows):
                part = slice(start, start + ctx.rows)
                inputs = hidden[part].to(ctx.dtype)
                place, here = _places(targets[part], ctx.first, len(head))
                errors = ((inputs @ head.t()).to(wholes.dtype) - wholes[part].unsqueeze(1)).exp_()
                errors.scatter_add_(1, place, -here.unsqueeze(1).to(errors.dtype))
                errors = (errors * grads[0][part].unsqueeze(1)).to(ctx.dtype)
                grad_hidden[part] = errors @ head
                grad_weight += errors.t() @ inputs
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None, None


def _places(targets: Tensor, first: int, words: int) -> tuple[Tensor, Tensor]:
    """(n, 1) where each target lies among the words of this rank, and (n,) whether it does."""
    wanted = targets - first
    here = (wanted >= 0) & (wanted < words)
    return torch.where(here, wanted, 0).unsqueeze(1), here


def _over_words(wholes: Tensor, chosen: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Log of the sum of exponentials over all ranks' words, and the wanted logit from the rank that has it."""
    largest = wholes.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    sums = torch.stack([(wholes - largest).exp(), chosen])
    dist.all_reduce(sums, group=group)
    return largest + sums[0].log(), sums[1]


class _OneOfMany(torch.autograd.Function):
    """What it is given; of the gradient one rank's share, where so many ranks find the same one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: int) -> Tensor:
        ctx.ranks = ranks
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] / ctx.ranks, None


class _AllWords(torch.autograd.Function):
    """(N, W) of each rank's words to (N, V); every rank makes the same of it, so each has its own words' gradient."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, words: int, group: dist.ProcessGroup) -> Tensor:
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        each = words_each(words, ranks)
        ctx.here = slice(min(rank * each, words), min(rank * each, words) + part.shape[1])
        padded = part.new_zeros(each, len(part))
        padded[: part.shape[1]] = part.t()
        found = part.new_empty(each * ranks, len(part))
        all_gather_into(found, padded, group=group)
        return found[:words].t().contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0][:, ctx.here], None, None


class _SumOnce(torch.autograd.Function):
    """Sums over ranks. All find the same loss from it, which counts once: the gradient is that of one of them."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None
