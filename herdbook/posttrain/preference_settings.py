"""Settings of what is trained on preferences: reward models, and models themselves. They import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from herdbook.posttrain.settings import PosttrainSettings, Strength
from herdbook.settings import InputPath, Settings, UserError

Loss = Literal["dpo", "ipo", "kto", "cpo", "simpo", "orpo"]

WITH_REFERENCE = ("dpo", "ipo", "kto")
"""Losses that hold the model against what it was at first."""

PER_TOKEN = ("ipo", "simpo", "orpo")
"""Losses of log-probabilities per token."""


class LossDefaults(Settings):
    """What a loss is used with when the settings don't tell."""

    beta: float
    """As `PreferenceSettings.beta`."""

    nll_weight: float
    """As `PreferenceSettings.nll_weight`."""

    margin: float = 0.0
    """As `PreferenceSettings.margin`."""


DEFAULTS: dict[str, LossDefaults] = {
    "dpo": LossDefaults(beta=0.1, nll_weight=0.2),
    "ipo": LossDefaults(beta=0.1, nll_weight=0.0),
    "kto": LossDefaults(beta=0.1, nll_weight=0.0),
    "cpo": LossDefaults(beta=0.1, nll_weight=1.0),
    "simpo": LossDefaults(beta=2.0, nll_weight=0.0, margin=1.0),
    "orpo": LossDefaults(beta=0.1, nll_weight=1.0),
}
"""Llama 3's for DPO, those of the papers for the others."""


class PreferencesSettings(Settings):
    """Which preferences are read from files."""

    files: tuple[InputPath, ...] = Field(min_length=1)
    """Files or folders: JSONL or Parquet with prompt, chosen and rejected, or prompt, completion and label."""


class AnswersSettings(PosttrainSettings):
    """What reward models and preferences have in common."""

    peak_lr: float | None = Field(1e-5, gt=0)
    """Highest learning rate (§4.1.4: 1e-5); models of a few million parameters want a hundred times as much."""

    strengths: tuple[Strength, ...] = ("significantly better", "better")
    """Preferences of these strengths are learnt from (§4.1.2); those that tell none are kept."""

    heldout: float = Field(0.05, ge=0, lt=1)
    """Share of the preferences held out to judge by, chosen by a hash of the prompt; 0 takes all for training."""

    edited: bool = True
    """Whether answers that an annotator mended take part, as better than the chosen ones."""

    @model_validator(mode="after")
    def _one_length(self) -> AnswersSettings:
        if self.phases:
            raise UserError(
                "phases change rows and lengths within a run, and preferences have one of each; leave it out"
            )
        return self


class RewardSettings(AnswersSettings):
    """How a reward model is made of a pre-trained one (§4.1.2)."""

    likelihood: float = Field(0.0, ge=0)
    """By what an answer's log-probability per token makes its score; 0, the paper's way: a head at its last token."""


class PreferenceSettings(AnswersSettings):
    """How a model learns to prefer the chosen answers (§4.1.4)."""

    loss: Loss = "dpo"
    """What is minimised: dpo, ipo and kto hold to the model at first; cpo, simpo and orpo know no reference."""

    beta: float | None = Field(None, gt=0)
    """How strongly a difference counts; when not given 0.1, for simpo 2."""

    nll_weight: float | None = Field(None, ge=0)
    """Weight of the chosen answer's cost per token, ends included; when not given 0.2 for dpo, 1 for cpo and orpo."""

    margin: float | None = Field(None, ge=0)
    """By how much the chosen answer is to win with simpo; 1 when not given."""

    mask: Literal["none", "format", "shared"] = "format"
    """What the preference loss leaves out: nothing, the ends of messages, or all that an alignment finds in both."""

    kto_weights: tuple[float, float] = (1.0, 1.0)
    """Weights of desirable and undesirable answers with kto."""

    @model_validator(mode="after")
    def _known_to_the_loss(self) -> PreferenceSettings:
        if self.margin is not None and self.loss != "simpo":
            raise UserError(f"margin is simpo's, and loss={self.loss}; leave it out")
        if self.loss == "kto" and self.parallel.replica_groups > 1:
            raise UserError("kto's baseline is a mean over all rows of a step, which replica groups do not share")
        return self

    def given(self, name: Literal["beta", "nll_weight", "margin"]) -> float:
        """The setting, or what the loss is used with when it is not given."""
        value = getattr(self, name)
        found: float = getattr(DEFAULTS[self.loss], name) if value is None else value
        return found
