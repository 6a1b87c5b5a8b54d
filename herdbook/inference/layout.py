"""How one model lies over several processes when it answers (§6.1): settings and checks that need no torch.

Ranks are numbered stage by stage, [pipeline, tensor]: those that share matrices, which talk most, are neighbours.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from herdbook.model.config import ModelConfig
from herdbook.settings import Settings, UserError


class Layout(Settings):
    """Processes that hold one model together; answers do not depend on it but for rounding."""

    tensor_parallel: int = Field(default=1, ge=1)
    """Ranks that share each matrix, the heads with their cache, and the vocabulary."""

    pipeline_parallel: int = Field(default=1, ge=1)
    """Ranks (times `tensor_parallel`) that hold the blocks one after the other."""

    micro_batches: int = Field(default=0, ge=0)
    """Parts of a step's batch that the stages of a pipeline work on at the same time; 0: as many as stages."""

    @model_validator(mode="after")
    def _parts_have_stages(self) -> Layout:
        if self.micro_batches > 1 and self.pipeline_parallel == 1:
            raise UserError(
                f"micro_batches={self.micro_batches} are what stages of a pipeline work on; set pipeline_parallel too"
            )
        return self

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def parts(self) -> int:
        """Micro-batches of a step; 1 without a pipeline."""
        return 1 if self.pipeline_parallel == 1 else self.micro_batches or self.pipeline_parallel


def check_layout(layout: Layout, config: ModelConfig) -> None:
    """UserError when a model of this shape cannot lie like that; it says which numbers would do."""
    tensor, stages = layout.tensor_parallel, layout.pipeline_parallel
    for name in ("heads", "kv_heads", "ffn_dim"):
        number = getattr(config, name)
        if number % tensor:
            good = [str(one) for one in range(1, min(number, 64) + 1) if not number % one]
            raise UserError(
                f"tensor_parallel={tensor} does not divide the model's {name}={number}; {', '.join(good)} would"
            )
    if stages > config.layers:
        raise UserError(
            f"pipeline_parallel={stages}, but the model has {config.layers} layers; at most {config.layers} stages "
            "have one"
        )
