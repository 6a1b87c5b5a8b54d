"""Settings of learning from answers that the model gives while it learns. They import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from herdbook.posttrain.settings import PosttrainSettings
from herdbook.settings import UserError


class RlSettings(PosttrainSettings):
    """How a model learns from its own answers: in every step it answers requests, and the answers are scored."""

    peak_lr: float | None = Field(1e-5, gt=0)
    """Highest learning rate; models of a few million parameters want a hundred times as much."""

    method: Literal["dpo", "grpo", "ppo"] = "dpo"
    """dpo: online, the best answer against the worst; grpo: all, by their mean; ppo: all, by a value model."""

    score: Literal["reward", "verdict"] = "reward"
    """What scores the answers: the reward model that feeds this stage, or the verifiers of the requests."""

    requests_per_step: int = Field(16, gt=0)
    """Requests that are answered at a time, for one step, or for `updates` times `minibatches` steps."""

    answers: int = Field(8, ge=2)
    """Answers drawn to each of them."""

    max_tokens: int = Field(128, gt=0)
    """Longest answer, tokens; one that does not end within them scores below all others."""

    temperature: float = Field(1.0, gt=0)
    """Logits are divided by it when answers are drawn."""

    beta: float | None = Field(None, ge=0)
    """How strongly the model is held to what it was at first; when not given 0.1, for grpo 0.04, for ppo 0.05."""

    nll_weight: float = Field(0.2, ge=0)
    """With dpo, weight of the best answer's cost per token, its end included."""

    updates: int | None = Field(None, ge=1)
    """Passes over the answers drawn at a time before others are drawn; when not given 1, for ppo 4."""

    minibatches: int = Field(1, ge=1)
    """Steps of such a pass; each learns from the answers to as many of the requests."""

    clip_ratio: float = Field(0.2, gt=0, lt=1)
    """With grpo and ppo, how far the ratio of new to old probability may go from 1 and still teach."""

    value_clip: float = Field(0.2, gt=0)
    """With ppo, how far a value may go from what it was when the answers were drawn and still learn."""

    value_weight: float = Field(0.1, ge=0)
    """With ppo, weight of the values' error; the value model begins as the reward model, without one as the model."""

    gamma: float = Field(1.0, gt=0, le=1)
    """With ppo, what a token's reward is worth one token earlier."""

    gae_lambda: float = Field(0.95, ge=0, le=1)
    """With ppo, how far advantages trust rewards and not values: 1 takes all that came, 0 the next value only."""

    whiten: bool = True
    """With ppo, bring the advantages of the answers drawn at a time to mean 0 and variance 1."""

    tasks: tuple[str, ...] | None = None
    """Only requests of these tasks; all when not given."""

    limit: int | None = Field(None, gt=0)
    """Most requests, drawn by the seed; all when not given."""

    kept_back: float = Field(0.1, ge=0, lt=1)
    """Share of the training requests that gates judge by and nothing else sees, chosen by a hash of their ids."""

    @model_validator(mode="after")
    def _in_one_process(self) -> RlSettings:
        if self.parallel.processes > 1:
            raise UserError("rl answers and learns in one process; leave parallel out, or use rounds of preferences")
        if self.phases or self.accumulate > 1 or self.prefetch:
            raise UserError(
                "rl draws a step's answers from the model as it is then; leave out phases, accumulate, prefetch"
            )
        if self.method == "dpo" and self.beta == 0:
            raise UserError("beta=0 leaves dpo nothing to learn from; give a number above 0")
        if self.minibatches > self.requests_per_step:
            raise UserError(
                f"minibatches={self.minibatches} share out the {self.requests_per_step} requests_per_step; give no more"
            )
        return self

    @property
    def strength(self) -> float:
        """`beta`, or what the method is used with when it is not given."""
        return self.beta if self.beta is not None else {"dpo": 0.1, "grpo": 0.04, "ppo": 0.05}[self.method]

    @property
    def steps_per_rollout(self) -> int:
        """Steps between one drawing of answers and the next."""
        return (self.updates or (4 if self.method == "ppo" else 1)) * self.minibatches
