"""How many numbers of each weight lie on each rank of a topology, without torch and without a model.

What `parallel.py` does to real weights, as arithmetic: tensor parallelism cuts matrices by rows or columns, FSDP cuts
the other axis, a pipeline's rank has the blocks of its stages, expert parallelism shares out whole experts. Parts are
as torch cuts them: all but the last are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from herdbook.model.config import ModelConfig
from herdbook.train.topology import ParallelSettings, layers_of_stages, stages_of_rank

Kind = Literal["matrix", "embedding", "head", "norm"]


@dataclass(frozen=True)
class Weight:
    """One weight of the model."""

    kind: Kind
    """As `optimizer.kinds_of_weights` has it."""

    shape: tuple[int, ...]
    """Rows and columns, or a norm's width."""

    cut: int | None = None
    """The axis that tensor parallelism cuts; None for one that is whole on each of its ranks."""

    expert: bool = False
    """Whether it belongs to one of a mixture's experts."""

    def cut_by(self, tensor: int, rank: int = 0) -> tuple[int, ...]:
        """Its shape on a rank of tensor parallelism, before FSDP."""
        return tuple(_part(size, tensor, rank) if axis == self.cut else size for axis, size in enumerate(self.shape))

    def local(self, parallel: ParallelSettings, shard_rank: int = 0, tensor_rank: int = 0) -> int:
        """Its numbers on a rank; `shard_rank` counts over rows and context together."""
        shape = list(self.cut_by(parallel.tensor, tensor_rank))
        axis = 1 if parallel.tensor > 1 and self.cut == 0 else 0
        alike = parallel.expert if self.expert else 1  # ranks that have other experts share none of these
        shape[axis] = _part(shape[axis], parallel.shard * parallel.context // alike, shard_rank // alike)
        return _product(shape)

    def gathered(self, parallel: ParallelSettings) -> int:
        """Its numbers on a rank when FSDP has gathered it, on the fullest rank."""
        return _product(self.cut_by(parallel.tensor))


def _part(size: int, parts: int, number: int) -> int:
    each = -(-size // parts)
    return max(0, min(each, size - number * each))


def _product(sizes: tuple[int, ...] | list[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found


def block_weights(config: ModelConfig, parallel: ParallelSettings) -> list[Weight]:
    """The weights of one block that lie on a rank, in part or whole."""
    dim, width, kv_width = config.dim, config.heads * config.head_width, config.kv_heads * config.head_width
    weights = [Weight("norm", (dim,)), Weight("norm", (dim,)), Weight("matrix", (width, dim), 0)]
    weights += [Weight("matrix", (kv_width, dim), 0)] * 2 + [Weight("matrix", (dim, width), 1)]
    if config.experts:
        weights.append(Weight("matrix", (config.experts, dim)))
    expert = config.experts > 0
    feed_forward = [Weight("matrix", (config.ffn_dim, dim), 0, expert)] * 2
    feed_forward.append(Weight("matrix", (dim, config.ffn_dim), 1, expert))
    return weights + feed_forward * max(1, config.experts // parallel.expert)


@dataclass(frozen=True)
class Held:
    """What one rank of the pipeline holds."""

    layers: tuple[int, ...]
    """Blocks of each of its stages."""

    outer: list[Weight]
    """Weights outside the blocks: embedding, last norm, head."""

    first: bool
    """Whether the embedding is among them."""

    last: bool
    """Whether the head is, and with it the loss."""

    @property
    def blocks(self) -> int:
        """Its blocks in all."""
        return sum(self.layers)

    def weights(self, config: ModelConfig, parallel: ParallelSettings) -> Iterator[tuple[Weight, int]]:
        """All its weights, each with how often there is one like it."""
        for weight in block_weights(config, parallel):
            yield weight, self.blocks
        for weight in self.outer:
            yield weight, 1


def held(config: ModelConfig, parallel: ParallelSettings, rank: int = 0) -> Held:
    """What a rank of the pipeline holds."""
    total = parallel.total_stages
    layers = layers_of_stages(config.layers, total)
    stages = stages_of_rank(parallel, rank)
    first, last = 0 in stages, total - 1 in stages
    outer = []
    table, head = (config.vocab_size, config.dim), (config.head_words, config.dim)
    if first and not (last and config.tied_embeddings):
        outer.append(Weight("embedding", table, 0))
    if last:
        outer += [Weight("norm", (config.dim,)), Weight("head", head, 0)]
    return Held(tuple(len(layers[stage]) for stage in stages), outer, first, last)
