"""The losses of policy gradients as formulas over tokens: PPO (Schulman et al. 2017), with GAE (Schulman et al. 2016).

Letters: T tokens, of an answer or of all answers of a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def clipped_gain(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """min(ratio * advantage, ratio within 1 ± clip * advantage), which is to rise; all (T,) (2017, eq. 7)."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_error(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of values (T,), or of values kept within `clip` of those before where that is larger."""
    near = before + (values - before).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


def advantages_of(
    rewards: np.ndarray,  # (T,) of each token of one answer
    values: np.ndarray,  # (T,) expected rewards from each token on, before it is written
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:  # (T,) float64
    """Generalised advantages: the sum over l of (gamma * lambda)^l * delta(t + l) (2016, eq. 16); 0 after the end."""
    following = np.append(values[1:], 0.0)
    deltas = rewards.astype(np.float64) + gamma * following - values
    found, later = np.zeros(len(deltas)), 0.0
    for place in reversed(range(len(deltas))):
        found[place] = later = deltas[place] + gamma * gae_lambda * later
    return found


def whitened(advantages: np.ndarray) -> np.ndarray:
    """The same with mean 0 and variance 1 over all tokens of a batch."""
    return (advantages - advantages.mean()) / np.sqrt(advantages.var() + 1e-8)
