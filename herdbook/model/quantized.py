"""Numbers in 8 and 4 bits (§6.2): how weights and activations are rounded, and what the rounded ones mean.

A matrix keeps whole numbers (or float8) and one scale per row, or per group of a row's inputs; a scale is chosen so
that the largest number it serves is the largest there is. The formulas are those of compressed-tensors, so that what
is stored means the same to transformers and vLLM.
Letters: N outputs, K inputs, G groups per row, M tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from herdbook.settings import UserError

FLOAT8 = torch.float8_e4m3fn
FLOAT8_LARGEST = 448.0
SMALLEST_SEARCHED = 0.7  # of the scale that makes room for the largest weight
AT_ONCE = 1 << 22  # weights rounded together: what is held besides the matrix stays small


@dataclass(frozen=True)
class Scheme:
    """What a matrix is rounded to."""

    bits: int
    """Bits of a weight: 8 or 4."""

    floating: bool = False
    """Whether a weight is a float8 (e4m3) instead of a whole number."""

    group: int | None = None
    """Inputs of a row that share a scale; None: all of them."""

    inputs: bool = False
    """Whether activations are rounded too, each token by its own scale; else they stay as they are."""

    bound: float | None = None
    """Activations beyond it are cut to it when their scale is chosen (§6.2: 1200)."""

    @property
    def half(self) -> float:
        """The largest number over its scale: half of the range, so that -8 … 7 serves -7.5 … 7.5."""
        return FLOAT8_LARGEST if self.floating else (2**self.bits - 1) / 2

    @property
    def packed(self) -> bool:
        """Whether several weights share a stored number; in compressed-tensors all weight-only schemes do."""
        return not self.inputs

    def groups(self, inputs: int, name: str = "a matrix") -> int:
        """Scales per row of a matrix with `inputs` inputs; UserError when groups don't come out even."""
        if self.group is None:
            return 1
        if inputs % self.group:
            fitting = [size for size in (32, 64, 128, 256) if inputs % size == 0]
            advice = f"take group={fitting[-1]}" if fitting else "no group of 32 or more fits; take scheme int8"
            raise UserError(f"{name} has {inputs} inputs, which groups of {self.group} don't divide; {advice}")
        return inputs // self.group


SCHEMES = {
    "fp8": Scheme(8, floating=True, inputs=True, bound=1200.0),
    "int8": Scheme(8),
    "int8_dynamic": Scheme(8, inputs=True),
    "int4": Scheme(4, group=128),
}
"""The schemes by name: the paper's, and what is usual for whole numbers."""


def choose_scale(
    largest: Tensor,  # magnitude of the largest number that each scale serves
    scheme: Scheme,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # `dtype`, same shape
    """The scale that makes room for it; where all numbers are 0, a small one, since it divides."""
    scale = (largest / scheme.half).to(dtype)
    return torch.where(scale == 0, torch.finfo(dtype).eps, scale)


def round_numbers(
    numbers: Tensor,  # float32, divided by their scale
    scheme: Scheme,
) -> Tensor:  # int8 or float8, same shape
    """The nearest of the scheme's numbers, ties to even; beyond the ends, the end."""
    if scheme.floating:
        return numbers.clamp(-FLOAT8_LARGEST, FLOAT8_LARGEST).to(FLOAT8)
    end = 2 ** (scheme.bits - 1)
    return numbers.round().clamp(-end, end - 1).to(torch.int8)


@torch.no_grad()
def quantize(
    weight: Tensor,  # (N, K)
    scheme: Scheme,
    scale_dtype: torch.dtype = torch.float32,
    search: int = 1,  # scales tried per group; 1 takes the one that makes room for the largest weight
    name: str = "a matrix",
) -> tuple[Tensor, Tensor]:  # (N, K) int8 or float8, (N, G) scales
    """Round a matrix. Of several scales, the one with the least squared error wins: a smaller one cuts the largest
    weights and rounds the others finer. Raises UserError for groups that don't divide K, or numbers that are none."""
    groups = scheme.groups(weight.shape[1], name)
    if not weight.isfinite().all():
        raise UserError(f"{name} holds infinite numbers or numbers that are none, which nothing can be rounded to")
    blocks = [
        _round_groups(rows.float().unflatten(1, (groups, -1)), scheme, scale_dtype, search)
        for rows in weight.split(max(1, AT_ONCE // weight.shape[1]))
    ]
    values, scales = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return values.flatten(1), scales.squeeze(-1)


def _round_groups(
    parts: Tensor,  # (N, G, K / G) float32
    scheme: Scheme,
    scale_dtype: torch.dtype,
    search: int,
) -> tuple[Tensor, Tensor]:  # (N, G, K / G), (N, G, 1)
    largest = parts.abs().amax(-1, keepdim=True)
    best = choose_scale(largest, scheme, scale_dtype)
    if search > 1:
        least = _squared_error(parts, best, scheme)
        for share in torch.linspace(1.0, SMALLEST_SEARCHED, search)[1:].tolist():
            scale = choose_scale(largest * share, scheme, scale_dtype)
            error = _squared_error(parts, scale, scheme)
            better = error < least
            best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return round_numbers(parts / best.float(), scheme), best


def _squared_error(parts: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    wide = scale.float()
    return (round_numbers(parts / wide, scheme).float() * wide - parts).square().sum(-1, keepdim=True)


def dequantize(
    values: Tensor,  # (N, K) int8 or float8
    scale: Tensor,  # (N, G)
    dtype: torch.dtype | None = None,  # None: the scale's
) -> Tensor:  # (N, K)
    """What a rounded matrix means."""
    dtype = dtype or scale.dtype
    return (values.to(dtype).unflatten(1, (scale.shape[1], -1)) * scale.to(dtype).unsqueeze(-1)).flatten(1)


def round_inputs(
    x: Tensor,  # (M, K)
    scheme: Scheme,
) -> tuple[Tensor, Tensor]:  # (M, K) int8 or float8, (M, 1) float32 scales
    """Activations rounded, each token by its own scale, so that no token depends on its neighbours in a batch."""
    x = x.float()
    largest = x.abs().amax(-1, keepdim=True)
    if scheme.bound is not None:
        largest = largest.clamp(max=scheme.bound)
    scale = choose_scale(largest, scheme)
    return round_numbers(x / scale, scheme), scale


def pack(
    values: Tensor,  # (N, K) int8, each within `bits`
    bits: int,
) -> Tensor:  # (N, ceil(K * bits / 32)) int32
    """Several weights in one stored number, the first in its lowest bits; each is stored as its distance from the
    least one. What does not fill the last number is 0."""
    per = 32 // bits
    shifted = (values.to(torch.int64) + 2 ** (bits - 1)).clamp(0)
    shifted = torch.nn.functional.pad(shifted, (0, -values.shape[1] % per)).unflatten(1, (-1, per))
    places = torch.arange(per, device=values.device) * bits
    words = (shifted << places).sum(-1)  # (N, ceil(K / per)), below 2**32
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(
    packed: Tensor,  # (N, ceil(K * bits / 32)) int32
    bits: int,
    inputs: int,  # K
) -> Tensor:  # (N, K) int8
    """What `pack` made it of."""
    octets = packed.contiguous().view(torch.uint8)  # little-endian, as all machines we run on
    if bits == 4:
        octets = torch.stack((octets & 15, octets >> 4), -1).flatten(1)
    return (octets[:, :inputs].to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
