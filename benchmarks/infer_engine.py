"""Generation on a CPU beside transformers: tokens a second at batch 1 and 16, rejection sampling, memory of the cache.

Both run the same randomly drawn Llama (512 wide, 8 layers, vocabulary 32,000, 56M parameters; `--small` for rejection
sampling) in the same type, in one process with the same threads, taking turns; each figure is a ratio within a turn.
transformers' generate writes to a preallocated StaticCache or its default one, and the faster one counts.

    python benchmarks/infer_engine.py [--repeats 5] [--threads 2] [--dtype bfloat16] [--part decode|sample|memory]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command_line, machine, print_table, spread, versions, write_result

from herdbook.inference.engine import Engine, Sampling
from herdbook.model.cache import BLOCK, KVPool
from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import save_model
from herdbook.model.transformer import Transformer
from herdbook.tokens.tokenizer import Tokenizer, special_names

RESULT = RESULTS / "infer_engine.json"
CONFIG = ModelConfig(
    vocab_size=32_000, dim=512, layers=8, heads=8, kv_heads=8, ffn_dim=1376, max_length=2048, rope_theta=10_000.0
)
SMALL = ModelConfig(
    vocab_size=4096, dim=256, layers=6, heads=4, kv_heads=2, ffn_dim=704, max_length=2048, tied_embeddings=True
)
PROMPT, ANSWER = 32, 128
QUESTIONS, ANSWERS, WORDS = 200, 16, 48


def tokenizer_of(vocabulary: int) -> Tokenizer:
    """Enough of a tokenizer for a model of random weights: bytes, then pairs of bytes."""
    names = special_names(256)
    ranks = {bytes([value]): value for value in range(256)}
    for number in range(vocabulary - len(names) - 256):
        ranks[bytes([number // 256, number % 256])] = len(ranks)
    return Tokenizer(ranks, names)


def model_of(config: ModelConfig, dtype: torch.dtype) -> Transformer:
    """A model of random weights."""
    model = Transformer(config)
    model.initialize(0)
    return model.to(dtype).eval()


def peer_of(model: Transformer) -> Any:
    """transformers' model with the same weights."""
    from transformers import LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder), bos_id=None, eos_ids=[])
        return LlamaForCausalLM.from_pretrained(folder, dtype=model.embedding.weight.dtype).eval()


def prompts_of(count: int, length: int, vocabulary: int) -> list[list[int]]:
    """Random prompts."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, vocabulary - 300, (count, length), generator=generator).tolist()


def peer_generate(peer: Any, prompts: list[list[int]], tokens: int, **options: Any) -> Any:
    """transformers' generate over prompts of one length, without an end."""
    ids = torch.tensor(prompts)
    with torch.inference_mode():
        return peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            eos_token_id=None,
            pad_token_id=0,
            **options,
        )


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
clock = CLOCKS["wall"]


def seconds(work: Callable[..., Any], *args: Any, **options: Any) -> float:
    """Seconds of a call by the clock chosen."""
    start = clock()
    work(*args, **options)
    return clock() - start


def decode(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, Any]:
    """Greedy answers of 128 tokens behind prompts of 32, batch 1 and 16."""
    model = model_of(CONFIG, dtype)
    engine, peer = Engine(model, tokenizer_of(CONFIG.vocab_size), []), peer_of(model)
    sampling = Sampling(max_tokens=ANSWER, ignore_end=True)
    contenders: dict[str, Callable[[list[list[int]]], Any]] = {
        "herdbook": partial(engine.generate, sampling=sampling),
        "transformers": partial(peer_generate, peer, tokens=ANSWER, do_sample=False),
        "transformers static": partial(
            peer_generate, peer, tokens=ANSWER, do_sample=False, cache_implementation="static", disable_compile=True
        ),
    }
    out: dict[str, Any] = {}
    for batch in (1, 16):
        prompts = prompts_of(batch, PROMPT, CONFIG.vocab_size)
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(args.repeats + 1):
            for name, work in contenders.items():
                engine.scheduler.blocks.forget()  # prompts are read each time
                rate = batch * ANSWER / seconds(work, prompts)
                if turn:  # the first turn warms up
                    rates[name].append(rate)
            print(f"  batch {batch}, turn {turn}", file=sys.stderr)
        best = [max(pair) for pair in zip(rates["transformers"], rates["transformers static"], strict=True)]
        out[f"batch {batch}"] = {
            "tokens_per_second": {name: spread(values) for name, values in rates.items()},
            "ratio": spread([ours / other for ours, other in zip(rates["herdbook"], best, strict=True)]),
        }
    return out


def sample(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, Any]:
    """Sixteen answers to each of 200 prompts at temperature 1, a small model; transformers at its best batch size.

    Prompts are of one length, which spares transformers its padding. Answers are all of the same length too. A part
    of the prompts tells transformers' rate; the whole would take minutes.
    """
    model = model_of(SMALL, dtype)
    engine, peer = Engine(model, tokenizer_of(SMALL.vocab_size), [], rows=args.rows), peer_of(model)
    prompts = prompts_of(QUESTIONS, 64, SMALL.vocab_size)
    sampling = Sampling(max_tokens=WORDS, temperature=1.0, ignore_end=True)
    theirs = partial(
        peer_generate, peer, tokens=WORDS, do_sample=True, temperature=1.0, top_k=0, num_return_sequences=ANSWERS
    )
    looks = {size: seconds(theirs, prompts[: size // ANSWERS]) / (size // ANSWERS) for size in (32, 64, 256)}
    best = min(looks, key=looks.__getitem__) // ANSWERS
    rates: dict[str, list[float]] = {"herdbook": [], "transformers": []}
    part = prompts[: max(args.peer_prompts, best)]
    for _ in range(args.repeats):
        engine.scheduler.blocks.forget()
        asked = [prompt for prompt in prompts for _ in range(ANSWERS)]
        rates["herdbook"].append(len(asked) * WORDS / seconds(engine.generate, asked, sampling))
        took = sum(seconds(theirs, part[start : start + best]) for start in range(0, len(part), best))
        rates["transformers"].append(len(part) * ANSWERS * WORDS / took)
    return {
        "prompts": QUESTIONS,
        "answers": ANSWERS,
        "tokens_each": WORDS,
        "transformers_batch": best * ANSWERS,
        "transformers_seconds_per_prompt_by_batch": looks,
        "tokens_per_second": {name: spread(values) for name, values in rates.items()},
        "ratio": spread([ours / other for ours, other in zip(*rates.values(), strict=True)]),
    }


def memory(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, Any]:
    """How many sequences run at once in the memory of 16 contiguous rows of the model's context; n answers a prompt.

    Lengths are drawn evenly up to the context, as a contiguous cache must reserve it, four answers to each prompt.
    """
    config = SMALL.model_copy(update={"max_length": 512})
    rows = 16
    contiguous = rows * config.max_length // BLOCK * KVPool.block_bytes(config, dtype)
    engine = Engine(model_of(config, dtype), tokenizer_of(config.vocab_size), [], rows=512, cache_bytes=contiguous)
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(16, config.max_length - 32, (60,), generator=generator).tolist()
    for number, length in enumerate(lengths):
        prompt = prompts_of(number + 1, length, config.vocab_size)[-1]
        for answer in range(args.answers):
            engine.submit(prompt, Sampling(max_tokens=config.max_length, ignore_end=True), number=answer)
    running, steps = [], 0
    while engine.step():
        if engine.workload.waiting and steps > 5:
            running.append(engine.workload.running)
        steps += 1
        if steps > args.steps:
            break
    return {
        "cache_bytes": contiguous,
        "contiguous_rows": rows,
        "answers_per_prompt": args.answers,
        "running": spread(running),
        "mean_running": statistics.mean(running),
        "ratio": statistics.mean(running) / rows,
        "preemptions": engine.scheduler.preemptions,
        "steps": steps,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="turns that count")
    parser.add_argument("--threads", type=int, default=2, help="threads of both")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16 or float32")
    parser.add_argument("--rows", type=int, default=128, help="answers that herdbook writes at once when sampling")
    parser.add_argument("--peer-prompts", type=int, default=16, help="prompts that transformers samples for each turn")
    parser.add_argument("--answers", type=int, default=4, help="answers to each prompt when memory is compared")
    parser.add_argument("--steps", type=int, default=400, help="steps of the memory comparison")
    parser.add_argument("--part", choices=["decode", "sample", "memory"], action="append", help="all when not given")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="processor: beside other jobs, one thread"
    )
    args = parser.parse_args()
    global clock
    clock = CLOCKS[args.clock]
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    result: dict[str, Any] = {"command": command_line(), "machine": machine(), "dtype": args.dtype}
    result |= {"threads": args.threads, "clock": args.clock}
    result["versions"] = versions(sys.executable, ["torch", "transformers"])
    for part in args.part or ["decode", "sample", "memory"]:
        result[part] = {"decode": decode, "sample": sample, "memory": memory}[part](args, dtype)
    rows = []
    for batch, figures in result.get("decode", {}).items():
        for name, rate in figures["tokens_per_second"].items():
            rows.append([f"{batch}, {name}", *(f"{rate[key]:.0f}" for key in ("min", "median", "max")), ""])
        rows[-1][-1] = f"{figures['ratio']['median']:.1f} x"
    if "sample" in result:
        for name, rate in result["sample"]["tokens_per_second"].items():
            rows.append([f"sampling, {name}", *(f"{rate[key]:.0f}" for key in ("min", "median", "max")), ""])
        rows[-1][-1] = f"{result['sample']['ratio']['median']:.1f} x"
    print_table(["tokens/s", "least", "median", "most", "ratio"], rows)
    if "memory" in result:
        print(f"sequences in the same memory: {result['memory']['ratio']:.1f} x contiguous")
    write_result(args.out, result)


if __name__ == "__main__":
    main()
