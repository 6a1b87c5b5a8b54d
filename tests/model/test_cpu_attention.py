"""Attention by plain products equals torch's, with all three gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from herdbook.model import cpu_attention
from herdbook.model.attention import attend
from herdbook.model.cpu_attention import BLOCK, LONGEST, per_document
from herdbook.model.documents import Documents


def by_torch(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """One call of torch's attention per document."""
    share = query.shape[1] // key.shape[1]
    mixed = []
    for q, k, v in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True):
        k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        mixed.append(F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1))
    return torch.cat(mixed)


def drawn(seed: int, tokens: int, heads: int, groups: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tokens, heads, width), (tokens, groups, width), (tokens, groups, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def results(function: object, inputs: list[Tensor], lengths: list[int]) -> list[Tensor]:
    """The mixture and the gradients of a weighted sum of it."""
    mixed = function(*inputs, lengths)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, mixed.numel(), dtype=mixed.dtype).view(mixed.shape)
    return [mixed.detach(), *torch.autograd.grad((mixed * weights).sum(), inputs)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 2 * BLOCK + 3), min_size=1, max_size=5),
    st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    st.integers(0, 1000),
)
def test_equals_torch_in_double_precision(lengths: list[int], heads: tuple[int, int], seed: int) -> None:
    inputs = drawn(seed, sum(lengths), *heads, 8, torch.float64)
    ours, theirs = results(per_document, inputs, lengths), results(by_torch, inputs, lengths)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_as_close_to_the_truth_as_torch_is(dtype: torch.dtype) -> None:
    lengths = [BLOCK + 40, 7, 300]
    inputs = drawn(3, sum(lengths), 4, 2, 16, dtype)
    truth = results(by_torch, [x.detach().double().requires_grad_() for x in inputs], lengths)
    ours, theirs = results(per_document, inputs, lengths), results(by_torch, inputs, lengths)
    for exact, mine, other in zip(truth, ours, theirs, strict=True):
        assert mine.dtype == dtype
        error, their_error = (float((x.double() - exact).norm() / exact.norm()) for x in (mine, other))
        assert error < 1.5 * their_error + 1e-7


def test_the_model_takes_it_when_it_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plain = cpu_attention.per_document
    monkeypatch.setattr(cpu_attention, "per_document", lambda *given: calls.append(1) or plain(*given))
    for lengths, taken in (([30, 34], 1), ([LONGEST + 1], 0)):
        calls.clear()
        inputs = [x.unsqueeze(0) for x in drawn(0, sum(lengths), 2, 2, 8, torch.float32)]
        documents = Documents.from_lengths(lengths)
        learnt = attend(*inputs, documents)
        assert len(calls) == taken
        with torch.no_grad():
            torch.testing.assert_close(attend(*inputs, documents), learnt, rtol=1e-5, atol=1e-5)
        assert len(calls) == taken
