"""The formulas of policy gradients against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from herdbook.posttrain.rl_losses import advantages_of, clipped_error, clipped_gain, whitened


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (0.97, 1.0), (0.9, 0.0)])
def test_advantages_are_the_sum_of_what_surprised_later(gamma: float, gae_lambda: float) -> None:
    draw = np.random.default_rng(0)
    rewards, values = draw.normal(size=9), draw.normal(size=9)
    found = advantages_of(rewards, values, gamma, gae_lambda)
    for place in range(9):
        wanted = 0.0
        for later in range(place, 9):
            after = values[later + 1] if later < 8 else 0.0
            wanted += (gamma * gae_lambda) ** (later - place) * (rewards[later] + gamma * after - values[later])
        assert found[place] == pytest.approx(wanted, abs=1e-12)


def test_with_lambda_1_they_are_what_came_less_what_was_expected() -> None:
    draw = np.random.default_rng(1)
    rewards, values = draw.normal(size=7), draw.normal(size=7)
    came = [sum(0.9**step * reward for step, reward in enumerate(rewards[place:])) for place in range(7)]
    np.testing.assert_allclose(advantages_of(rewards, values, 0.9, 1.0), np.array(came) - values, atol=1e-12)


def test_a_gain_is_clipped_only_where_it_has_been_taken() -> None:
    ratio = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    gain = clipped_gain(ratio, torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, -2.0]), 0.2)
    assert gain.tolist() == pytest.approx([1.0, 2.0, 2.4, -1.6, -2.0, -3.0])
    gain.sum().backward()
    assert ratio.grad is not None and ratio.grad.tolist() == pytest.approx([2.0, 2.0, 0.0, 0.0, -2.0, -2.0])


def test_a_value_learns_no_more_where_it_has_gone_far_enough() -> None:
    values = torch.tensor([1.0, 1.0, 0.1, -1.0], dtype=torch.float64, requires_grad=True)
    error = clipped_error(values, torch.zeros(4).double(), torch.tensor([2.0, -2.0, 2.0, 2.0]).double(), 0.2)
    # far towards what came: clipped and flat; far away from it: not clipped; near: as it is
    assert error.tolist() == pytest.approx([1.8**2 / 2, 3.0**2 / 2, 1.9**2 / 2, 3.0**2 / 2])
    error.sum().backward()
    assert values.grad is not None and values.grad.tolist() == pytest.approx([0.0, 3.0, -1.9, -3.0])


def test_whitened_advantages_have_mean_0_and_variance_1() -> None:
    found = whitened(np.random.default_rng(2).normal(3.0, 5.0, 1000))
    assert found.mean() == pytest.approx(0.0, abs=1e-12) and found.var() == pytest.approx(1.0, abs=1e-8)
