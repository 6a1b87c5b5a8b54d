"""What inference costs on a cluster (§6): memory, tokens a second and dollars a million tokens, by quantisation.

A decode step reads all weights once and every running answer's keys and values; reading a prompt is products. The
larger of memory's and arithmetic's time counts. Shares of the peak are those of the calibration. What this leaves out,
the engine's own overhead above all, makes it a bound rather than a forecast.
"""

from __future__ import annotations

from dataclasses import dataclass

from herdbook.model.config import ModelConfig
from herdbook.scaling.cluster import Calibration, Cluster
from herdbook.scaling.steps import GIB, RESERVE_GIB
from herdbook.settings import UserError

WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5 + 2 / 128}
"""Bytes of a weight: with int4 a 16-bit scale for 128 weights."""
CACHE_BYTES = 2  # keys and values in bf16


@dataclass(frozen=True)
class Serving:
    """A model served by one group of devices."""

    scheme: str
    devices: int
    """Devices of the group (tensor ranks)."""

    weights: float
    """Bytes of the weights, over all devices of the group."""

    cache_per_token: int
    """Bytes of keys and values of one token, over all devices of the group."""

    most: int
    """Answers of this length that the cache holds at once."""

    batch: int
    """Answers that are written at once in the figures below."""

    prefill: float
    """Prompt tokens a second and device."""

    decode: float
    """Answer tokens a second and device."""

    step: float
    """Seconds between two tokens of an answer."""

    dollars: float
    """Dollars a million answer tokens, their prompts' share included."""


def cache_bytes(config: ModelConfig) -> int:
    """Bytes of keys and values of one token in bf16."""
    return 2 * CACHE_BYTES * config.layers * config.kv_heads * config.head_width


def weight_bytes(config: ModelConfig, scheme: str) -> float:
    """Bytes of all weights; embedding and head stay as they are."""
    outer = config.dim * config.vocab_size * (1 if config.tied_embeddings else 2)
    return (config.parameters() - outer) * WEIGHT_BYTES[scheme] + outer * WEIGHT_BYTES["bf16"]


def serve(
    config: ModelConfig,
    cluster: Cluster,
    calibration: Calibration,
    *,
    scheme: str = "bf16",
    devices: int | None = None,
    prompt: int = 1024,
    answer: int = 256,
    batch: int | None = None,
) -> Serving:
    """Plan a group: the fewest devices that hold the model and one answer, when not told; the largest batch, too.

    Raises UserError for an unknown scheme and where the weights, or one answer beside them, do not fit; it says how
    many devices would do.
    """
    if scheme not in WEIGHT_BYTES:
        raise UserError(f"there is no scheme {scheme!r}; there are {', '.join(WEIGHT_BYTES)}")
    if scheme == "fp8" and cluster.peak_fp8 is None:
        raise UserError(f"a {cluster.device} has no 8-bit floating point; take int8, int4 or bf16")
    length = prompt + answer
    weights, per_token = weight_bytes(config, scheme), cache_bytes(config)
    usable = (cluster.memory - (0.0 if cluster.device == "cpu" else RESERVE_GIB)) * GIB
    fewest = next((n for n in (1 << k for k in range(12)) if n * usable >= weights + per_token * length), None)
    if devices is None:
        if fewest is None:
            raise UserError("no group of up to 2,048 devices holds this model; take a smaller scheme")
        devices = fewest
    room = devices * usable - weights
    most = int(room // (per_token * length))
    if most < 1:
        raise UserError(
            f"{devices} devices of {cluster.memory:.1f} GiB do not hold {weights / GIB:.1f} GiB of weights and an "
            f"answer of {length:,} tokens; {fewest or 'none up to 2,048'} would"
        )
    batch = min(batch, most) if batch else most
    tensor = min(devices, cluster.devices_per_node)
    pipes = -(-devices // tensor)
    link = calibration.node_link * cluster.node_link
    active = config.matmul_parameters()
    peak = calibration.matmul * ((cluster.peak_fp8 or cluster.peak) if scheme == "fp8" else cluster.peak)

    def passing(tokens: float) -> float:
        """Seconds of the two sums of each of a stage's blocks over the node, tokens end to end."""
        return 4 * config.layers / pipes * tokens * config.dim * 2 * (tensor - 1) / tensor / link

    # Nodes are a pipeline, with as many micro-batches as stages, so that none of them waits (§6.1).
    micro = batch / pipes
    products = 2 * active * micro / devices / peak
    attended = prompt + answer / 2
    read = (weights + micro * per_token * attended) / devices / (calibration.memory * cluster.bandwidth)
    step = pipes * (max(products, read) + passing(micro))
    prompt_flops = 2 * active * prompt + 2 * config.layers * config.heads * config.head_width * prompt * prompt
    prompt_seconds = prompt_flops / devices / peak + passing(prompt)
    per_answer = answer * step / batch + prompt_seconds
    return Serving(
        scheme, devices, weights, per_token, most, batch,
        prefill=prompt / prompt_seconds / devices, decode=batch / step / devices, step=step,
        dollars=per_answer * devices * cluster.price / 3600 / answer * 1e6,
    )  # fmt: skip
