"""What fewer bits buy on a CPU: bytes and tokens a second of a 1.1B-shaped Llama in bf16, int8 and int4.

Weights are drawn at random, since speed does not ask for sense; the shape is TinyLlama's (22 layers of 2,048, feed-
forward 5,632, 32 and 4 heads, vocabulary 32,000). All models stand in memory at once and take turns, one answer or
sixteen at a time, after prompts of 8 tokens. The head is rounded too where `--head` says so, as llama.cpp does.
Beside it: single products at this model's shapes by torch's own kernels. Time is processor time of one thread, so that
other jobs disturb little (they still share the memory's bandwidth: `read_gb_per_second` is what was left of it).

    python benchmarks/infer_quantise.py [--layers 22] [--tokens 24] [--repeats 3] [--head]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import RESULTS, command_line, machine, print_table, spread, write_result
from torch import Tensor, nn

from herdbook.inference.engine import Engine, Sampling
from herdbook.model.config import ModelConfig
from herdbook.model.quantized import SCHEMES
from herdbook.model.rounded import rounded_linear
from herdbook.model.transformer import Transformer
from herdbook.tokens.tokenizer import Tokenizer

RESULT = RESULTS / "infer_quantise.json"
SHAPE = {"vocab_size": 32_000, "dim": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "ffn_dim": 5632}
MATRICES = {
    "2048x2048": (2048, 2048),
    "5632x2048": (5632, 2048),
    "2048x5632": (2048, 5632),
    "32000x2048": (32_000, 2048),
}
COLD = 200e6  # bytes of copies that a product goes through, so that weights come from memory


@cache
def whole_numbers(shape: tuple[int, int], end: int) -> Tensor:
    """Random numbers of a rounded matrix."""
    return torch.randint(-end, end, shape, dtype=torch.int8)


def random_model(scheme: str | None, layers: int, head: bool) -> Transformer:
    """A model of the shape with random weights of a likely size, its matrices rounded by a scheme."""
    with torch.device("meta"):
        model = Transformer(ModelConfig(**{**SHAPE, "layers": layers}, max_length=2048))
    for name, weight in list(model.named_parameters()):
        module, _, leaf = name.rpartition(".")
        owner = model.get_submodule(module)
        setattr(owner, leaf, nn.Parameter(drawn(weight.shape).clone(), requires_grad=False))
    if scheme is None:
        return model
    chosen = SCHEMES[scheme] if scheme != "int4" else replace(SCHEMES["int4"], group=128)
    end = 2 ** (chosen.bits - 1)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and (head or name != "head"):
            shape = (module.out_features, module.in_features)
            values = whole_numbers(shape, end).clone()  # layers are alike: drawing a billion numbers takes long
            scale = torch.full((shape[0], chosen.groups(shape[1])), shape[1] ** -0.5 / end, dtype=torch.bfloat16)
            model.set_submodule(name, rounded_linear(values, scale, chosen, torch.bfloat16))
    return model


@cache
def drawn(shape: torch.Size) -> Tensor:
    """Weights of mean square 1 / inputs; norms of 1."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).uniform_(-1, 1).mul_((3 / shape[1]) ** 0.5)


def decode_rate(engine: Engine, answers: int, tokens: int) -> float:
    """Tokens per processor second, the reading of the prompts not counted."""
    sampling = Sampling(max_tokens=tokens, ignore_end=True)
    requests = [engine.submit([1 + number, *range(2, 9)], sampling) for number in range(answers)]
    while any(not request.ids for request in requests):
        engine.step()
    before, start = sum(len(request.ids) for request in requests), time.process_time()
    while any(request.finish is None for request in requests):
        engine.step()
    return (sum(len(request.ids) for request in requests) - before) / (time.process_time() - start)


def seconds(product: Callable[[Any], Any], weights: list[Any], least: float = 0.1) -> float:
    """Median processor seconds of a product over copies of its weights, in rounds until `least` seconds have passed."""
    product(weights[0])
    rounds: list[float] = []
    while sum(rounds) < least:
        start = time.process_time()
        for weight in weights:
            product(weight)
        rounds.append(time.process_time() - start)
    return sorted(rounds)[len(rounds) // 2] / len(weights)


def products(shape: tuple[int, int], tokens: int) -> dict[str, tuple[float, float]]:
    """Seconds of each kernel, and the bytes of weights it reads."""
    outputs, inputs = shape
    size = outputs * inputs
    x = torch.randn(tokens, inputs, dtype=torch.bfloat16)
    whole = [torch.randint(-128, 128, shape, dtype=torch.int8) for _ in range(max(2, int(COLD / size)))]
    scale = torch.full((outputs,), 1e-3, dtype=torch.bfloat16)
    dense = [matrix.bfloat16() for matrix in whole[: len(whole) // 2 + 1]]
    found = {"bf16 dense": (seconds(lambda w: F.linear(x, w), dense), 2.0 * size)}
    del dense
    found["int8 _weight_int8pack_mm"] = (seconds(lambda w: torch._weight_int8pack_mm(x, w, scale), whole), size)
    rounded = torch.randint(-128, 128, (tokens, inputs), dtype=torch.int8)
    found["int8 _int_mm"] = (seconds(lambda w: torch._int_mm(rounded, w.t()), whole), size)
    tiles = [torch.ops.aten._convert_weight_to_int4pack_for_cpu((w & 15).int(), 1) for w in whole]
    pairs = torch.full((inputs // 128, outputs, 2), 1e-3, dtype=torch.bfloat16)
    four = torch.ops.aten._weight_int4pack_mm_for_cpu
    found["int4 _weight_int4pack_mm_for_cpu"] = (seconds(lambda w: four(x, w, 128, pairs), tiles), size / 2)
    return found


def read_rate() -> float:
    """Bytes a second at which this process reads memory: the best of several sums over 400 MB."""
    numbers = torch.ones(100_000_000)
    return numbers.nbytes / min(seconds(lambda w: w.sum(), [numbers], 0.1) for _ in range(5))


def single_products(rate: float) -> dict[str, Any]:
    """Microseconds of each kernel for each matrix and 1 or 16 tokens, and its share of the rate of reading."""
    found = {
        f"{name} x {tokens}": {
            kernel: {"us": 1e6 * took, "of_read_rate": size / took / rate}
            for kernel, (took, size) in products(shape, tokens).items()
        }
        for name, shape in MATRICES.items()
        for tokens in (1, 16)
    }
    for name, kernels in found.items():
        print(name, *(f"{k}: {v['us']:.0f} us {v['of_read_rate']:.0%}" for k, v in kernels.items()), sep="\n  ")
    return found


def decoding(options: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Bytes and tokens a second of each model, which take turns."""
    tokenizer = Tokenizer({bytes([value]): value for value in range(256)})
    engines: dict[str, Engine] = {}
    for name in (None, "int8", "int4", "int8_dynamic"):
        model = random_model(name, options.layers, options.head)
        engines[name or "bf16"] = Engine(model, tokenizer, [], rows=16, cache_bytes=1 << 28)
        print(f"made {name or 'bf16'}", file=sys.stderr)
    rates: dict[str, dict[int, list[float]]] = {name: {1: [], 16: []} for name in engines}
    for _ in range(options.repeats):
        for answers in (1, 16):
            for name, engine in engines.items():
                rates[name][answers].append(decode_rate(engine, answers, options.tokens))
    looked_up = engines["bf16"].model.embedding.weight.nbytes  # a step reads a row of it, not all
    found = {}
    for name, engine in engines.items():
        size = sum(t.nbytes for t in (*engine.model.parameters(), *engine.model.buffers()))
        told = {f"tokens_per_second_{n}": spread(values) for n, values in rates[name].items()}
        share = told["tokens_per_second_1"]["median"] * (size - looked_up) / rate
        found[name] = {"bytes": size, **told, "of_read_rate_1": share}
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=SHAPE["layers"])
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--head", action="store_true", help="round the head too")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rate = read_rate()
    single, decode = single_products(rate), decoding(options, rate)
    rows = []
    for name, found in decode.items():
        one, sixteen = (f"{found[f'tokens_per_second_{n}']['median']:.1f}" for n in (1, 16))
        rows.append((name, f"{found['bytes'] / 1e9:.2f}", one, sixteen, f"{found['of_read_rate_1']:.0%}"))
    print_table(("model", "GB", "batch 1", "batch 16", "of read rate"), rows)
    result = {
        "command": command_line(),
        "machine": machine(),
        "torch": torch.__version__,
        "threads": 1,
        "layers": options.layers,
        "head_rounded": options.head,
        "read_gb_per_second": rate / 1e9,
        "decode": decode,
        "products": single,
    }
    write_result(options.out, result)


if __name__ == "__main__":
    main()
