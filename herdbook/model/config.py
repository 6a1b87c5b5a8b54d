"""The shape of a decoder, what it costs, and the named shapes of the Llama family (§3.2, table 3).

A `ModelConfig` holds what the weights alone do not tell. The presets are the published shapes, so that
a recipe may say `llama3-8b`, and small ones of the same build for machines without an accelerator.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from herdbook.settings import Settings, UserError


class RopeScaling(Settings):
    """Llama 3.1's stretching of RoPE: slow frequencies divided by `factor`, fast ones kept, those between blended."""

    factor: float = Field(default=8.0, ge=1)
    """How many times longer the context becomes; slow frequencies are divided by it."""

    low_freq_factor: float = Field(default=1.0, gt=0)
    """Wavelengths above original_max_length / this are stretched in full."""

    high_freq_factor: float = Field(default=4.0, gt=0)
    """Wavelengths below original_max_length / this are left alone."""

    original_max_length: int = Field(default=8192, gt=0)
    """Context length before the stretching, in tokens."""


class ModelConfig(Settings):
    """The shape of a Llama decoder."""

    vocab_size: int = Field(gt=0)
    """Rows of the embedding, tokens."""

    dim: int = Field(gt=0)
    """Width of the residual stream."""

    layers: int = Field(gt=0)
    """Number of blocks."""

    heads: int = Field(gt=0)
    """Query heads."""

    kv_heads: int = Field(gt=0)
    """Key/value heads; each serves heads / kv_heads query heads (§3.2: 8)."""

    ffn_dim: int = Field(gt=0)
    """Inner width of the SwiGLU feed-forward."""

    head_dim: int | None = Field(default=None, gt=0)
    """Width of one head; dim / heads when not given."""

    rope_theta: float = Field(default=500_000.0, gt=0)
    """Base of the rotary frequencies (§3.2: 500,000)."""

    rope_scaling: RopeScaling | None = None
    """How RoPE is stretched beyond the length of first training; none when not given."""

    norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square in RMSNorm."""

    max_length: int = Field(default=8192, gt=0)
    """Longest context the model is meant for, tokens."""

    tied_embeddings: bool = False
    """Whether the output head shares the embedding's weight."""

    experts: int = Field(default=0, ge=0)
    """Feed-forwards of each block from which a router chooses (Mixtral: 8); 0 is a dense model."""

    experts_per_token: int = Field(default=2, gt=0)
    """How many of the experts work on each token (Mixtral: 2)."""

    router_loss: float = Field(default=0.01, ge=0)
    """Weight of the loss that spreads the tokens over the experts."""

    @model_validator(mode="after")
    def _shape_fits(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            raise UserError(
                f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}; "
                "every key/value head serves equally many query heads"
            )
        if 0 < self.experts < self.experts_per_token:
            raise UserError(f"experts={self.experts} is less than experts_per_token={self.experts_per_token}")
        if self.head_dim is None and self.dim % self.heads:
            raise UserError(f"dim={self.dim} is not a multiple of heads={self.heads}; change one or give head_dim")
        if self.head_width % 2:
            raise UserError(f"a head of {self.head_width} is odd; RoPE turns pairs, so dim / heads must be even")
        return self

    @property
    def head_width(self) -> int:
        """Width of one head: `head_dim`, or dim / heads."""
        return self.head_dim or self.dim // self.heads

    @property
    def head_words(self) -> int:
        """Numbers that the head gives of each token: one of each word, but of a reward model (`reward.py`)."""
        return self.vocab_size

    def matmul_parameters(self) -> int:
        """Weights every token is multiplied with: the blocks' matrices and the head, not the embedding's look-up.

        Of a mixture, the router and the experts that a token is sent to.
        """
        active = min(self.experts_per_token, self.experts) if self.experts else 1
        return self.layers * self._block_parameters(active) + self.dim * self.head_words

    def _block_parameters(self, feed_forwards: int) -> int:
        attention = 2 * self.dim * self.head_width * (self.heads + self.kv_heads)
        return attention + self.dim * self.experts + 3 * self.dim * self.ffn_dim * feed_forwards

    def parameters(self) -> int:
        """All weights, a shared embedding counted once."""
        norms = (2 * self.layers + 1) * self.dim
        tables = self.dim * (self.vocab_size + (0 if self.tied_embeddings else self.head_words))
        return self.layers * self._block_parameters(max(self.experts, 1)) + tables + norms

    def flops_per_token(self, mean_attended: float) -> float:
        """Floating point operations to train on one token, forward and backward, without recomputation.

        6 per weight (a multiply and an add, once forward and twice backward), and 12 * layers * heads * head
        width per attended position (scores and weighted sum). `mean_attended` is how many positions a token
        attends to on average: `Documents.mean_attended` for packed rows, (T + 1) / 2 for causal rows of T,
        T for the "full" count that others print.
        """
        return 6.0 * self.matmul_parameters() + 12.0 * self.layers * self.heads * self.head_width * mean_attended


def _llama3(dim: int, layers: int, heads: int, ffn_dim: int) -> ModelConfig:
    return ModelConfig(vocab_size=128_256, dim=dim, layers=layers, heads=heads, kv_heads=8, ffn_dim=ffn_dim)


def _stretched(config: ModelConfig, factor: float, tied: bool = False) -> ModelConfig:
    changes = {"max_length": 131_072, "rope_scaling": RopeScaling(factor=factor), "tied_embeddings": tied}
    return config.model_copy(update=changes)


def _llama2(dim: int, layers: int, heads: int, kv_heads: int, ffn_dim: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=32_000,
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        ffn_dim=ffn_dim,
        rope_theta=10_000.0,
        max_length=4096,
    )


def _small(dim: int, layers: int, heads: int, kv_heads: int, ffn_dim: int, vocab_size: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        ffn_dim=ffn_dim,
        max_length=2048,
        tied_embeddings=True,
    )


_LLAMA3_8B = _llama3(4096, 32, 32, 14_336)
_LLAMA3_70B = _llama3(8192, 80, 64, 28_672)
_LLAMA3_405B = _llama3(16_384, 126, 128, 53_248)

PRESETS: dict[str, ModelConfig] = {
    "llama3-8b": _LLAMA3_8B,
    "llama3-70b": _LLAMA3_70B,
    "llama3-405b": _LLAMA3_405B,
    "llama3.1-8b": _stretched(_LLAMA3_8B, 8),
    "llama3.1-70b": _stretched(_LLAMA3_70B, 8),
    "llama3.1-405b": _stretched(_LLAMA3_405B, 8),
    "llama3.2-1b": _stretched(_llama3(2048, 16, 32, 8192), 32, tied=True),
    "llama3.2-3b": _stretched(_llama3(3072, 28, 24, 8192), 32, tied=True),
    "llama2-7b": _llama2(4096, 32, 32, 32, 11_008),
    "llama2-13b": _llama2(5120, 40, 40, 40, 13_824),
    "llama2-70b": _llama2(8192, 80, 64, 8, 28_672),
    "tiny": _small(64, 2, 4, 2, 176, vocab_size=512),
    "1m": _small(128, 4, 4, 2, 352, vocab_size=2048),
    "10m": _small(320, 7, 5, 5, 864, vocab_size=4096),
    "50m": _small(576, 12, 9, 3, 1536, vocab_size=8192),
}


def preset(name: str) -> ModelConfig:
    """The named shape; raises UserError with the known names when there is none."""
    if name not in PRESETS:
        raise UserError(f"no model preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]
