"""Training speed and memory on one GPU: a stack of Llama 3 8B's layers at 8,192 tokens, and a 1B model at 4,096.

The stack is blocks alone, forward and backward; the 1B model is a whole step: blocks, head, loss, clipping, AdamW.
FLOPs are counted as the paper does, causally: per token 6 for each weight it is multiplied with (forward and twice
backward, nothing for what is recomputed), and 12 * layers * heads * head width * attended positions, which are
(T + 1) / 2 on average where a row is one document, fewer where documents share rows. bf16 products, blocks compiled,
attention by the kernel that the model chooses itself. Memory is the allocator's most, beside `train/memory.py`'s
arithmetic. Untried until it has run on a GPU; on a CPU it runs tiny shapes, whose figures mean nothing.

    python benchmarks/train_gpu.py [--steps 10] [--layers 8] [--stack-rows 2] [--rows 4] [--no-compile]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command_line, spread, write_result

from herdbook.model.config import ModelConfig, preset
from herdbook.model.documents import Documents
from herdbook.model.transformer import Transformer
from herdbook.tokens.batches import Batch
from herdbook.train.alone import alone, compile_block
from herdbook.train.devices import GIB, here
from herdbook.train.machine import measured_peak, own_device
from herdbook.train.memory import Load, needed
from herdbook.train.objective import NextToken
from herdbook.train.optimizer import Optimizers, scale_gradients
from herdbook.train.phases import Plan
from herdbook.train.settings import TrainSettings

RESULT = RESULTS / "train_gpu.json"
WARM_UP = 3
AIMS = {"stack": 575e12, "1b": 535e12}  # causal FLOPs per second on an H200, rows that are one document
MEMORY_AIM = 0.05
MEAN_DOCUMENT = 1024
TINY: dict[str, Any] = {"dim": 64, "heads": 4, "kv_heads": 2, "ffn_dim": 176, "vocab_size": 512}


def document_ids(rows: int, length: int, packed: bool) -> torch.Tensor:
    """(rows, length) int32: one document a row, or documents of geometric lengths as packing leaves them."""
    if not packed:
        return torch.zeros(rows, length, dtype=torch.int32)
    draw = torch.rand(rows, length, generator=torch.Generator().manual_seed(0))
    return (draw < 1 / min(MEAN_DOCUMENT, length // 4)).cumsum(1).int()


def timed(step: Callable[[], None], steps: int, device: torch.device) -> list[float]:
    """Seconds of each step after the warm-up, in which blocks are compiled."""
    for _ in range(WARM_UP):
        step()
    seconds = []
    for _ in range(steps):
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _forget(device: torch.device) -> None:
    if device.type != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def stack(options: argparse.Namespace, device: torch.device, packed: bool) -> dict[str, Any]:
    """Blocks of the 8B shape, forward and backward, gradients added up in fp32."""
    cpu = device.type == "cpu"
    rows, length = (1, 64) if cpu else (options.stack_rows, 8192)
    layers = 2 if cpu else options.layers
    config = preset("llama3-8b").model_copy(update={"layers": layers, **(TINY if cpu else {})})
    model = Transformer(config.model_copy(update={"vocab_size": 8})).to(device)  # neither embedding nor head is used
    for block in model.blocks:
        if options.compile and not cpu:
            compile_block(block)
    documents = Documents.from_ids(document_ids(rows, length, packed).to(device))
    rotation = model.rope.rotation(documents.positions)
    stream = torch.randn(rows, length, config.dim, device=device, requires_grad=True)
    pull = torch.randn(rows, length, config.dim, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            x = stream
            for block in model.blocks:
                x = block(x, rotation, documents)
        x.backward(pull)
        model.zero_grad()
        stream.grad = None

    _forget(device)
    seconds = timed(step, options.steps, device)
    weights = config.matmul_parameters() - config.dim * config.vocab_size
    attended = 12 * config.layers * config.heads * config.head_width * documents.mean_attended
    flops = rows * length * (6 * weights + attended)
    return figures(config, rows, length, documents, flops, seconds)


def one_billion(options: argparse.Namespace, device: torch.device, packed: bool) -> dict[str, Any]:
    """Whole steps of Llama 3.2 1B's shape, and the memory they take beside what is reckoned."""
    cpu = device.type == "cpu"
    rows, length = (1, 64) if cpu else (options.rows, 4096)
    config = preset("llama3.2-1b").model_copy(update={"layers": 2, **TINY} if cpu else {})
    given = {"steps": 1000, "rows": rows, "length": length, "optimizer": "adamw", "precision": "bf16", "warmup": 0}
    settings = TrainSettings.model_validate({**given, "compile": options.compile and not cpu})
    _forget(device)
    with torch.device(device):
        model = Transformer(config)
    alone(model, settings)
    optimizers, objective = Optimizers(model, settings, torch.bfloat16), NextToken()
    optimizers.set_step(0)
    ids = document_ids(rows, length, packed)
    tokens = torch.randint(0, config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(1))
    targets = torch.full_like(tokens, -100)
    same = ids[:, 1:] == ids[:, :-1]
    targets[:, :-1][same] = tokens[:, 1:][same]
    batch = Batch(tokens, targets, ids).to(device)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = objective(model, batch)
        loss.total.backward()
        scale_gradients(optimizers.weights, loss.count, 1.0)
        optimizers.step()
        optimizers.zero_grad()

    seconds = timed(step, options.steps, device)
    documents = Documents.from_ids(ids)
    found = figures(
        config, rows, length, documents, rows * length * config.flops_per_token(documents.mean_attended), seconds
    )
    reckoned = needed(Load.of(settings, config, Plan.of(settings).parts[0], cpu)).total
    taken = None if cpu else torch.cuda.max_memory_allocated()
    ratio = None if taken is None else reckoned / taken
    return {**found, "memory": {"reckoned_gib": reckoned / GIB, "taken_gib": taken and taken / GIB, "ratio": ratio}}


def figures(
    config: ModelConfig, rows: int, length: int, documents: Documents, flops: float, seconds: list[float]
) -> dict[str, Any]:
    """What every case tells."""
    return {
        "layers": config.layers,
        "dim": config.dim,
        "rows": rows,
        "length": length,
        "documents": len(documents.lengths),
        "mean_attended": documents.mean_attended,
        "flops_a_step": flops,
        "seconds": spread(seconds),
        "tokens_per_second": rows * length / statistics.median(seconds),
        "causal_tflops": spread([flops / value / 1e12 for value in seconds]),
        "n": len(seconds),
    }


def main() -> None:
    """Measure, print, and write the result where a GPU was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each case")
    parser.add_argument("--layers", type=int, default=8, help="layers of the 8B stack")
    parser.add_argument("--stack-rows", type=int, default=2, help="rows of 8,192 tokens through the stack")
    parser.add_argument("--rows", type=int, default=4, help="rows of 4,096 tokens of a 1B step")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the blocks")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written; on a CPU nowhere")
    options = parser.parse_args()
    device = own_device()
    known = here(1)
    peak = known.peak if device.type != "cpu" and known.peak else measured_peak(torch.bfloat16, device)
    name = torch.cuda.get_device_name() if device.type != "cpu" else "cpu"
    result: dict[str, Any] = {"command": command_line(), "device": name, "torch": torch.__version__, "cases": {}}
    result |= {"compiled": options.compile and device.type != "cpu", "peak_tflops": peak / 1e12}
    for case, run in (("stack", stack), ("1b", one_billion)):
        for packed in (False, True):
            found = run(options, device, packed)
            result["cases"][f"{case}{' packed' if packed else ''}"] = found
            speed, aim = found["causal_tflops"]["median"], AIMS[case] / 1e12
            said = f"{case:6} {'packed' if packed else 'whole rows':10} {speed:9.3g} causal TFLOPs"
            said += f"  MFU {100 * speed * 1e12 / peak:5.1f} %  n={found['n']}"
            print(said + ("" if packed else f"  aim {aim:.0f}"), flush=True)
            if found.get("memory", {}).get("ratio"):
                print(f"       memory reckoned / taken {found['memory']['ratio']:.3f}, aim within {MEMORY_AIM:.0%}")
    if device.type == "cpu":
        print("a CPU and tiny shapes: these are not the figures; run it on a GPU")
    else:
        write_result(options.out, result)


if __name__ == "__main__":
    main()
