"""The Llama 3 decoder (§3.2): pre-norm blocks of grouped-query attention and SwiGLU (or experts), RMSNorm, RoPE.

It knows shapes and mathematics only. Parallelism, precision, recomputation and training are applied to it
from outside. Letters: B rows, T tokens.
"""

from __future__ import annotations

import math
import zlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model.attention import Attention
from herdbook.model.cache import PoolStep
from herdbook.model.config import ModelConfig
from herdbook.model.documents import Documents
from herdbook.model.experts import Experts
from herdbook.model.feed_forward import FeedForward
from herdbook.model.rope import Rope, Rotation


class Norm(nn.Module):
    """RMSNorm: divide by the root mean square, times a learnt scale."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(
        self,
        x: Tensor,  # (B, T, dim)
    ) -> Tensor:  # (B, T, dim)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Block(nn.Module):
    """Attention and feed-forward, each normed before and added to the stream after."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = Norm(config.dim, config.norm_eps)
        self.feed_forward: FeedForward | Experts = Experts(config) if config.experts else FeedForward(config)

    def forward(
        self,
        x: Tensor,  # (B, T, dim)
        rotation: Rotation,
        documents: Documents | None = None,
        past: PoolStep | None = None,
    ) -> Tensor:  # (B, T, dim)
        x = x + self.attention(self.attention_norm(x), rotation, documents, past)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """Token ids in, logits of the next token out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rope = Rope(config)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = Norm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.head_words, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight

    def hidden(
        self,
        tokens: Tensor,  # (B, T) int64
        documents: Documents | None = None,  # None: every row is one document
        past: PoolStep | None = None,  # generating: the (1, N) tokens follow what the cache holds
    ) -> Tensor:  # (B, T, dim), after the final norm
        """What the head reads."""
        if documents is not None:
            positions = documents.positions
        elif past is not None:
            positions = past.positions
        else:
            positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        rotation = self.rope.rotation(positions)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, rotation, documents, past)
        return self.norm(x)

    def forward(
        self,
        tokens: Tensor,  # (B, T) int64
        documents: Documents | None = None,
        past: PoolStep | None = None,
    ) -> Tensor:  # (B, T, vocabulary)
        """Logits of the token after each; see `hidden`."""
        return self.head(self.hidden(tokens, documents, past))

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw all weights anew: a pure function of the seed, the shape and each weight's name.

        Matrices are normal, cut at three deviations, with deviation 1 / sqrt(inputs), so that activations keep
        their size at any width; the two that write to the residual stream are divided by sqrt(2 * layers), so
        that the stream's size does not grow with depth. Embedding and head have deviation 0.02: logits begin
        near zero, the first loss near log(vocabulary). Norms begin as 1.
        """
        for name, weight in self.named_parameters():
            weight.copy_(drawn(name, weight.shape, self.config.layers, seed))


def drawn(name: str, shape: torch.Size, layers: int, seed: int) -> Tensor:
    """A weight as `Transformer.initialize` draws it, on the CPU: one generator per weight, so no order counts."""
    if len(shape) == 1:
        return torch.ones(shape)
    deviation = 0.02 if name.startswith(("embedding.", "head.")) else shape[1] ** -0.5
    if name.endswith(("attention.output.weight", ".down.weight")):
        deviation /= math.sqrt(2 * layers)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    weight = torch.empty(shape, dtype=torch.float32, device="cpu")
    return nn.init.trunc_normal_(weight, std=deviation, a=-3 * deviation, b=3 * deviation, generator=generator)
