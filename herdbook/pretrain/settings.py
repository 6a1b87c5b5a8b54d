"""Settings of pre-training, and the model it begins with. They import no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from herdbook.model.config import ModelConfig, RopeScaling, preset
from herdbook.settings import Settings, UserError
from herdbook.train.phases import Plan
from herdbook.train.settings import TrainSettings
from herdbook.train.topology import check_plan


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

    flops: float | None = Field(None, gt=0)
    """Budget in operations, forward and backward, instead of steps or tokens; tokens follow from the model's shape."""

    upcycle: UpcycleSettings | None = None
    """Make the dense model to go on from a mixture of experts, equal to it before the first step."""

    mix: dict[str, float] | None = None
    """Share of the rows from each token set; by their tokens when not given."""

    packing: Literal["best_fit", "concatenate", "whole"] = "best_fit"
    """best_fit cuts only documents longer than a row, whole leaves those out, concatenate cuts wherever a row ends."""

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

    @model_validator(mode="after")
    def _topology_fits(self) -> PretrainSettings:
        if self.model is not None:
            shape = preset(self.model) if isinstance(self.model, str) else self.model
            check_plan(self.parallel, shape, Plan.of(budgeted(self, shape)))
        return self

    def _check_end(self) -> None:
        if self.flops is None:
            super()._check_end()
        elif self.steps is not None or self.tokens is not None or self.phases:
            raise UserError("flops says how long the run is by itself; leave out steps, tokens and phases")


def budgeted(settings: Any, config: ModelConfig) -> Any:
    """The settings with `tokens` for `flops`, attention counted causally over rows that are one document each."""
    if settings.flops is None:
        return settings
    tokens = settings.flops / config.flops_per_token((settings.length + 1) / 2)
    return settings.model_copy(update={"flops": None, "tokens": max(1, round(tokens))})


class ExtendSettings(PretrainSettings):
    """How a model's context grows to `length`; `tokens` (or `steps`) is the limit at which a shut gate is an error."""

    schedule: Literal["cosine", "linear", "wsd", "constant"] = "constant"
    """Shape of the learning rate after warm-up; constant, since nobody knows beforehand when the gate opens."""

    validate_every: int = Field(50, gt=0)
    """Steps between two looks at the gate."""

    rope_theta: float | None = Field(None, gt=0)
    """Base of the rotary frequencies from here on; the model's own when not given."""

    rope_scaling: RopeScaling | None = None
    """Llama 3.1's stretching of RoPE from here on; the model's own when not given."""

    short_sets: tuple[str, ...] | None = None
    """Token sets whose held-out pages are the short evaluations; those of the mix when not given."""

    short_length: int | None = Field(None, gt=1)
    """Tokens of a row in the short evaluations; the model's length before its first extension when not given."""

    tolerance: float = Field(0.01, ge=0)
    """Short evaluations have recovered at this share above the bits per byte before the first extension."""

    needle_questions: int = Field(5, gt=0)
    """Needles asked for at each depth; all of them must be found."""

    needle_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where in the hay the needle lies: 0 at the start, 1 at the end."""

    @model_validator(mode="after")
    def _by_tokens(self) -> ExtendSettings:
        if self.flops is not None:
            raise UserError("extend needs a limit in tokens or steps, not flops")
        return self

    @model_validator(mode="after")
    def _one_group(self) -> ExtendSettings:
        if self.parallel.replica_groups > 1:
            raise UserError("extend looks at its gate with one copy of the model; leave out parallel.replica_groups")
        return self


class AnnealSettings(PretrainSettings):
    """How the learning rate goes to 0 on the best data; give as `peak_lr` the rate that training had before."""

    schedule: Literal["cosine", "linear", "wsd", "constant"] = "linear"
    """Shape of the learning rate: linear to `floor` (§3.4.3: to 0)."""

    warmup: int = Field(0, ge=0)
    """Steps in which the learning rate rises from 0 to its highest."""

    members: int = Field(5, gt=0)
    """How many checkpoints are averaged."""

    average_over: float = Field(0.25, gt=0, le=1)
    """Last share of the steps that they are taken from, evenly; earlier ones were trained at higher rates."""

    judge: tuple[str, ...] | None = None
    """Token sets whose held-out documents judge the members and their average; those of the mix when not given."""

    final_tokens: int | None = Field(200_000, gt=0)
    """Most held-out tokens read by the judge for each model."""

    @model_validator(mode="after")
    def _by_tokens(self) -> AnnealSettings:
        if self.flops is not None:
            raise UserError("annealing is given in tokens or steps, not in flops")
        return self


class DataTestSettings(AnnealSettings):
    """What a new set of data is worth: annealing with it, beside annealing without it."""

    new: str
    """The token set under test."""

    share: float = Field(0.3, gt=0, lt=1)
    """Its share of the rows; the rest is the usual mix."""


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
