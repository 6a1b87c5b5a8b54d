"""SwiGLU, the feed-forward of a block (§3.2); in a mixture of experts, one expert."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model.config import ModelConfig


class FeedForward(nn.Module):
    """A gate decides, per inner unit, how much of `up` passes to `down`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.up = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(
        self,
        x: Tensor,  # (..., dim)
    ) -> Tensor:  # (..., dim)
        return self.down(F.silu(self.gate(x)) * self.up(x))
