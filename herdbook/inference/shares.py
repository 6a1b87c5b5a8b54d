"""A rank's share of a model: some blocks, and of each matrix in them its part, as training cuts them (§3.3).

Query, key, value, gate and up give this rank's outputs; output and down take this rank's inputs, and what they give
is summed over the ranks of the stage. Embedding and head have this rank's words. Where T does not divide the words,
the last ones are filled up with zeros. Of a Hugging Face folder each rank keeps its parts alone.
Letters: N tokens, T ranks of a stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from herdbook.inference.layout import Layout, check_layout
from herdbook.model.cache import KVPool, PoolStep
from herdbook.model.compressed import StoredLinear, stored_values
from herdbook.model.config import ModelConfig
from herdbook.model.documents import Documents
from herdbook.model.huggingface import checked_weights, find_schemes, read_config
from herdbook.model.quantized import Scheme
from herdbook.model.rope import Rope
from herdbook.model.rounded import rounded_linear
from herdbook.model.transformer import Block, Norm, Transformer
from herdbook.settings import UserError
from herdbook.train.spread import words_each
from herdbook.train.topology import layers_of_stages

OUTPUTS, INPUTS, WORDS = "outputs", "inputs", "words"
CUTS = {
    **dict.fromkeys(("query", "key", "value", "gate", "up"), OUTPUTS),
    **dict.fromkeys(("output", "down"), INPUTS),
    **dict.fromkeys(("embedding", "head"), WORDS),
}
"""What of a matrix is shared out, by its module's name; all else every rank of a stage has whole."""


@dataclass(frozen=True)
class Place:
    """Which of the ranks this is."""

    layout: Layout
    rank: int

    @property
    def tensor_rank(self) -> int:
        """Which part of each matrix."""
        return self.rank % self.layout.tensor_parallel

    @property
    def stage(self) -> int:
        """Which stage of the pipeline."""
        return self.rank // self.layout.tensor_parallel

    @property
    def first(self) -> bool:
        """Whether it has the embedding."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether it has the head."""
        return self.stage == self.layout.pipeline_parallel - 1


class Share(nn.Module):
    """What lies on one rank, without storage until `load_share` fills it."""

    def __init__(self, config: ModelConfig, place: Place, group: dist.ProcessGroup | None) -> None:
        """`group`: the ranks of this stage; None when it has one."""
        super().__init__()
        self.whole, self.place, self.group = config, place, group
        ranks = place.layout.tensor_parallel
        self.words = words_each(config.vocab_size, ranks)
        layers = layers_of_stages(config.layers, place.layout.pipeline_parallel)[place.stage]
        self.config = cut_config(config, place.layout, len(layers))
        self.rope = Rope(config)
        self.embedding = nn.Embedding(self.words, config.dim) if place.first else None
        # Named by their number in the model, but their keys lie in the pool by their number here.
        self.blocks = nn.ModuleDict({str(layer): Block(self.config, at) for at, layer in enumerate(layers)})
        self.norm = Norm(config.dim, config.norm_eps) if place.last else None
        self.head: nn.Module | None = nn.Linear(config.dim, self.words, bias=False) if place.last else None
        parts = [module for name, module in self.named_modules() if name.endswith((".attention", ".feed_forward"))]
        for part in parts:
            part.register_forward_hook(lambda module, args, output: self.summed(output))

    def summed(self, parts: Tensor) -> Tensor:
        """The sum of what the ranks of this stage have, in place."""
        if self.group is not None:
            dist.all_reduce(parts, group=self.group)
        return parts

    def embed(
        self,
        tokens: Tensor,  # (1, N) int64
    ) -> Tensor:  # (1, N, dim)
        """The first stage's: each token's row, from the rank that has it."""
        assert self.embedding is not None
        place = tokens - self.place.tensor_rank * self.words
        here = (place >= 0) & (place < self.words)
        rows = self.embedding(torch.where(here, place, 0))
        return self.summed(rows * here.unsqueeze(-1))

    def forward(
        self,
        x: Tensor,  # (1, N, dim)
        documents: Documents | None,  # tokens packed as documents,
        past: PoolStep | None,  # or such as follow what the cache holds
    ) -> Tensor:  # (1, N, dim), the last stage's after the final norm
        """Through the blocks of this rank."""
        known = past or documents
        assert known is not None
        rotation = self.rope.rotation(known.positions)
        for block in self.blocks.values():
            x = block(x, rotation, documents, past)
        return x if self.norm is None else self.norm(x)

    def pool(self, blocks: int) -> KVPool:
        """A cache of this rank's key heads in its blocks."""
        weight = next(self.parameters())
        return KVPool(self.config, blocks, dtype=weight.dtype, device=weight.device)

    def targets(self, name: str) -> list[str]:
        """The weights here that a weight of the model goes to; a shared embedding may go to two."""
        found = [name] if name == "embedding.weight" and self.embedding is not None else []
        if name == "embedding.weight" and self.whole.tied_embeddings and self.head is not None:
            found.append("head.weight")
        outer = {"norm": self.norm, "head": self.head}
        module = name.split(".", 1)[0]
        if outer.get(module) is not None or (module == "blocks" and name.split(".")[1] in self.blocks):
            found.append(name)
        return found

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a module's matrix, or of its scales, which may be one per row."""
        rank, ranks = self.place.tensor_rank, self.place.layout.tensor_parallel
        kind = CUTS.get(name.rsplit(".", 1)[-1])
        if kind is None or ranks == 1:
            return whole
        if kind == WORDS:
            part = whole[rank * self.words : (rank + 1) * self.words]
            return F.pad(part, (0, 0, 0, self.words - len(part))) if len(part) < self.words else part
        dim = 0 if kind == OUTPUTS else 1
        if whole.shape[dim] == 1 and dim == 1:
            return whole  # a scale for the whole row
        return whole.tensor_split(ranks, dim)[rank]


def cut_config(config: ModelConfig, layout: Layout, layers: int) -> ModelConfig:
    """The shape of so many blocks of which each rank has its part."""
    ranks = layout.tensor_parallel
    changes = {"heads": config.heads // ranks, "kv_heads": config.kv_heads // ranks, "ffn_dim": config.ffn_dim // ranks}
    changes |= {"head_dim": config.head_width, "vocab_size": words_each(config.vocab_size, ranks), "layers": layers}
    return config.model_copy(update=changes)


def block_bytes(config: ModelConfig, layout: Layout, dtype: torch.dtype) -> int:
    """Memory of one block of the cache on the rank that has most layers."""
    layers = max(map(len, layers_of_stages(config.layers, layout.pipeline_parallel)))
    return KVPool.block_bytes(cut_config(config, layout, layers), dtype)


def load_share(
    folder: Path,
    place: Place,
    group: dist.ProcessGroup | None,
    dtype: torch.dtype | None,  # None: as stored
    device: torch.device | str,
) -> Share:
    """A rank's share of a Hugging Face folder. What is quantised there stays so; one tensor is read at a time.

    UserError as `huggingface.load_model`, and for a layout the model cannot lie in.
    """
    config = read_config(folder)
    check_layout(place.layout, config)
    with torch.device("meta"):
        names, share = Transformer(config), Share(config, place, group)
        schemes = find_schemes(folder, names)
        for name, scheme in schemes.items():
            matrix: Any = names.get_submodule(name)
            names.set_submodule(name, StoredLinear(matrix.out_features, matrix.in_features, scheme))
    stored: dict[str, dict[str, Tensor]] = {}
    rounded: dict[str, tuple[Tensor, Tensor]] = {}
    for name, weight in checked_weights(folder, names):
        module, _, leaf = name.rpartition(".")
        if module in schemes:
            if share.targets(f"{module}.weight"):
                stored.setdefault(module, {})[leaf] = weight
                if len(stored[module]) == (3 if schemes[module].packed else 2):
                    rounded[module] = _rounded(share, module, stored.pop(module), schemes[module], names, device)
            continue
        for target in share.targets(name):
            part = share.cut(target.rpartition(".")[0], weight)
            part = part.to(dtype=dtype or weight.dtype, device=device, copy=True).contiguous()
            owner: Any = share.get_submodule(target.rpartition(".")[0])
            owner.weight = nn.Parameter(part, requires_grad=False)
    kept = next(share.parameters()).dtype
    for module, (values, scale) in rounded.items():
        share.set_submodule(module, rounded_linear(values, scale, schemes[module], kept))
    return share.eval()


def _rounded(
    share: Share, name: str, own: dict[str, Tensor], scheme: Scheme, names: Transformer, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Values and scales of this rank's part of a quantised matrix."""
    whole: Any = names.get_submodule(name)
    inputs, ranks = whole.in_features, share.place.layout.tensor_parallel
    by_inputs = CUTS.get(name.rsplit(".", 1)[-1]) == INPUTS
    if scheme.group and by_inputs and (inputs // ranks) % scheme.group:
        raise UserError(
            f"{name} is quantised in groups of {scheme.group} of its {inputs} inputs, which tensor_parallel={ranks} "
            "would cut apart; take fewer ranks, or pipeline_parallel"
        )
    parts = share.cut(name, stored_values(own, scheme, inputs)), share.cut(name, own["weight_scale"])
    values, scale = (part.to(device, copy=True).contiguous() for part in parts)
    return values, scale
