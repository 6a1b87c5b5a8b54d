"""Training speed on a CPU beside transformers' LlamaForCausalLM: the same model, documents, type and optimizer.

Both train a 10M-parameter Llama (vocabulary 32,768) on the same packed rows of 2,048 tokens, documents of 300
tokens on average, with the same fused AdamW, in one process with the same threads, their steps taking turns.
transformers is run in two forms, and the faster one is compared with: `peer` has what our rows need, position
ids that restart and a mask that keeps documents apart; `peer_unmasked` lets every token attend to the whole row.
bf16 where the machine has it: a CPU that emulates it needs minutes a step, so `auto` takes fp32 there, for both.

    python benchmarks/train_cpu.py [--steps 10] [--rows 2] [--precision auto] [--threads 2]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, cpu_name, spread, write_result

from herdbook.model.config import ModelConfig
from herdbook.model.documents import Documents
from herdbook.model.huggingface import config_to_json, theirs
from herdbook.model.transformer import Transformer
from herdbook.tokens.batches import Batch
from herdbook.train.machine import available_threads, faster_precision, measured_peak, prepare
from herdbook.train.objective import NextToken
from herdbook.train.optimizer import Optimizers, scale_gradients
from herdbook.train.settings import TrainSettings

LENGTH, MEAN_DOCUMENT, AIM = 2048, 300, 1.5
CONFIG = ModelConfig(
    vocab_size=32_768, dim=192, layers=8, heads=6, kv_heads=2, ffn_dim=512, max_length=LENGTH, tied_embeddings=True
)
RESULT = RESULTS / "train_cpu.json"


def packed_batches(count: int, rows: int, seed: int) -> list[Batch]:
    """Rows filled with documents of random tokens whose lengths are geometric, mean 300."""
    draw = np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        starts = draw.random((rows, LENGTH)) < 1 / MEAN_DOCUMENT
        ids = torch.from_numpy(starts.cumsum(axis=1).astype(np.int32))
        tokens = torch.from_numpy(draw.integers(0, CONFIG.vocab_size, (rows, LENGTH)))
        targets = torch.full_like(tokens, -100)
        same = ids[:, 1:] == ids[:, :-1]
        targets[:, :-1][same] = tokens[:, 1:][same]
        batches.append(Batch(tokens, targets, ids))
    return batches


def build_peer(ours: Transformer) -> Any:
    """transformers' model with our weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    raw = config_to_json(CONFIG, torch.float32, 1, [2])
    config = LlamaConfig(**{key: value for key, value in raw.items() if key not in ("architectures", "torch_dtype")})
    peer = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    weights = dict(peer.named_parameters())
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            weights[theirs(name)].copy_(weight)
    return peer.train()


def peer_step(peer: Any, optimizer: torch.optim.Optimizer, batch: Batch, autocast: Any, masked: bool) -> float:
    """One step as a user of transformers would write it."""
    given: dict[str, Any] = {}
    if masked:
        documents = Documents.from_ids(batch.document_ids)
        given = {"position_ids": documents.positions, "attention_mask": documents.mask}
    with autocast():
        # shift_labels are the targets of each position, so documents' last tokens are left out as in ours.
        loss = peer(
            input_ids=batch.tokens, labels=batch.targets, shift_labels=batch.targets, use_cache=False, **given
        ).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def our_step(model: Transformer, optimizers: Optimizers, batch: Batch, autocast: Any) -> float:
    """One step as `train.loop` does it."""
    with autocast():
        loss = NextToken()(model, batch)
    loss.total.backward()
    scale_gradients(optimizers.weights, loss.count, 1.0)
    optimizers.step()
    optimizers.zero_grad()
    return float(loss.total.detach()) / loss.count


def contenders(settings: TrainSettings, dtype: torch.dtype) -> dict[str, Callable[[Batch], float]]:
    """The steps that are timed, by name; all start from the same weights."""

    def autocast() -> Any:
        return torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)

    ours = Transformer(CONFIG)
    ours.initialize(0)
    steps: dict[str, Callable[[Batch], float]] = {}
    for name, masked in (("peer", True), ("peer_unmasked", False)):
        peer = build_peer(ours)
        optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        steps[name] = lambda batch, peer=peer, optimizer=optimizer, masked=masked: peer_step(  # type: ignore[misc]
            peer, optimizer, batch, autocast, masked
        )
    optimizers = Optimizers(ours, settings)
    optimizers.set_step(0)
    steps["ours"] = lambda batch: our_step(ours, optimizers, batch, autocast)
    return steps


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Rates in counted tokens per second, and ours over each peer's, step by step on the same batch."""
    threads = prepare(options.threads)
    precision = faster_precision(torch.device("cpu")) if options.precision == "auto" else options.precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    settings = TrainSettings.model_validate({"steps": 1000, "optimizer": "adamw", "peak_lr": 1e-3, "warmup": 0})
    steps = contenders(settings, dtype)
    batches = packed_batches(options.steps + options.warmup, options.rows, seed=0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for number, batch in enumerate(batches):
        names = list(steps)
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:  # none always comes after the same other
            start = time.perf_counter()
            losses[name].append(steps[name](batch))
            seconds[name].append(time.perf_counter() - start)
    seconds = {name: values[options.warmup :] for name, values in seconds.items()}
    tokens = [batch.count for batch in batches[options.warmup :]]
    rates = {name: [n / s for n, s in zip(tokens, values)] for name, values in seconds.items()}
    best = max(("peer", "peer_unmasked"), key=lambda name: statistics.median(rates[name]))
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": {
            "cpu": cpu_name(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": threads,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "precision": precision,
        "peak_gflops": {name: measured_peak(kind, torch.device("cpu")) / 1e9 for name, kind in
                        (("fp32", torch.float32), ("bf16", torch.bfloat16))},
        "parameters": CONFIG.parameters(),
        "n": options.steps,
        "rows": options.rows,
        "tokens_per_second": {name: spread(values) for name, values in rates.items()},
        "ratio": {
            name: spread([a / b for a, b in zip(rates["ours"], rates[name])]) for name in ("peer", "peer_unmasked")
        },
        "faster_peer": best,
        "first_loss": {name: values[0] for name, values in losses.items()},
        "aim": AIM,
    }  # fmt: skip


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them that are not timed")
    parser.add_argument("--rows", type=int, default=2, help="rows of 2,048 tokens in a step")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="type of the products")
    parser.add_argument("--threads", type=int, default=available_threads(), help="CPU threads")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    result = measure(parser.parse_args())
    for name, rate in result["tokens_per_second"].items():
        print(f"{name:14} tokens/s  median {rate['median']:8,.0f}  min {rate['min']:8,.0f}  max {rate['max']:8,.0f}")
    for name, ratio in result["ratio"].items():
        print(f"ours / {name:14} median {ratio['median']:.2f}  min {ratio['min']:.2f}  max {ratio['max']:.2f}")
    reached = result["ratio"][result["faster_peer"]]["median"]
    compared = f"against the faster peer ({result['faster_peer']}): {reached:.2f} x, aim {AIM} x"
    print(f"{compared}, {result['precision']}, n={result['n']}")
    write_result(parser.parse_args().out, result)


if __name__ == "__main__":
    main()
