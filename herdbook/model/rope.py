"""Rotary position embedding, with Llama 3.1's stretching for long contexts (§3.2).

A head of width D is D/2 pairs (i, i + D/2), as Hugging Face stores them; pair i at position p is turned
by p * frequency_i. Angles and the turning itself are float32 whatever the model's dtype: at 128K
tokens bfloat16 angles would be off by whole turns. Letters: B rows, T tokens, H heads, D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from herdbook.model.config import ModelConfig, RopeScaling

Rotation = tuple[Tensor, Tensor]  # cosine and sine, (B, T, 1, D/2) float32


def frequencies(
    theta: float,
    width: int,
    scaling: RopeScaling | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The (width / 2,) float32 angles, in radians, by which the pairs turn per position."""
    powers = torch.arange(0, width, 2, dtype=torch.int64, device=device).float() / width
    plain = 1.0 / theta**powers
    if scaling is None:
        return plain
    wavelength = 2 * math.pi / plain
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if low == high:
        return torch.where(wavelength > scaling.original_max_length / low, plain / scaling.factor, plain)
    # How much of the plain frequency stays: 0 for waves longer than the old context, 1 for short ones.
    keep = ((scaling.original_max_length / wavelength - low) / (high - low)).clamp(0, 1)
    return keep * plain + (1 - keep) * plain / scaling.factor


class Rope:
    """Angles for positions. No buffers, so casting a model to bfloat16 cannot harm them."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.known: dict[torch.device, Tensor] = {}

    def rotation(
        self,
        positions: Tensor,  # (B, T) int64
    ) -> Rotation:
        """Cosine and sine of every pair's angle at `positions`."""
        device = positions.device
        if device not in self.known:
            with torch.inference_mode(False):
                config = self.config
                self.known[device] = frequencies(config.rope_theta, config.head_width, config.rope_scaling, device)
        angles = positions[..., None, None].float() * self.known[device]
        return angles.cos(), angles.sin()


class _Rotate(torch.autograd.Function):
    """Turns pairs forward, gradients backward: turning back needs no saved activations."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty_like(x)
    out[..., :half] = first * cos - second * sin
    out[..., half:] = second * cos + first * sin
    return out


def rotate(
    x: Tensor,  # (B, T, H, D) queries or keys
    rotation: Rotation,
) -> Tensor:  # (B, T, H, D), dtype of x
    """Turn every pair of `x` by its position's angle."""
    if not torch.is_grad_enabled():
        return _turn(x, *rotation)
    return _Rotate.apply(x, *rotation)
