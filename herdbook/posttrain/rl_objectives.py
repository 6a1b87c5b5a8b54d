"""What is minimised over answers that the model gave itself: GRPO (Shao et al. 2024) and PPO (Schulman et al. 2017).

Both raise what turned out better than expected, token by token. GRPO expects the mean of the answers to a request; PPO
asks a second model, trained beside the first, what is to be expected at each token.
Letters: B rows, T tokens, R requests, K answers to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from herdbook.model.config import ModelConfig
from herdbook.model.documents import Documents
from herdbook.model.transformer import Transformer
from herdbook.posttrain.preference_batches import AnswerBatch
from herdbook.posttrain.rl_losses import clipped_error, clipped_gain
from herdbook.train.nats import branch_sums, scores, token_nats
from herdbook.train.objective import Loss


@dataclass
class DrawnBatch(AnswerBatch):
    """Answers that the model gave; ranks are 1 and 0 for online DPO."""

    reference_nats: Tensor | None = None  # (B, T) cost of each target under the reference
    old_nats: Tensor | None = None  # (B, T) the same under the model that drew them; None where that is the model
    advantages: Tensor | None = None  # (B, T) of each target
    old_values: Tensor | None = None  # (B, T) what the value model expected of each target
    returns: Tensor | None = None  # (B, T) what came, as far as the advantages tell
    rewards: Tensor | None = None  # (R, K) score of each answer to each request of the step
    ended: Tensor | None = None  # (R, K) whether it ended


class ActorCritic(nn.Module):
    """A model and the one that tells what to expect of its answers, trained as one and sharing nothing."""

    def __init__(self, policy: Transformer, critic: Transformer) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    @property
    def config(self) -> ModelConfig:
        """The policy's shape."""
        return self.policy.config


def policy_of(model: Any) -> Any:
    """The model that answers."""
    return model.policy if isinstance(model, ActorCritic) else model


def nats_of(model: Any, batch: AnswerBatch, documents: Documents) -> Tensor:  # (B, T), 0 where nothing is asked
    """What each target costs under a model, in nats."""
    hidden = model.hidden(batch.tokens, documents).flatten(0, 1)
    return token_nats(hidden, model.head.weight, batch.targets.flatten()).view(batch.targets.shape)


def values_of(critic: Any, batch: AnswerBatch, documents: Documents) -> Tensor:  # (B, T)
    """What is to be expected from each token on, before the next is known."""
    hidden = critic.hidden(batch.tokens, documents).flatten(0, 1)
    return scores(hidden, critic.head.weight)[:, 0].view(batch.targets.shape)


class _OwnAnswers:
    """What both have in common: the clipped gain and the KL of each token."""

    of_documents = True

    def __init__(self, clip: float) -> None:
        self.clip = clip

    def terms(self, policy: Any, batch: DrawnBatch, documents: Documents) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) each: the gain that is to rise, the KL from the reference (Schulman's k3), whether it was clipped."""
        assert batch.advantages is not None and batch.reference_nats is not None
        nats, learnt = nats_of(policy, batch, documents), batch.kinds > 0
        ahead = (nats - batch.reference_nats) * learnt  # by how much the reference finds a token likelier
        before = nats.detach() if batch.old_nats is None else batch.old_nats
        ratio = torch.exp((before - nats) * learnt)
        gain = clipped_gain(ratio, batch.advantages, self.clip)
        bound = (gain < ratio * batch.advantages) & learnt
        return gain * learnt, torch.expm1(ahead) - ahead, bound.detach()

    def loss(
        self, models: Sequence[Any], total: Tensor, metrics: dict[str, Tensor], batch: DrawnBatch, documents: Documents
    ) -> Loss:
        """With the work of the models; `metrics` are sums over what was counted."""
        tokens = int(batch.filled.sum())

        def work(attended: float) -> float:
            return tokens * sum(one.config.flops_per_token(attended) for one in models)

        metrics = {name: value.detach() for name, value in metrics.items()}
        flops, full = work(documents.mean_attended), work(batch.tokens.shape[1])
        return Loss(total, self.count(batch), metrics, tokens=tokens, flops=flops, full_flops=full)

    def count(self, batch: AnswerBatch) -> int:
        """What the losses are a mean over."""
        raise NotImplementedError


class Grpo(_OwnAnswers):
    """-clipped gain + beta * KL from the reference, a mean over each answer's tokens (eq. 3 and 4)."""

    def __init__(self, beta: float, clip: float = 0.2) -> None:
        super().__init__(clip)
        self.beta = beta

    def count(self, batch: AnswerBatch) -> int:
        """Answers."""
        return int((batch.groups >= 0).sum())

    def __call__(self, model: Any, batch: DrawnBatch) -> Loss:
        """The summed loss; of each answer the mean KL per token, and the share of its tokens that were clipped."""
        documents = Documents.from_ids(batch.document_ids)
        gain, kl, bound = self.terms(model, batch, documents)
        most, there = batch.groups.shape[1], batch.groups >= 0
        length = batch.lengths.sum(-1).clamp(min=1)
        each = [(branch_sums(model, one, documents, most) / length)[there] for one in (gain, kl, bound.to(gain.dtype))]
        metrics = {"kl": each[1].sum(), "clipped": each[2].sum()}
        return self.loss([model], (self.beta * each[1] - each[0]).sum(), metrics, batch, documents)


class Ppo(_OwnAnswers):
    """-clipped gain + weight * clipped error of the values, a mean over tokens (eq. 9); the KL is in the rewards."""

    def __init__(self, clip: float, value_clip: float, value_weight: float) -> None:
        super().__init__(clip)
        self.value_clip, self.value_weight = value_clip, value_weight

    def count(self, batch: AnswerBatch) -> int:
        """Tokens of answers."""
        return int((batch.kinds > 0).sum())

    def __call__(self, model: ActorCritic, batch: DrawnBatch) -> Loss:
        """The summed loss; of each token the KL, whether it was clipped, and the values' error."""
        documents = Documents.from_ids(batch.document_ids)
        gain, kl, bound = self.terms(model.policy, batch, documents)
        assert batch.old_values is not None and batch.returns is not None
        values = values_of(model.critic, batch, documents)
        error = clipped_error(values, batch.old_values, batch.returns, self.value_clip) * (batch.kinds > 0)
        metrics = {"kl": kl.sum(), "clipped": bound.sum().to(kl.dtype), "value_error": error.sum()}
        total = self.value_weight * error.sum() - gain.sum()
        return self.loss([model.policy, model.critic], total, metrics, batch, documents)


class Watched:
    """An objective that logs the scores of the answers too."""

    of_documents = True

    def __init__(self, objective: Any) -> None:
        self.objective = objective

    def count(self, batch: DrawnBatch) -> int:
        """What the objective counts."""
        count: int = self.objective.count(batch)
        return count

    def __call__(self, model: Any, batch: DrawnBatch) -> Loss:
        """The objective's loss, with means over the step's answers among the metrics."""
        loss: Loss = self.objective(model, batch)
        assert batch.rewards is not None and batch.ended is not None
        best, mean = batch.rewards.amax(1).mean(), batch.rewards.mean()
        seen = {"reward": mean, "best_reward": best, "ended": batch.ended.float().mean()}
        loss.metrics |= {name: value * max(loss.count, 1) for name, value in seen.items()}
        return loss
