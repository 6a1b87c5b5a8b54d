"""Settings of post-training. They import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from herdbook.settings import InputPath, Settings, UserError
from herdbook.train.settings import TuningSettings

Strength = Literal["significantly better", "better", "slightly better", "marginally better"]


class DialogsSettings(Settings):
    """Which dialogs are read from files and made of requests and preferences."""

    files: tuple[InputPath, ...] = ()
    """Files or folders of dialogs: JSONL or Parquet with messages, prompt and completion, or conversations."""

    tasks: tuple[str, ...] | None = None
    """Only rows of these tasks; all when not given."""

    limit: int | None = Field(None, gt=0)
    """Most rows of each feeding stage or file, the first ones; all when not given."""

    strengths: tuple[Strength, ...] = ("significantly better", "better")
    """Preferences of these strengths give their chosen (or mended) answer; those that tell none are taken."""


class PosttrainSettings(TuningSettings):
    """How a model is trained on from a checkpoint; give `steps`, `tokens` or `epochs`."""

    epochs: float | None = Field(None, gt=0)
    """Passes over all the data, where neither steps nor tokens are given; 1 when nothing is."""

    optimizer: Literal["muon", "adamw"] = "adamw"
    """muon: orthogonalised momentum for the blocks' matrices, AdamW for the rest; adamw: for all, as in the paper."""

    schedule: Literal["cosine", "linear", "wsd", "constant"] = "linear"
    """Shape of the learning rate after warm-up: cosine or linear to `floor`, or wsd: level, then linear to `floor`."""

    weight_decay: float = Field(0.0, ge=0)
    """Share of the blocks' matrices taken away per step, times the learning rate; norms and embeddings keep theirs."""

    heldout: float = Field(0.0, ge=0, lt=1)
    """Share of the data held out to validate by, chosen by a hash of the prompt; 0 takes all for training."""

    validate_tokens: int = Field(50_000, gt=0)
    """Held-out tokens read by each validation within the run; the one at the end reads all."""

    def _check_end(self) -> None:
        given = [name for name in ("steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"give one of steps, tokens and epochs, not {' and '.join(given)}")
        if given and given != ["epochs"]:
            super()._check_end()
        elif self.phases:
            raise UserError("phases begin at steps or tokens of a run whose length is known; give steps or tokens")

    @property
    def passes(self) -> float | None:
        """Passes over the data that the run is to make; None where steps or tokens say how long it is."""
        return None if self.steps or self.tokens else self.epochs or 1.0


class SftSettings(PosttrainSettings):
    """How a model is fine-tuned on dialogs; only what the assistant says is learnt (§4.1.3)."""

    mix: dict[str, float] | None = None
    """Share of the rows from each set of dialogs; by their tokens (times `times`) when not given."""

    times: dict[str, float] | None = None
    """How often each set is gone through within one pass over the data (§4.2.2); sets not named once."""

    answers: Literal["all", "last"] = "all"
    """Which of a dialog's answers are learnt."""

    packing: Literal["whole", "best_fit"] = "whole"
    """What becomes of dialogs longer than a row: whole leaves them out, best_fit cuts them."""

    kept_back: float = Field(0.0, ge=0, lt=1)
    """Share of the requests that gates judge by: dialogs that bear the id of one of them are left out."""

    @model_validator(mode="after")
    def _one_way_to_mix(self) -> SftSettings:
        if self.mix is not None and (self.times is not None or self.passes is not None):
            raise UserError(
                "mix gives shares of the rows of a run whose length is given by steps or tokens; else: times"
            )
        if self.times is not None and self.passes is None:
            raise UserError(
                "times says how often sets are gone through in a pass; give epochs instead of steps or tokens"
            )
        return self


class AverageSettings(Settings):
    """How models are averaged, and on what the average is judged."""

    weights: dict[str, float] | None = None
    """Weight of each model in the mean; those not named have 1."""

    heldout: float = Field(0.05, gt=0, le=1)
    """Share of the dialogs to judge by, chosen by a hash of the prompt; give what fine-tuning held out."""


class MergeSettings(Settings):
    """Which adapters are merged into a model."""

    adapters: tuple[InputPath, ...] = Field(min_length=1)
    """Folders of LoRA adapters in peft's format (adapter_config.json), merged one after the other."""

    export_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in the model folder."""
