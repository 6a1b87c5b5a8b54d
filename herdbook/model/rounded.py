"""Linear layers whose matrices stay in 8 or 4 bits in memory (§6.2), each with the fastest product its device has.

A step of one row reads every weight once, so fewer bits are fewer bytes and more tokens a second. Many rows at once
are bound by arithmetic instead; there a matrix is turned back into `dtype` and multiplied as usual.
Letters: N outputs, K inputs, G groups per row, M tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model.quantized import Scheme, dequantize, round_inputs

FEW = 16
"""Up to so many tokens, torch's product of bfloat16 with 8-bit weights is faster on a CPU than turning them back."""
HOPPER = (8, 9)  # compute capability of the first GPUs that multiply float8
LONGEST_WHOLE = 65_536
"""Inputs whose products, of 8 bits with and without a sign, surely fit into sums of 32 bits."""
SMALLEST_INT_ROWS = 17  # a GPU's product of whole numbers takes no fewer


class RoundedLinear(nn.Module):
    """x times a rounded matrix, transposed, without bias."""

    def __init__(self, shape: torch.Size, scheme: Scheme) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.scheme = scheme

    def forward(
        self,
        x: Tensor,  # (..., K)
    ) -> Tensor:  # (..., N), of x's dtype
        return self.product(x.reshape(-1, self.in_features)).to(x.dtype).unflatten(0, x.shape[:-1])

    def product(
        self,
        x: Tensor,  # (M, K)
    ) -> Tensor:  # (M, N)
        """What the layer computes, for a flat list of tokens."""
        return F.linear(x, self.dense(x.dtype))

    def dense(self, dtype: torch.dtype) -> Tensor:  # (N, K)
        """The matrix it stands for."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.scheme}"


class Int8Linear(RoundedLinear):
    """8-bit weights, activations as they are."""

    values: Tensor  # (N, K) int8
    scale: Tensor  # (N, G)

    def __init__(self, values: Tensor, scale: Tensor, scheme: Scheme, dtype: torch.dtype) -> None:
        super().__init__(values.shape, scheme)
        self.register_buffer("values", values)
        self.register_buffer("scale", scale.to(dtype))
        self.plain = scale.shape[1] == 1 and values.device.type == "cpu"
        """Whether compiled code can read it."""
        # In float32 torch's product is several times slower than turning the weights back.
        self.reads_bytes = self.plain and dtype == torch.bfloat16

    def product(self, x: Tensor) -> Tensor:
        if self.reads_bytes and len(x) <= FEW and x.dtype == self.scale.dtype:
            return torch._weight_int8pack_mm(x.contiguous(), self.values, self.scale[:, 0])
        return super().product(x)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return dequantize(self.values, self.scale, dtype)


class Int4Linear(RoundedLinear):
    """4-bit weights, activations as they are; eager products turn the weights back each time."""

    octets: Tensor  # (N, ceil(K / 128) * 64) uint8: of 128 weights, i, 32 + i, 64 + i and 96 + i share two bytes
    scale: Tensor  # (N, G)

    def __init__(self, values: Tensor, scale: Tensor, scheme: Scheme, dtype: torch.dtype) -> None:
        super().__init__(values.shape, scheme)
        # Compiled code then has 32 weights by one shift of 64 bytes.
        parts = (F.pad(values, (0, -values.shape[1] % 128)) + 8).to(torch.uint8).unflatten(1, (-1, 4, 32))
        pairs = torch.stack((parts[:, :, 0] | parts[:, :, 1] << 4, parts[:, :, 2] | parts[:, :, 3] << 4), -1)
        self.register_buffer("octets", pairs.flatten(1))
        self.register_buffer("scale", scale.to(dtype))
        whole = self.in_features % 32 == 0 and self.in_features // scale.shape[1] % 32 == 0
        self.plain = whole and values.device.type == "cpu"
        """Whether compiled code can read it."""

    def dense(self, dtype: torch.dtype) -> Tensor:
        first, second = self.octets.unflatten(1, (-1, 32, 2)).unbind(-1)
        parts = torch.stack((first & 15, first >> 4, second & 15, second >> 4), 2)
        values = parts.flatten(1)[:, : self.in_features].to(torch.int8) - 8
        return dequantize(values, self.scale, dtype)


class Int8DynamicLinear(RoundedLinear):
    """8-bit weights and activations: products of whole numbers, exact until the scales come in."""

    values: Tensor  # (N, K) int8
    scale: Tensor  # (N, 1) float32

    def __init__(self, values: Tensor, scale: Tensor, scheme: Scheme) -> None:
        super().__init__(values.shape, scheme)
        self.register_buffer("values", values)
        self.register_buffer("scale", scale.float())
        self.plain = scheme.bound is None and values.shape[1] <= LONGEST_WHOLE and values.device.type == "cpu"
        """Whether compiled code can read it."""

    def product(self, x: Tensor) -> Tensor:
        rounded, scale = round_inputs(x, self.scheme)
        missing = SMALLEST_INT_ROWS - len(x) if x.device.type == "cuda" else 0
        sums = torch._int_mm(F.pad(rounded, (0, 0, 0, max(0, missing))), self.values.t())
        return sums[: len(x)].float() * scale * self.scale[:, 0]

    def dense(self, dtype: torch.dtype) -> Tensor:
        return dequantize(self.values, self.scale, dtype)


class Float8Linear(RoundedLinear):
    """Weights and activations in float8, sums in float32 (§6.2); where no such products are, exactly emulated."""

    values: Tensor  # (N, K) float8
    scale: Tensor  # (N, 1) float32

    def __init__(self, values: Tensor, scale: Tensor, scheme: Scheme) -> None:
        super().__init__(values.shape, scheme)
        self.register_buffer("values", values)
        self.register_buffer("scale", scale.float())
        device = values.device
        self.native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= HOPPER

    def product(self, x: Tensor) -> Tensor:
        rounded, scale = round_inputs(x, self.scheme)
        if self.native and x.dtype == torch.bfloat16:
            return torch._scaled_mm(
                rounded, self.values.t(), scale, self.scale.t().contiguous(), out_dtype=x.dtype, use_fast_accum=False
            )
        return F.linear(rounded.float(), self.values.float()) * scale * self.scale[:, 0]

    def dense(self, dtype: torch.dtype) -> Tensor:
        return dequantize(self.values, self.scale, dtype)


def rounded_linear(
    values: Tensor,  # (N, K) int8 or float8
    scale: Tensor,  # (N, G)
    scheme: Scheme,
    dtype: torch.dtype,  # of the activations to come
) -> RoundedLinear:
    """The layer of a rounded matrix, laid out for its device."""
    if scheme.floating:
        return Float8Linear(values, scale, scheme)
    if scheme.inputs:
        return Int8DynamicLinear(values, scale, scheme)
    if scheme.bits == 8:
        return Int8Linear(values, scale, scheme, dtype)
    return Int4Linear(values, scale, scheme, dtype)
