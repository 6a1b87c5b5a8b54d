"""LoRA and QLoRA: each chosen matrix stays as it is, and learns a product of two thin ones beside it.

y = W x + scale * B (A x), with A drawn and B zero, so the first step begins with the model itself (Hu et al. 2021,
arXiv:2106.09685). In QLoRA (Dettmers et al. 2023, arXiv:2305.14314) W lies in 8 or 4 bits and is turned back when it
is multiplied, in the backward pass once more, so that no dense copy is kept between the two. Of embedding and head
single rows can be trained, whole: those of tokens that the model has never read, such as a chat format's.
Letters: N outputs, K inputs, R rank, V vocabulary.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Collection, Mapping, Sequence
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


class TokenRows(nn.Module):
    """A frozen embedding or head, some rows of which are trained."""

    ids: Tensor

    def __init__(self, base: nn.Embedding | nn.Linear, ids: Sequence[int]) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("ids", torch.tensor(ids, device=base.weight.device), persistent=False)
        self.rows = nn.Parameter(base.weight.detach()[self.ids].clone())

    @property
    def weight(self) -> Tensor:  # (V, dim)
        """The whole matrix with the trained rows in it."""
        return self.base.weight.index_copy(0, self.ids, self.rows)

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.weight) if isinstance(self.base, nn.Embedding) else F.linear(x, self.weight)


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


def add_lora(
    model: nn.Module,
    settings: LoraSettings,
    seed: int = 0,
    whole: Collection[str] = (),  # weights that stay trained
    tokens: Sequence[int] = (),  # ids whose rows of embedding and head are trained
) -> None:
    """Freeze the model, in place, and give the chosen matrices adapters.

    With `settings.quantised` the frozen matrices are rounded too.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in whole)
    for name, matrix in targeted(model, settings.targets).items():
        base = matrix if settings.quantised is None else _rounded(matrix, settings.quantised, name)
        model.set_submodule(name, LoraLinear(base, settings, seed, name))
    if tokens:
        _train_rows(model, tokens)


def _train_rows(model: Any, tokens: Sequence[int]) -> None:
    """Train these rows of the embedding, and of the head; a head that is the embedding has the same rows."""
    model.embedding = TokenRows(model.embedding, tokens)
    if model.head.weight is model.embedding.base.weight:
        model.head = TokenRows(model.head, tokens)
        model.head.rows = model.embedding.rows
    elif len(model.head.weight) == len(model.embedding.base.weight):  # a reward model's head has no words
        model.head = TokenRows(model.head, tokens)


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


@torch.no_grad()
def plain(model: Any) -> Any:
    """The model that a model with adapters makes, of plain matrices; another one is given back as it is.

    What has no adapter is shared between the two. Matrices that are rounded come dense.
    """
    adapted = {n: part for n, part in model.named_modules() if isinstance(part, LoraLinear | TokenRows)}
    if not adapted:
        return model
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for name, part in adapted.items():
        twin.set_submodule(name, _plain_part(part))
    if getattr(model.config, "tied_embeddings", False):
        twin.head.weight = twin.embedding.weight
    return twin


def _plain_part(part: LoraLinear | TokenRows) -> nn.Embedding | nn.Linear:
    base = part.base
    if isinstance(part, TokenRows):
        weight = part.weight
    else:
        weight = base.dense(torch.float32) if isinstance(base, RoundedLinear) else base.weight
        weight = weight + (part.scale * (part.lora_b.double() @ part.lora_a.double())).to(weight)
    outputs, inputs = weight.shape
    made: nn.Embedding | nn.Linear
    if isinstance(base, nn.Embedding):
        made = nn.Embedding(outputs, inputs, device="meta")
    else:
        made = nn.Linear(inputs, outputs, bias=False, device="meta")
    made.weight = nn.Parameter(weight)
    return made


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, by name.

    Adapters' are `MODULE.lora_a` (R, K) and `MODULE.lora_b` (N, R), tokens' `embedding.rows` and `head.rows` (T, dim).
    """
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def merge(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    settings: LoraSettings,
    tokens: Sequence[int] = (),  # whose rows are among the weights
) -> None:
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
        if name.endswith(".rows"):
            _set_rows(known[name.removesuffix(".rows") + ".weight"], value, tokens, name)
        elif not name.endswith((".lora_a", ".lora_b")):
            known[name].copy_(value)


def _set_rows(weight: Tensor, rows: Tensor, tokens: Sequence[int], name: str) -> None:
    if len(tokens) != len(rows) or rows.shape[1] != weight.shape[1] or max(tokens) >= len(weight):
        raise UserError(
            f"{name} has {tuple(rows.shape)} for {len(tokens)} tokens up to {max(tokens, default=-1)}, but the model's "
            f"matrix there is {tuple(weight.shape)}"
        )
    weight[torch.tensor(tokens)] = rows.to(weight)
