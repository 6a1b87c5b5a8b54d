"""Settings of adapters. They import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from herdbook.settings import Settings, UserError

Target = Literal["query", "key", "value", "output", "gate", "up", "down"]
TARGETS: tuple[Target, ...] = ("query", "key", "value", "output", "gate", "up", "down")


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021): a few trained numbers beside frozen matrices."""

    rank: int = Field(8, gt=0)
    """Rank of what is added to each matrix."""

    alpha: float = Field(16.0, gt=0)
    """What is added is scaled by alpha / rank."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are left out, at random, in training."""

    targets: tuple[Target, ...] = TARGETS
    """Matrices of each block that get an adapter; all when not given."""

    chat_tokens: bool = False
    """Train the chat format's tokens too, their rows of embedding and head: a base has never read them."""

    quantised: Literal["int8", "int4"] | None = None
    """Keep the frozen matrices in 8 or 4 bits (QLoRA); as they are when not given."""

    @field_validator("targets")
    @classmethod
    def _some_and_each_once(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        if not targets or len(set(targets)) != len(targets):
            raise UserError(f"lora.targets is {', '.join(targets) or 'empty'}; name some matrices, each once")
        return targets

    @property
    def scale(self) -> float:
        """What the product of an adapter's two matrices is multiplied by."""
        return self.alpha / self.rank
