"""Settings of pre-training, and the model it begins with. They import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from herdbook.model.config import ModelConfig, preset
from herdbook.settings import Settings, UserError
from herdbook.train.settings import TrainSettings


class ModelShape(ModelConfig):
    """A model's shape whose vocabulary may be left to the tokenizer."""

    vocab_size: int = Field(0, ge=0)
    """Rows of the embedding, tokens; the tokenizer's vocabulary when 0."""


class UpcycleSettings(Settings):
    """How a dense model becomes a mixture of experts before it is trained on."""

    experts: int = Field(8, ge=2)
    """Copies of each block's feed-forward."""

    per_token: int = Field(2, gt=0)
    """Copies that work on each token."""

    router_loss: float = Field(0.01, ge=0)
    """Weight of the loss that spreads the tokens over the experts."""


class PretrainSettings(TrainSettings):
    """How a base model is trained on token sets."""

    model: str | ModelShape | None = None
    """A preset's name (its vocabulary becomes the tokenizer's) or a shape; left out when going on from a model."""

    upcycle: UpcycleSettings | None = None
    """Make the dense model to go on from a mixture of experts, equal to it before the first step."""

    mix: dict[str, float] | None = None
    """Share of the rows from each token set; by their tokens when not given."""

    packing: Literal["best_fit", "concatenate"] = "best_fit"
    """How documents fill rows: best_fit cuts only what is longer than a row, concatenate cuts wherever a row ends."""

    validate_tokens: int = Field(50_000, gt=0)
    """Held-out tokens read by each validation within the run; the one at the end reads `final_tokens`."""

    final_tokens: int | None = Field(None, gt=0)
    """Most held-out tokens read at the end; all when not given."""

    export_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in the model folder."""

    @field_validator("model")
    @classmethod
    def _known_preset(cls, model: str | ModelShape | None) -> str | ModelShape | None:
        if isinstance(model, str):
            preset(model)  # an unknown name is told when the recipe is read
        return model


def shape_of(model: str | ModelShape, vocab_size: int) -> ModelConfig:
    """The model's shape with a vocabulary of at least `vocab_size`; UserError when the given one is too small."""
    if isinstance(model, str):
        return preset(model).model_copy(update={"vocab_size": vocab_size})
    if 0 < model.vocab_size < vocab_size:
        raise UserError(
            f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's vocabulary of {vocab_size}; "
            "leave it out to take the tokenizer's"
        )
    return ModelConfig(**{**model.model_dump(), "vocab_size": model.vocab_size or vocab_size})
