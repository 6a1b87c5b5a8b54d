"""The chunked loss against torch's cross-entropy of all logits, and against transformers' loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from herdbook.model.documents import Documents
from herdbook.model.huggingface import theirs
from herdbook.train.loss import IGNORED, linear_cross_entropy
from herdbook.train.objective import NextToken
from tests.support.models import tiny_model, tiny_peer
from tests.train.support import RandomBatches


def inputs(dtype: torch.dtype, rows: int = 37, dim: int = 8, vocabulary: int = 53) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, dim, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, dim, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[::5] = IGNORED
    return hidden, weight, targets


def reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.t(), targets, ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradients_equal_those_of_all_logits(dtype: torch.dtype, tolerance: float, chunk: int) -> None:
    hidden, weight, targets = inputs(dtype)
    total, count = linear_cross_entropy(hidden, weight, targets, chunk)
    (total / 3).backward()
    ours = [total.detach(), hidden.grad, weight.grad]
    hidden, weight, targets = inputs(dtype)
    expected = reference(hidden, weight, targets)
    (expected / 3).backward()
    assert count == int((targets != IGNORED).sum())
    for found, wanted in zip(ours, [expected.detach(), hidden.grad, weight.grad], strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_a_frozen_head_and_a_frozen_model_get_no_gradient() -> None:
    hidden, weight, targets = inputs(torch.float64)
    linear_cross_entropy(hidden, weight.detach(), targets)[0].backward()
    wanted = hidden.grad
    hidden, _, _ = inputs(torch.float64)
    reference(hidden, weight.detach(), targets).backward()
    torch.testing.assert_close(wanted, hidden.grad)
    assert weight.grad is None
    linear_cross_entropy(hidden.detach(), weight, targets)[0].backward()
    assert weight.grad is not None


def test_without_gradients_only_the_loss_is_computed() -> None:
    hidden, weight, targets = inputs(torch.float64)
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, targets)
    assert not total.requires_grad
    torch.testing.assert_close(total, reference(hidden, weight, targets).detach())


def test_nothing_counted_is_a_loss_of_zero() -> None:
    hidden, weight, _ = inputs(torch.float32)
    total, count = linear_cross_entropy(hidden, weight, torch.full((37,), IGNORED))
    total.backward()
    assert (float(total.detach()), count, float(weight.grad.abs().sum())) == (0.0, 0, 0.0)


def test_a_probability_that_underflows_still_has_its_exact_loss() -> None:
    hidden = torch.tensor([[200.0]])
    weight = torch.tensor([[1.0], [-1.0]])
    total, _ = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    assert float(total) == 400.0


def test_under_autocast_sums_stay_in_fp32() -> None:
    hidden, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, count = linear_cross_entropy(hidden, weight, targets, 7)
    total.backward()
    assert total.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    exact, exact_weight, _ = inputs(torch.float64)
    wanted = reference(exact, exact_weight, targets)
    wanted.backward()
    assert abs(float(total - wanted)) / count < 0.02
    assert F.cosine_similarity(weight.grad.flatten(), exact_weight.grad.float().flatten(), dim=0) > 0.999


def test_next_token_loss_equals_transformers_on_rows_of_one_document() -> None:
    batch = RandomBatches().batch(0)
    batch.document_ids.zero_()
    batch.targets[:, :-1] = batch.tokens[:, 1:]
    batch.targets[:, -1] = IGNORED
    peer = tiny_peer()
    wanted = peer(input_ids=batch.tokens, labels=batch.tokens).loss
    ours = tiny_model()
    with torch.no_grad():
        names = dict(peer.named_parameters())
        for name, weight in ours.named_parameters():
            weight.copy_(names[theirs(name)])
    loss = NextToken()(ours, batch)
    assert loss.count == batch.tokens.numel() - len(batch.tokens)
    torch.testing.assert_close(loss.total / loss.count, wanted, rtol=1e-5, atol=1e-5)


def test_next_token_loss_of_packed_rows_equals_all_logits_and_counts_work() -> None:
    batch, model = RandomBatches().batch(1), tiny_model()
    documents = Documents.from_ids(batch.document_ids)
    logits = model(batch.tokens, documents)
    wanted = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
    loss = NextToken()(model, batch)
    torch.testing.assert_close(loss.total, wanted)
    assert loss.count == loss.tokens == int((batch.targets != IGNORED).sum())
    assert loss.flops == loss.count * model.config.flops_per_token(documents.mean_attended) < loss.full_flops
