"""Linear layers whose matrices stay in 8 or 4 bits in memory (§6.2), each with the fastest product its device has.

A step of one row reads every weight once, so fewer bits are fewer bytes and more tokens a second. Many rows at once
are bound by arithmetic instead; there a matrix is turned back into `dtype` and multiplied as usual.
Letters: N outputs, K inputs, G groups per row, M tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model.quantized import Scheme, dequantize, pack, round_inputs, unpack

FEW = 16
"""Up to so many tokens, torch's product of bfloat16 with 8-bit weights is faster on a CPU than turning them back."""
CPU_GROUPS = (32, 64, 128, 256)  # those the 4-bit product knows
HOPPER = (8, 9)  # compute capability of the first GPUs that multiply float8
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
        # In float32 torch's product is several times slower than turning the weights back.
        self.reads_bytes = scale.shape[1] == 1 and values.device.type == "cpu" and dtype == torch.bfloat16

    def product(self, x: Tensor) -> Tensor:
        if self.reads_bytes and len(x) <= FEW and x.dtype == self.scale.dtype:
            return torch._weight_int8pack_mm(x.contiguous(), self.values, self.scale[:, 0])
        return super().product(x)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return dequantize(self.values, self.scale, dtype)


class Int4Linear(RoundedLinear):
    """4-bit weights, two a byte, activations as they are."""

    octets: Tensor  # (N, K / 2) uint8
    scale: Tensor  # (N, G)

    def __init__(self, values: Tensor, scale: Tensor, scheme: Scheme, dtype: torch.dtype) -> None:
        super().__init__(values.shape, scheme)
        self.register_buffer("octets", pack(values, 4).view(torch.uint8))
        self.register_buffer("scale", scale.to(dtype))

    def dense(self, dtype: torch.dtype) -> Tensor:
        values = unpack(self.octets.view(torch.int32), 4, self.in_features)
        return dequantize(values, self.scale, dtype)


class CpuInt4Linear(RoundedLinear):
    """4-bit weights in the order in which a CPU's product reads them."""

    tiles: Tensor  # (N, K / 2) uint8
    scale_and_zero: Tensor  # (G, N, 2); the zero is always 0

    def __init__(self, values: Tensor, scale: Tensor, scheme: Scheme, dtype: torch.dtype) -> None:
        super().__init__(values.shape, scheme)
        shifted = values.to(torch.int32) + 8
        self.register_buffer("tiles", torch.ops.aten._convert_weight_to_int4pack_for_cpu(shifted, 1))
        pairs = torch.stack((scale, torch.zeros_like(scale)), -1).transpose(0, 1)
        self.register_buffer("scale_and_zero", pairs.to(dtype).contiguous())
        self.group = values.shape[1] // scale.shape[1]

    @staticmethod
    def fits(values: Tensor, scale: Tensor, dtype: torch.dtype) -> bool:
        """Whether the product takes a matrix of this shape, and is a fast one: in float32 it is not."""
        outputs, inputs = values.shape
        known = outputs % 64 == 0 and inputs // scale.shape[1] in CPU_GROUPS
        return known and values.device.type == "cpu" and dtype == torch.bfloat16

    def product(self, x: Tensor) -> Tensor:
        known = x.to(self.scale_and_zero.dtype).contiguous()
        return torch.ops.aten._weight_int4pack_mm_for_cpu(known, self.tiles, self.group, self.scale_and_zero)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.product(torch.eye(self.in_features, dtype=self.scale_and_zero.dtype)).t().to(dtype)


class Int8DynamicLinear(RoundedLinear):
    """8-bit weights and activations: products of whole numbers, exact until the scales come in."""

    values: Tensor  # (N, K) int8
    scale: Tensor  # (N, 1) float32

    def __init__(self, values: Tensor, scale: Tensor, scheme: Scheme) -> None:
        super().__init__(values.shape, scheme)
        self.register_buffer("values", values)
        self.register_buffer("scale", scale.float())

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
    kind = CpuInt4Linear if CpuInt4Linear.fits(values, scale, dtype) else Int4Linear
    return kind(values, scale, scheme, dtype)
