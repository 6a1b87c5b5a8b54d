"""Muon against the singular value decomposition, AdamW against torch's, gradients scaled in one pass."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.train.muon import Muon, orthogonalize
from herdbook.train.objective import NextToken
from herdbook.train.optimizer import Optimizers, kinds_of_weights, scale_gradients
from tests.support.models import tiny_model
from tests.train.support import RandomBatches, tiny_settings


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.floats(1e-6, 1e4), st.integers(0, 99))
def test_the_orthogonal_factor_has_the_singular_vectors_of_the_matrix(
    rows: int, columns: int, size: float, seed: int
) -> None:
    u, _, v = torch.linalg.svd(drawn(rows, columns, seed=seed), full_matrices=False)
    spread = torch.linspace(1.0, 0.05, min(rows, columns))
    matrix = u @ (spread[:, None] * size * v)
    found = u.T @ orthogonalize(matrix[None])[0] @ v.T
    assert torch.diagonal(found).min() > 0.75 and torch.diagonal(found).max() < 1.2
    assert (found - torch.diag(torch.diagonal(found))).abs().max() < 1e-3


def test_stacked_matrices_do_not_touch_each_other() -> None:
    stack = drawn(3, 8, 20)
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in stack])
    torch.testing.assert_close(orthogonalize(stack), alone)


def test_half_precision_products_are_precise_enough() -> None:
    matrix = drawn(1, 24, 60)
    exact, rough = orthogonalize(matrix), orthogonalize(matrix, torch.bfloat16).float()
    assert (exact - rough).norm() / exact.norm() < 0.05


def test_first_step_of_muon_moves_along_the_orthogonal_gradient_and_decays() -> None:
    weight = torch.nn.Parameter(drawn(6, 10))
    before, gradient = weight.detach().clone(), drawn(6, 10, seed=1)
    weight.grad = gradient
    Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    moved = (before * (1 - 0.05) - weight.detach()) / 0.1
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    orthogonal = u @ v
    assert torch.nn.functional.cosine_similarity(moved.flatten(), orthogonal.flatten(), dim=0) > 0.98
    assert abs(moved.norm() / orthogonal.norm() - 1) < 0.15
    sizes = moved.norm(dim=1)
    assert sizes.max() / sizes.min() < 1.001  # every output unit moves equally far


def test_muon_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_every_weight_is_of_one_kind() -> None:
    kinds = kinds_of_weights(tiny_model())
    assert {kind: len(named) for kind, named in kinds.items()} == {"matrix": 14, "embedding": 1, "head": 1, "norm": 5}
    tied = kinds_of_weights(tiny_model(tied_embeddings=True))
    assert (len(tied["embedding"]), len(tied["head"])) == (0, 1)


def test_adamw_equals_torchs_with_decay_on_matrices_only() -> None:
    ours = tiny_model()
    theirs = copy.deepcopy(ours)
    options = tiny_settings(optimizer="adamw", peak_lr=0.01, weight_decay=0.3, schedule="constant", warmup=0)
    optimizers = Optimizers(ours, options)
    matrices = [weight for weight in theirs.blocks.parameters() if weight.ndim == 2]
    others = [weight for weight in theirs.parameters() if not any(weight is matrix for matrix in matrices)]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-10)
    for step in range(3):
        for model in (ours, theirs):
            model.zero_grad()
            NextToken()(model, RandomBatches().batch(step)).total.backward()
        optimizers.set_step(step)
        optimizers.step()
        reference.step()
    for mine, yours in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_summed_gradients_become_a_clipped_mean(clip: float) -> None:
    sums = [drawn(4, 5), drawn(7, seed=1)]
    weights = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in sums]
    for weight, grad in zip(weights, sums):
        weight.grad = grad.clone()
    norm = scale_gradients(weights, 13, clip)
    for weight, grad in zip(weights, sums):
        weight.data = grad / 13
        torch.testing.assert_close(weight.grad.norm() / weight.norm(), (clip / norm).clamp(max=1), rtol=2e-3, atol=0)
    torch.testing.assert_close(norm, torch.cat([grad.flatten() for grad in sums]).norm() / 13)


def test_state_names_every_tensor_by_its_weight() -> None:
    state = Optimizers(tiny_model(), tiny_settings()).state()
    assert {name.rsplit("/", 1)[1] for name in state} == {"momentum", "square", "step", "exp_avg", "exp_avg_sq"}
    assert "blocks.0.attention.query.weight/momentum" in state and "head.weight/exp_avg" in state
