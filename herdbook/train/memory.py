"""How much memory a rank of a training run needs, as arithmetic over shape, batch and topology (§3.3).

Weights, gradients and optimizer state are exact; activations are what autograd keeps of our blocks, tensor by tensor.
A step's fullest moment is one of five: the loss is made, its gradient is taken, the first block is gone back through,
the last gradient is there, or the optimizer works.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from herdbook.model.config import ModelConfig
from herdbook.train.inflight import in_flight
from herdbook.train.phases import Part
from herdbook.train.settings import TrainSettings
from herdbook.train.shares import Held, block_weights, held
from herdbook.train.topology import ParallelSettings

FP32, MUON_COPIES = 4, 4
CHUNK_NUMBERS, CHUNK_ROWS = {True: 1 << 21, False: 1 << 28}, 128  # as `loss.py` has them, on a CPU and elsewhere
ATTENTION_BLOCK, ATTENTION_LONGEST = 128, 1024  # as `model.cpu_attention` has them


@dataclass(frozen=True)
class Load:
    """What one rank has to hold: a model, a micro-batch, a topology."""

    config: ModelConfig
    parallel: ParallelSettings
    rows: int
    """Rows of a micro-batch over all ranks."""

    length: int
    accumulate: int = 1
    muon: bool = False
    bf16: bool = True
    cpu: bool = False
    """Whether it runs on a CPU, whose norms and attention keep more."""

    @classmethod
    def of(cls, settings: TrainSettings, config: ModelConfig, part: Part, cpu: bool) -> Load:
        """The load of one phase of a run; precision auto counts as bf16, but for a CPU."""
        bf16 = settings.precision != "fp32" and not (settings.precision == "auto" and cpu)
        muon = settings.optimizer == "muon"
        return cls(config, settings.parallel, part.rows, part.length, part.accumulate, muon, bf16, cpu)

    @property
    def many(self) -> bool:
        """Whether there are several ranks, so that FSDP holds the weights."""
        return self.parallel.size > 1

    @property
    def item(self) -> int:
        """Bytes of a number in products."""
        return 2 if self.bf16 else 4

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch on this rank."""
        return -(-self.rows // self.parallel.row_shares) * (self.length // self.parallel.context)

    @property
    def stream(self) -> int:
        """Bytes of the residual stream of a micro-batch, fp32, of which each tensor rank has its part."""
        return FP32 * self.tokens * self.config.dim // self.parallel.tensor


@dataclass(frozen=True)
class Need:
    """Bytes that a rank needs at its fullest moment, by what they are for."""

    rank: int
    """Its place in the pipeline."""

    parts: dict[str, int]
    """What for → bytes; they add up to the total."""

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


def needed(load: Load) -> Need:
    """The need of the pipeline's fullest rank."""
    return max((need_of(load, rank) for rank in range(load.parallel.pipeline)), key=lambda need: need.total)


def need_of(load: Load, rank: int) -> Need:
    """The need of a rank of the pipeline, the first of those that share its weights."""
    has = held(load.config, load.parallel, rank)
    steady = {"weights": FP32 * _local(load, has), "optimizer state": optimizer_bytes(load, has)}
    moments = (
        *(moment(load, has, rank) for moment in (_loss_made, _loss_taken, _first_block)),
        _backward_end(load, has),
        _step(load, has),
    )
    fullest = max(moments, key=lambda parts: sum(parts.values()))
    names = ("gradients", "gathered weights", "activations", "head and loss", "pipeline buffers", "passing")
    return Need(rank, steady | {name: fullest[name] for name in names if fullest.get(name)})


def optimizer_bytes(load: Load, has: Held, shard_rank: int = 0, tensor_rank: int = 0) -> int:
    """The optimizer's state on a rank: two fp32 moments a number with AdamW; with Muon one, and one number a row."""
    found = 0
    for weight, count in has.weights(load.config, load.parallel):
        numbers = weight.local(load.parallel, shard_rank, tensor_rank)
        if load.muon and weight.kind == "matrix":
            found += count * FP32 * (numbers + weight.shape[0])  # the rows' sizes are whole on every rank
        else:
            found += count * FP32 * (2 * numbers + 1)  # and its own count of steps
    return found


def _local(load: Load, has: Held) -> int:
    return sum(count * weight.local(load.parallel) for weight, count in has.weights(load.config, load.parallel))


def _gathered(load: Load, has: Held, blocks: int) -> int:
    """Bytes of gathered weights: `blocks` blocks in the products' type, and what is outside of them in fp32."""
    if not load.many:
        return 0
    block = sum(weight.gathered(load.parallel) for weight in block_weights(load.config, load.parallel))
    return blocks * load.item * block + FP32 * sum(weight.gathered(load.parallel) for weight in has.outer)


def _block_numbers(load: Load) -> int:
    return sum(weight.gathered(load.parallel) for weight in block_weights(load.config, load.parallel))


def _gradients(load: Load, has: Held) -> int:
    """Bytes of all gradients between micro-batches: a pipeline's ranks add them up before they share them out."""
    if load.parallel.pipeline > 1:
        outer = sum(weight.gathered(load.parallel) for weight in has.outer)
        return FP32 * (has.blocks * _block_numbers(load) + outer)
    return FP32 * _local(load, has)


def _loss_made(load: Load, has: Held, rank: int) -> dict[str, int]:
    """While the loss is made: all activations, and with autocast a copy of every matrix in the products' type."""
    parts = _flying(load, has, rank)
    parts["activations"] += 0 if load.many or not load.bf16 else 2 * has.blocks * _matrix_numbers(load)
    parts["head and loss"] = _loss(load, made=True) if has.last else 0
    return parts


def _loss_taken(load: Load, has: Held, rank: int) -> dict[str, int]:
    """While the gradient of the loss is taken: the head's is there twice."""
    parts = _flying(load, has, rank)
    if not load.many and load.bf16 and load.parallel.recompute == "none":
        parts["activations"] += 2 * has.blocks * _matrix_numbers(load)
    parts["head and loss"] = _loss(load, made=False) if has.last else 0
    return parts


def _first_block(load: Load, has: Held, rank: int) -> dict[str, int]:
    """While the last block is gone back through: what it had forgotten is there again."""
    parts = _flying(load, has, rank)
    activations = block_activations(load)
    again = load.parallel.recompute != "none"
    parts["activations"] += activations.none - activations.kept(load.parallel.recompute) if again else 0
    if not load.many and load.bf16:
        parts["activations"] += 2 * (1 if again else has.blocks) * _matrix_numbers(load)
    parts["passing"] = activations.work
    if load.parallel.schedule == "zbv" and load.parallel.pipeline > 1:
        # Weights' gradients are made after all of a stage's inputs': until then the products' gradients wait.
        parts["passing"] += max(has.layers) * (activations.selective + load.stream)
    if has.last:
        parts["head and loss"] = 0 if load.accumulate > 1 else FP32 * _words(load) * load.config.dim
    return parts


def _flying(load: Load, has: Held, rank: int) -> dict[str, int]:
    """What is there from the end of the forward pass on: activations in flight, gathered weights, earlier gradients."""
    parallel = load.parallel
    flying = in_flight(parallel, rank, load.accumulate, has.layers)
    blocks = sum(count * layers for count, layers in zip(flying, has.layers, strict=True))
    angles = FP32 * load.tokens * load.config.head_width
    ids = 20 * load.tokens  # tokens, targets and documents
    kept = blocks * block_activations(load).kept(parallel.recompute)
    parts = {
        "gradients": _gradients(load, has) if load.accumulate > 1 else 0,
        "gathered weights": _gathered(load, has, 2 if parallel.reshard else has.blocks),
        "activations": kept + sum(flying) * angles + ids,
    }
    if parallel.pipeline > 1:
        parts["pipeline buffers"] = _buffers(load, has, flying)
    return parts


def _backward_end(load: Load, has: Held) -> dict[str, int]:
    """When the embedding's gradient has been made: all gradients, and what is on its way to other ranks."""
    outer = sum(weight.gathered(load.parallel) for weight in has.outer)
    passing = load.stream
    gradients = _gradients(load, has)
    if load.many:
        # What is outside the blocks is one group: its gradients are whole, and copied once to be sent.
        passing += FP32 * outer * (1 if load.parallel.pipeline > 1 else 2)
    else:
        passing += FP32 * load.config.vocab_size * load.config.dim if load.accumulate > 1 else 0
    gathered = _gathered(load, has, has.blocks if load.parallel.pipeline > 1 and not load.parallel.reshard else 0)
    parts = {"gradients": gradients, "gathered weights": gathered, "passing": passing}
    if load.parallel.pipeline > 1:
        parts["pipeline buffers"] = _buffers(load, has, [0] * len(has.layers))
    return parts


def _step(load: Load, has: Held) -> dict[str, int]:
    """In the optimizer's step: Muon works on all whole matrices of one shape at once."""
    passing = 0
    if load.muon:
        shapes: dict[tuple[int, ...], int] = {}
        for weight, count in has.weights(load.config, load.parallel):
            if weight.kind == "matrix":
                shapes[weight.shape] = shapes.get(weight.shape, 0) + count * weight.shape[0] * weight.shape[1]
        passing = MUON_COPIES * FP32 * max(shapes.values(), default=0)
    parts = {"gradients": FP32 * _local(load, has), "passing": passing}
    if load.parallel.pipeline > 1:
        parts["pipeline buffers"] = _buffers(load, has, [0] * len(has.layers))
    return parts


def _matrix_numbers(load: Load) -> int:
    return sum(
        weight.gathered(load.parallel)
        for weight in block_weights(load.config, load.parallel)
        if weight.kind == "matrix"
    )


def _buffers(load: Load, has: Held, flying: list[int]) -> int:
    """What a pipeline's rank receives into, for every micro-batch, and the outputs it keeps until they are sent."""
    ends = has.first + has.last
    received = load.accumulate * load.stream * (2 * len(has.layers) - ends)
    return received + (flying[0] * load.stream if has.first else 0)


def _words(load: Load) -> int:
    return -(-load.config.vocab_size // load.parallel.tensor)


def _loss(load: Load, made: bool) -> int:
    """Bytes of the last norm and the head, while the loss is made or its gradient taken."""
    hidden, head = FP32 * load.tokens * load.config.dim, _words(load) * load.config.dim
    norms = load.stream * (2 if load.cpu else 1)
    if not made:
        return norms + 2 * hidden + 2 * FP32 * head
    rows = min(load.tokens, max(CHUNK_ROWS, CHUNK_NUMBERS[load.cpu] // load.config.vocab_size))
    logits = 2 * FP32 * rows * _words(load)
    # Beside its fp32 gradient, the head as products take it and, added up by chunks, one chunk's gradient.
    copies = 2 * load.item * head if load.bf16 else 0
    passing = 2 * load.item * rows * _words(load) if load.bf16 else 0
    return norms + 3 * hidden + FP32 * head + copies + logits + passing


@cache
def keys_repeated() -> bool:
    """Whether this torch's variable-length attention wants as many key heads as query heads; not imported for it."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return True
    path = Path(spec.submodule_search_locations[0]) / "nn" / "attention" / "varlen.py"
    return not path.is_file() or "enable_gqa" not in path.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Activations:
    """Bytes of one block and micro-batch."""

    none: int
    """What is kept when nothing is recomputed."""

    selective: int
    """When all but products with weights is."""

    full: int
    """When the whole block is."""

    work: int
    """What comes and goes while it is gone back through."""

    def kept(self, recompute: str) -> int:
        """Bytes kept from forward to backward."""
        return {"none": self.none, "selective": self.selective, "full": self.full}[recompute]


def block_activations(load: Load) -> Activations:
    """What autograd keeps of a block: stream, norms, inputs of products, attention, feed-forward."""
    config, parallel, item = load.config, load.parallel, load.item
    t, n, dim, stream = parallel.tensor, load.tokens, config.dim, load.stream
    heads, keys = config.heads // t, config.kv_heads // t
    queries, pairs = item * n * heads * config.head_width, 2 * item * n * keys * config.head_width
    # Under autocast each product takes a copy of its own of what the norm gives; without, they share it.
    given = item * n * dim * (5 if load.bf16 else 2)
    norms = 2 * (stream * (2 if load.cpu else 1) + FP32 * n // t)
    kept_pairs = pairs
    if parallel.context > 1:
        kept_pairs = pairs * parallel.context + _masks(load)  # the keys and values of the whole row
    elif not load.cpu and load.bf16 and keys_repeated():
        kept_pairs = pairs * (heads // keys)
    attention = queries + kept_pairs + _attention_kept(load, queries)
    inner, outer_part, extra = _feed_forward(load)
    none = norms + given + attention + 4 * inner + extra
    products = queries + pairs + item * n * dim + 2 * inner + outer_part
    if load.cpu and not _by_blocks(load):
        products += _attention_kept(load, queries)
    # Gradients of the inner tensors, and of the stream; under autocast also of the copies that products took.
    work = 2 * inner + stream + (2 * FP32 * n * dim if load.bf16 else 0)
    if t > 1:  # the sequence is gathered before matrices and shared out after them: copies that come and go
        work += 5 * item * n * dim
    return Activations(none, stream + products, stream, work)


def _masks(load: Load) -> int:
    """The masks of a rank's two chunks, of rows that are one document each, and as the kernel takes them."""
    ranks = load.parallel.context
    chunk, rows = load.length // (2 * ranks), -(-load.rows // load.parallel.row_shares)
    return rows * chunk * chunk * (2 * ranks + 1) * (1 + load.item)


def _by_blocks(load: Load) -> bool:
    return load.cpu and load.length <= ATTENTION_LONGEST and load.parallel.context == 1


def _attention_kept(load: Load, queries: int) -> int:
    """What attention keeps beside queries, keys and values: its result, and sums or, on a CPU, probabilities."""
    heads = load.config.heads // load.parallel.tensor
    if _by_blocks(load):  # of rows that are one document each, the most there can be
        seen = load.length * (load.length + ATTENTION_BLOCK) // 2
        return queries + load.item * heads * seen * (load.tokens // load.length)
    return queries + FP32 * load.tokens * heads


def _feed_forward(load: Load) -> tuple[int, int, int]:
    """Bytes of one inner tensor, of the result, and what a mixture keeps beside a dense feed-forward's tensors."""
    config, n, item = load.config, load.tokens, load.item
    inner, result = item * n * config.ffn_dim // load.parallel.tensor, item * n * config.dim
    if not config.experts:
        return inner, result, 0
    chosen = config.experts_per_token
    # Router: its input and shares in fp32. Experts: their tokens, twice as products take them, and their results.
    router = FP32 * n * (config.dim + 2 * config.experts)
    gathered = item * n * config.dim * (2 * chosen - 2) if load.bf16 else FP32 * n * config.dim * (chosen - 1)
    return inner * chosen, result * chosen, router + gathered + result * chosen
