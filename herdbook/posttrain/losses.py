"""The losses of preference learning as formulas over log-probabilities of whole answers.

DPO (Rafailov et al. 2023), IPO (Azar et al. 2023, per token as its authors use it), KTO (Ethayarajh et al. 2024),
CPO (Xu et al. 2024), SimPO (Meng et al. 2024) and ORPO (Hong et al. 2024). All are in nats.
Letters: P pairs, N answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Likelihood:
    """How likely answers are, one number each."""

    policy: Tensor  # (P,) log-probability under the model that is trained
    reference: Tensor  # (P,) under the reference; zeros where a loss knows none
    length: Tensor  # (P,) tokens that these are sums over

    @property
    def gain(self) -> Tensor:
        """(P,) by how much the policy finds them likelier than the reference does."""
        return self.policy - self.reference

    @property
    def mean(self) -> Tensor:
        """(P,) log-probability per token under the policy."""
        return self.policy / self.length


def dpo(chosen: Likelihood, rejected: Likelihood, beta: float, margin: float) -> Tensor:
    """-log sigmoid(beta * (gain of the chosen - gain of the rejected)), eq. 7."""
    return -F.logsigmoid(beta * (chosen.gain - rejected.gain))


def ipo(chosen: Likelihood, rejected: Likelihood, beta: float, margin: float) -> Tensor:
    """(difference of gains per token - 1 / (2 beta))^2, eq. 17."""
    difference = chosen.gain / chosen.length - rejected.gain / rejected.length
    return (difference - 1 / (2 * beta)).square()


def cpo(chosen: Likelihood, rejected: Likelihood, beta: float, margin: float) -> Tensor:
    """DPO's loss without a reference; its other half is the NLL of the chosen answer, eq. 5."""
    return -F.logsigmoid(beta * (chosen.policy - rejected.policy))


def simpo(chosen: Likelihood, rejected: Likelihood, beta: float, margin: float) -> Tensor:
    """-log sigmoid(beta * difference of log-probabilities per token - margin), eq. 6."""
    return -F.logsigmoid(beta * (chosen.mean - rejected.mean) - margin)


def orpo(chosen: Likelihood, rejected: Likelihood, beta: float, margin: float) -> Tensor:
    """-beta * log sigmoid(log of the odds ratio), the odds those of the likelihood per token, eq. 6 and 7."""
    return -beta * F.logsigmoid(log_odds(chosen.mean) - log_odds(rejected.mean))


def log_odds(
    logprob: Tensor,  # (P,) below 0
) -> Tensor:  # (P,)
    """log(p / (1 - p)), exact where p is near 0 and near 1."""
    # Of the two ways to write 1 - p each is exact on one side of p = 1/2; a likelihood of exactly 1 has no odds.
    logprob = logprob.clamp(max=-torch.finfo(logprob.dtype).tiny)
    return logprob - torch.where(logprob > -0.693, (-torch.expm1(logprob)).log(), torch.log1p(-logprob.exp()))


def kto(
    answers: Likelihood,  # (N,)
    desirable: Tensor,  # (N,) bool
    baseline: Tensor,  # () KL from the reference, not negative, without a gradient
    beta: float,
    weights: tuple[float, float],
) -> Tensor:  # (N,)
    """weight * (1 - sigmoid(±beta * (gain - baseline))), weights of desirable and undesirable answers, eq. 8."""
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, weights[0], weights[1])
    return weight * torch.sigmoid(-sign * beta * (answers.gain - baseline))


PairLoss = Callable[[Likelihood, Likelihood, float, float], Tensor]
PAIR_LOSSES: dict[str, PairLoss] = {"dpo": dpo, "ipo": ipo, "cpo": cpo, "simpo": simpo, "orpo": orpo}
