"""LoRA and QLoRA: each chosen matrix stays as it is, and learns a product of two thin ones beside it.

y = W x + scale * B (A x), with A drawn and B zero, so the first step begins with the model itself (Hu et al. 2021,
arXiv:2106.09685). In QLoRA (Dettmers et al. 2023, arXiv:2305.14314) W lies in 8 or 4 bits and is turned back when it
is multiplied, in the backward pass once more, so that no dense copy is kept between the two.
Letters: N outputs, K inputs, R rank.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.model.lora_settings import LoraSettings
from herdbook.model.quantized import SCHEMES, Scheme, dequantize, quantize
from herdbook.model.rounded import RoundedLinear, rounded_linear
from herdbook.settings import UserError

GROUPS = (128, 64, 32)
SEARCH = 8  # scales tried for each group


class LoraLinear(nn.Module):
    """A frozen matrix and its adapter."""

    def __init__(self, base: nn.Linear | RoundedLinear, settings: LoraSettings, seed: int, name: str) -> None:
        super().__init__()
        self.base = base
        self.out_features, self.in_features = base.out_features, base.in_features
        self.scale, self.dropout = settings.scale, settings.dropout
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        end = self.in_features**-0.5
        drawn = torch.empty(settings.rank, self.in_features).uniform_(-end, end, generator=generator)
        device = next(iter([*base.parameters(), *base.buffers()])).device
        self.lora_a = nn.Parameter(drawn.to(device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, settings.rank, device=device))

    def forward(
        self,
        x: Tensor,  # (..., K)
    ) -> Tensor:  # (..., N)
        rounded = isinstance(self.base, RoundedLinear)
        base = _RoundedProduct.apply(x, self.base) if rounded else self.base(x)
        given = F.dropout(x, self.dropout, self.training) if self.dropout else x
        return base + F.linear(F.linear(given, self.lora_a), self.lora_b) * self.scale

    def extra_repr(self) -> str:
        return f"rank={len(self.lora_a)}, scale={self.scale}"


class _RoundedProduct(torch.autograd.Function):
    """x times a rounded matrix, which is turned back in each pass and not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: RoundedLinear) -> Tensor:
        kind = x.device.type
        ctx.layer, ctx.input_dtype = layer, x.dtype
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            return F.linear(x.to(ctx.dtype), layer.dense(ctx.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(grads[0].device.type, enabled=False):
            return (grads[0].to(ctx.dtype) @ ctx.layer.dense(ctx.dtype)).to(ctx.input_dtype), None


def targeted(model: nn.Module, targets: Collection[str]) -> dict[str, nn.Linear]:
    """The matrices of a model's blocks that have one of these names, by their full names."""
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith("blocks.") and name.rpartition(".")[2] in targets and isinstance(module, nn.Linear)
    }


def add_lora(model: nn.Module, settings: LoraSettings, seed: int = 0, whole: Collection[str] = ()) -> None:
    """Freeze the model, in place, and give the chosen matrices adapters; weights named in `whole` stay trained.

    With `settings.quantised` the frozen matrices are rounded too.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in whole)
    for name, matrix in targeted(model, settings.targets).items():
        base = matrix if settings.quantised is None else _rounded(matrix, settings.quantised, name)
        model.set_submodule(name, LoraLinear(base, settings, seed, name))


def _scheme(name: str, inputs: int) -> Scheme:
    """The scheme with the largest of the usual groups that divide a row; rows that none divides have one scale."""
    scheme = SCHEMES[name]
    if scheme.group is None:
        return scheme
    return replace(scheme, group=next((size for size in GROUPS if inputs % size == 0), None))


def _rounded(matrix: nn.Linear, scheme: str, name: str) -> RoundedLinear:
    chosen = _scheme(scheme, matrix.in_features)
    values, scale = quantize(matrix.weight.detach(), chosen, search=SEARCH, name=name)
    return rounded_linear(values, scale, chosen, torch.float32)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, by name: adapters' as `MODULE.lora_a` (R, K) and `MODULE.lora_b` (N, R)."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def merge(model: nn.Module, weights: Mapping[str, Tensor], settings: LoraSettings) -> None:
    """Add adapters to the matrices of the plain model they were trained beside, in place; other weights are replaced.

    With `settings.quantised` the matrices are first rounded and turned back, since that is what was trained beside.
    UserError when the weights do not fit the model.
    """
    known: dict[str, Tensor] = dict(model.named_parameters())
    modules = sorted({name.rpartition(".")[0] for name in weights if name.endswith((".lora_a", ".lora_b"))})
    if settings.quantised is not None:
        for name, matrix in targeted(model, settings.targets).items():
            scheme = _scheme(settings.quantised, matrix.in_features)
            matrix.weight.copy_(dequantize(*quantize(matrix.weight, scheme, search=SEARCH, name=name)))
    for module in modules:
        a, b, weight = weights.get(f"{module}.lora_a"), weights.get(f"{module}.lora_b"), known.get(f"{module}.weight")
        if a is None or b is None or weight is None or (len(b), a.shape[1]) != tuple(weight.shape):
            told = "no matrix" if weight is None else f"a matrix of {tuple(weight.shape)}"
            parts = [None if part is None else tuple(part.shape) for part in (b, a)]
            raise UserError(f"the adapter of {module} is {parts[0]} times {parts[1]}, but the model has {told} there")
        weight += (settings.scale * (b.double() @ a.double())).to(weight)
    for name, value in weights.items():
        if not name.endswith((".lora_a", ".lora_b")):
            known[name].copy_(value)
