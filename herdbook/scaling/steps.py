"""How long a training step takes on a cluster, part by part (§3.3.2), and how much memory it needs.

The time of a micro-batch on a pipeline's rank is its products at the reached share of the peak, attention at its own,
passes over memory, and the communication that nothing hides: gathers and scatters of tensor parallelism within a
node, keys and values of context parallelism between nodes. The pipeline idles at its ends; of the traffic of FSDP only
what belongs to the first and the last of a rank's stages shows.

Memory is that of a lean implementation in bf16 (activations kept as products need them, fp32 gradients and AdamW
sharded over the data ranks). What herdbook's own training needs is in `train/memory.py`, for `herdbook run --check`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from herdbook.model.config import ModelConfig
from herdbook.scaling.cluster import Calibration, Cluster

GIB = 1 << 30
RESERVE_GIB = 4.0  # CUDA, NCCL, gaps of the allocator; as `MachineSettings.reserve`
BF16, FP32, ADAM = 2, 4, 12  # AdamW: two moments and the weights in fp32
BACKWARD_ATTENTION = 2.5  # its five products beside forward's two
LOSS_PASSES = 4  # over the logits: made, exponentials, their gradient, and that read again
SOFTMAX_PASSES = 6  # over a CPU's attention weights: made, largest, exponentials, sum, share, read
MUON_ROUNDS = 5  # of Newton-Schulz, three products each
Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class Layout:
    """How a step's work is laid over the devices."""

    tensor: int
    context: int
    pipeline: int
    data: int
    """Ranks with rows of their own; they share optimizer state and gradients (ZeRO)."""

    rows: int
    """Rows of a micro-batch on each data rank."""

    micros: int
    """Micro-batches of a step."""

    stages: int = 1
    """Stages of a pipeline's rank, interleaved."""

    recompute: Recompute = "none"

    @property
    def devices(self) -> int:
        """Devices of this layout."""
        return self.tensor * self.context * self.pipeline * self.data

    @property
    def topology(self) -> tuple[int, int, int, int]:
        """Tensor, context, pipeline, data."""
        return self.tensor, self.context, self.pipeline, self.data

    def __str__(self) -> str:
        more = f", {self.stages} stages a rank" if self.pipeline > 1 else ""
        return (
            f"TP {self.tensor} x CP {self.context} x PP {self.pipeline} x DP {self.data}, {self.micros} micro-batches "
            f"of {self.rows}{more}, recompute {self.recompute}"
        )


@dataclass(frozen=True)
class Step:
    """A training step on a cluster: every figure follows from these."""

    config: ModelConfig
    layout: Layout
    length: int
    """Tokens of a row."""

    cluster: Cluster
    calibration: Calibration

    item: int = BF16
    """Bytes of a number in products."""

    muon: bool = False
    """Whether Muon trains the matrices; else AdamW does."""

    attended: float | None = None
    """Tokens that a token attends to on average; half a row, of one document, when None."""

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.layout.rows * self.layout.micros * self.layout.data * self.length

    @cached_property
    def layers(self) -> int:
        """Blocks of the fullest rank of the pipeline; embedding and head count as one each (§3.3.2)."""
        return self.config.layers if self.layout.pipeline == 1 else -(-(self.config.layers + 2) // self.layout.pipeline)

    @cached_property
    def busy(self) -> float:
        """Blocks whose time the fullest rank takes; a small model's head is worth several of them."""
        if self.layout.pipeline == 1:
            return self.layers
        head = self.config.dim * self.config.vocab_size / self._active
        return max(self.layers, (self.config.layers + head) / self.layout.pipeline, head)

    @cached_property
    def block_numbers(self) -> int:
        """Weights of one block's matrices."""
        c = self.config
        return 2 * c.dim * c.head_width * (c.heads + c.kv_heads) + 3 * c.dim * c.ffn_dim * max(c.experts, 1)

    @cached_property
    def _active(self) -> int:
        c = self.config
        work = min(c.experts_per_token, c.experts) if c.experts else 1
        return 2 * c.dim * c.head_width * (c.heads + c.kv_heads) + 3 * c.dim * c.ffn_dim * work

    @property
    def _here(self) -> int:
        """Tokens of a micro-batch on a device, before tensor ranks share the sequence."""
        return self.layout.rows * self.length // self.layout.context

    @property
    def _attended(self) -> float:
        return self.length / 2 if self.attended is None else self.attended

    def forward_parts(self) -> dict[str, float]:
        """Seconds of one block and micro-batch, going forward, by what they are for."""
        c, lay, cal = self.config, self.layout, self.calibration
        n, peak = self._here, self.cluster.peak
        attention = 4 * n * self._attended * c.heads * c.head_width / lay.tensor
        passes = n * self.item * (12 * c.dim + 4 * c.ffn_dim) / lay.tensor
        if self.cluster.device == "cpu":
            passes += SOFTMAX_PASSES * n * self.item * self._attended * c.heads / lay.tensor
        parts = {
            "products": 2 * n * self._active / lay.tensor / (cal.matmul * peak),
            "attention": attention / (cal.attention_forward * peak),
            "memory passes": passes / (cal.memory * self.cluster.bandwidth),
        }
        if lay.tensor > 1:
            moved = 4 * n * c.dim * self.item * (lay.tensor - 1) / lay.tensor  # two gathers, two scatters
            parts["tensor"] = moved / self._link(lay.tensor)
        if lay.context > 1:
            moved = n * 2 * c.kv_heads * c.head_width * self.item / lay.tensor * (lay.context - 1)
            parts["context"] = moved / self._link(lay.tensor * lay.context) + self.cluster.latency * math.log2(
                lay.context
            )
        return parts

    def backward_parts(self) -> dict[str, float]:
        """The same going backward, what is recomputed included."""
        forward, cal = self.forward_parts(), self.calibration
        parts = {
            "products": 2 * forward["products"],
            "attention": BACKWARD_ATTENTION * forward["attention"] * cal.attention_forward / cal.attention_backward,
            "memory passes": 2 * forward["memory passes"],
        }
        if "tensor" in forward:
            parts["tensor"] = 1.25 * forward["tensor"]  # the gathered inputs once more, for the weights' gradients
        if "context" in forward:
            parts["context"] = 2 * forward["context"]  # gathered again, and their gradients scattered
        if self.layout.recompute == "full":
            parts["recomputed"] = sum(forward.values())
        elif self.layout.recompute == "selective":
            parts["recomputed"] = forward["memory passes"]
            if self.cluster.device == "cpu":  # whose attention is made again too (`train/recompute.py`)
                parts["recomputed"] += forward["attention"]
        return parts

    def _link(self, ranks: int) -> float:
        """Bytes a second that a group of so many neighbouring devices reaches."""
        within = ranks <= self.cluster.devices_per_node
        cal, cluster = self.calibration, self.cluster
        return cal.node_link * cluster.node_link if within else cal.network * cluster.network

    @cached_property
    def parts(self) -> dict[str, float]:
        """Seconds of a step by what they are for; they add up to `seconds`."""
        lay = self.layout
        found: dict[str, float] = {}
        for parts in (self.forward_parts(), self.backward_parts()):
            for name, value in parts.items():
                found[name] = found.get(name, 0.0) + value * self.busy * lay.micros
        if lay.pipeline == 1:  # else the head stands in for a block
            head = 6 * self._here * lay.micros * self.config.dim * self.config.vocab_size / lay.tensor
            found["head"] = head / (self.calibration.matmul * self.cluster.peak)
            logits = LOSS_PASSES * FP32 * self._here * lay.micros * self.config.vocab_size / lay.tensor
            found["loss"] = logits / (self.calibration.memory * self.cluster.bandwidth)
        if lay.pipeline > 1:
            found["bubble"] = sum(found.values()) / lay.micros * (lay.pipeline - 1) / lay.stages
        shares = lay.data * lay.context
        if shares > 1:
            moved = self._local * (self.item + FP32) * (shares - 1) / shares
            whole = moved / self._link(shares * lay.tensor)
            # What is computed meanwhile hides it, but for its first and last piece; never more than that time is long.
            hidden = 0.0 if self.cluster.device == "cpu" else sum(found.values()) - found.get("bubble", 0.0)
            found["data"] = max(whole / max(lay.stages, self._hidden), whole - hidden)
        update = self._local / shares * (ADAM + FP32 + FP32) * 2
        found["optimizer"] = update / (self.calibration.memory * self.cluster.bandwidth)
        if self.muon:
            found["muon"] = self._muon / shares / (self.calibration.matmul * self.cluster.peak)
        return found

    @property
    def _muon(self) -> float:
        """Operations that make a device's matrices orthogonal (Newton-Schulz)."""
        c = self.config
        width = c.head_width
        shapes = [(c.dim, c.heads * width)] * 2 + [(c.dim, c.kv_heads * width)] * 2
        shapes += [(c.dim, c.ffn_dim)] * (3 * max(c.experts, 1))
        of_block = sum(4 * m * m * n + 2 * m**3 for m, n in (sorted(one) for one in shapes))
        return MUON_ROUNDS * self.layers * of_block / self.layout.tensor

    @property
    def _hidden(self) -> int:
        """Into how many pieces FSDP's traffic falls without a pipeline, of which one shows: a block each.

        A CPU moves the bytes itself, so that all of it shows.
        """
        return self.layers if self.layout.pipeline == 1 and self.cluster.device != "cpu" else 1

    @cached_property
    def _local(self) -> float:
        """Weights of a device before data ranks share them."""
        tables = 1 if self.config.tied_embeddings else 2
        table = self.config.dim * self.config.vocab_size
        # In a pipeline the head stands in for a block, and is larger than one in small models.
        outer = tables * table if self.layout.pipeline == 1 else max(0, table - self.block_numbers)
        return (self.layers * self.block_numbers + outer) / self.layout.tensor

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return sum(self.parts.values())

    def flops(self, full: bool = False) -> float:
        """Operations of a step, attention counted causally, or over whole rows with `full`."""
        attended = self.length if full else (self.length + 1) / 2
        return self.tokens * self.config.flops_per_token(attended)

    @property
    def tflops(self) -> float:
        """10^12 operations a second and device, causal count."""
        return self.flops() / self.seconds / self.layout.devices / 1e12

    def mfu(self, full: bool = False) -> float:
        """Share of the peak."""
        return self.flops(full) / self.seconds / self.layout.devices / self.cluster.peak

    @property
    def tokens_per_second(self) -> float:
        """Of all devices."""
        return self.tokens / self.seconds

    def memory_parts(self) -> dict[str, float]:
        """Bytes on the fullest device of a lean implementation, by what they are for."""
        c, lay = self.config, self.layout
        shares = lay.data * lay.context
        found = {
            "weights": BF16 * self._local,
            # Micro-batches add up to whole gradients where a pipeline passes through; else they are sharded at once.
            "gradients": FP32 * self._local / (1 if lay.pipeline > 1 else shares),
            "optimizer": ADAM * self._local / shares,
            "activations": self._chunks_in_flight * self._kept * self.layers / lay.stages,
            "one block again": self._block_kept("none") - self._kept,
        }
        logits = self._here * c.vocab_size / lay.tensor
        found["head and loss"] = logits * (BF16 + FP32)
        return found

    def _block_kept(self, recompute: Recompute) -> float:
        c, n, t = self.config, self._here, self.layout.tensor
        stream, attended = BF16 * n * c.dim / t, BF16 * n * c.heads * c.head_width / t
        pairs = 2 * BF16 * n * c.kv_heads * c.head_width / t
        inner = BF16 * n * c.ffn_dim / t * (c.experts_per_token if c.experts else 1)
        if recompute == "full":
            return stream
        # Selective: the stream before attention and feed-forward, queries, keys and values, what attention gave, gate
        # and up; norms and the gated product are made again.
        kept = 2 * stream + 2 * attended + pairs + 2 * inner
        return kept if recompute == "selective" else kept + 2 * stream + inner

    @property
    def _kept(self) -> float:
        return self._block_kept(self.layout.recompute)

    @property
    def _chunks_in_flight(self) -> int:
        """Micro-batches of a stage whose activations the first rank keeps: those of 1F1B's warm-up, and one."""
        lay = self.layout
        if lay.pipeline == 1:
            return 1
        warm = (lay.stages - 1) * lay.pipeline + 2 * (lay.pipeline - 1) if lay.stages > 1 else lay.pipeline - 1
        return min(warm + 1, lay.micros * lay.stages)

    @property
    def memory(self) -> float:
        """Bytes on the fullest device."""
        return sum(self.memory_parts().values())

    @property
    def fits(self) -> bool:
        """Whether it fits the device, what the driver and gaps take set aside."""
        reserve = 0.0 if self.cluster.device == "cpu" else RESERVE_GIB
        return self.memory <= (self.cluster.memory - reserve) * GIB
