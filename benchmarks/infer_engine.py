"""Generation on a CPU beside transformers and llama.cpp: tokens a second, rejection sampling, memory of the cache.

All run the same randomly drawn Llama in turns, with the same threads; each figure is a ratio within a turn.
transformers' generate writes to a preallocated StaticCache or its default one, and the faster one counts. llama.cpp
takes part where it is there (infer_peers.py). Parts:
- decode: 56M parameters (512 wide, 8 layers, vocabulary 32,000), answers of 128 tokens behind prompts of 32, batch 1
  and 16; prompts of 512 tokens alone, one and four at once;
- sample: sixteen answers to each of 200 prompts, a small model; memory: sequences in the same cache;
- large (only when named): 1.1B parameters in TinyLlama's shape; bfloat16 beside transformers and F16, 8 bits beside
  Q8_0, 4 bits (groups of 128) beside Q4_0 (of 32); decode steps alone, and their share of the memory's speed.

    python benchmarks/infer_engine.py [--repeats 5] [--threads 2] [--dtype bfloat16] [--part decode …]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command_line, machine, print_table, spread, versions, write_result
from infer_peers import (
    CLOCKS,
    LlamaCpp,
    Ours,
    Transformers,
    generate,
    interleave,
    llama_python,
    model_of,
    peer_of,
    prompts_of,
    read_rate,
    save_for_llama,
    tokenizer_of,
)
from infer_quantise import SHAPE, random_model

from herdbook.files import read_json
from herdbook.inference.engine import Engine, Sampling
from herdbook.model.cache import BLOCK, KVPool
from herdbook.model.config import ModelConfig
from herdbook.model.transformer import Transformer

RESULT = RESULTS / "infer_engine.json"
CONFIG = ModelConfig(
    vocab_size=32_000, dim=512, layers=8, heads=8, kv_heads=8, ffn_dim=1376, max_length=2048, rope_theta=10_000.0
)
SMALL = ModelConfig(
    vocab_size=4096, dim=256, layers=6, heads=4, kv_heads=2, ffn_dim=704, max_length=2048, tied_embeddings=True
)
PROMPT, ANSWER = 32, 128
QUESTIONS, ANSWERS, WORDS = 200, 16, 48
LARGE_PROMPT, LARGE_ANSWER = 8, 17
KINDS = {  # of the large model: our scheme, and what of llama.cpp's it stands beside
    "bf16": (None, "F16"),
    "int8": ("int8", "Q8_0"),
    "int8_dynamic": ("int8_dynamic", "Q8_0"),  # activations are rounded as llama.cpp rounds them, but per token
    "int4": ("int4", "Q4_0"),
}
clock = CLOCKS["wall"]


def seconds(work: Callable[..., Any], *args: Any, **options: Any) -> float:
    """Seconds of a call by the clock chosen."""
    start = clock()
    work(*args, **options)
    return clock() - start


def compared(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Tokens a second of each, and how many times as fast as each peer ours is, turn by turn."""
    ours, theirs = rates["herdbook"], {name: values for name, values in rates.items() if name != "herdbook"}
    both = [name for name in theirs if name.startswith("transformers")]
    groups = {name: [theirs[name]] for name in theirs if name not in both}
    if both:
        groups["transformers"] = [theirs[name] for name in both]
    return {
        "tokens_per_second": {name: spread(values) for name, values in rates.items()},
        "ratio": {
            name: spread([mine / max(others) for mine, *others in zip(ours, *columns, strict=True)])
            for name, columns in groups.items()
        },
    }


@contextmanager
def contenders_of(model: Transformer, args: argparse.Namespace, kind: str | None = "F16") -> Iterator[dict[str, Any]]:
    """The engine, transformers with both of its caches, and llama.cpp where it is there."""
    peer = peer_of(model)
    found: dict[str, Any] = {
        "herdbook": Ours(model, args.clock),
        "transformers": Transformers(peer, args.clock),
        "transformers static": Transformers(peer, args.clock, cache_implementation="static", disable_compile=True),
    }
    with tempfile.TemporaryDirectory() as folder:
        if kind and llama_python():
            save_for_llama(model, Path(folder))
            found[f"llama.cpp {kind}"] = LlamaCpp(Path(folder), kind, args.threads, args.clock)
        try:
            yield found
        finally:
            for contender in found.values():
                if isinstance(contender, LlamaCpp):
                    contender.close()


def decode(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, Any]:
    """Greedy answers of 128 tokens behind prompts of 32, batch 1 and 16; then prompts of 512 alone."""
    out: dict[str, Any] = {}
    with contenders_of(model_of(CONFIG, dtype), args) as contenders:
        works = {f"batch {batch}": (batch, PROMPT, ANSWER) for batch in (1, 16)}
        works |= {f"reading {batch} x 512": (batch, 512, 1) for batch in (1, 4)}
        for name, (batch, length, tokens) in works.items():
            prompts = prompts_of(batch, length, CONFIG.vocab_size)
            took = interleave(contenders, [(prompts, tokens)], args.repeats)
            counted = batch * (tokens if tokens > 1 else length)
            out[name] = compared({peer: [counted / turn[0] for turn in turns] for peer, turns in took.items()})
            print(f"  {name}: {out[name]['ratio']}", file=sys.stderr)
            llama = contenders.get("llama.cpp F16")
            if llama and tokens > 1:
                same = zip(llama.ids, contenders["herdbook"].ids, strict=True)
                out[name]["answers_begin_as_llama_cpps"] = statistics.mean(a[:8] == b[:8] for a, b in same)
    return out


def large(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, Any]:
    """Decode steps of 1.1B parameters: the time of 17 tokens less that of the first, over 16 tokens."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        if llama_python() and not (folder / "config.json").is_file():
            save_for_llama(random_model(None, args.layers, False), folder)
        if llama_python() and read_json(folder / "config.json")["num_hidden_layers"] != args.layers:
            sys.exit(f"{folder} holds another model than one of {args.layers} layers; name another folder")
        for name, (scheme, kind) in KINDS.items():
            if args.kinds and name not in args.kinds:
                continue
            model = random_model(scheme, args.layers, scheme is not None)
            contenders: dict[str, Any] = {"herdbook": Ours(model, args.clock)}
            if scheme is None:
                contenders["transformers"] = Transformers(peer_of(model), args.clock)
            if llama_python():
                contenders[f"llama.cpp {kind}"] = LlamaCpp(folder, kind, args.threads, args.clock)
            held = [
                t.nbytes for part in model.children() if part is not model.embedding for t in part.state_dict().values()
            ]
            out[name] = large_rates(contenders, sum(held), args)
            if llama_python():
                contenders[f"llama.cpp {kind}"].close()
            del model, contenders
            gc.collect()
    return out


def large_rates(contenders: dict[str, Any], held: int, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second at batch 1 and 16, and the share of the memory's speed at batch 1."""
    rate = read_rate(args.threads)
    out: dict[str, Any] = {"bytes_a_step": held, "read_bytes_per_second": rate}
    for batch in (1, 16):
        prompts = prompts_of(batch, LARGE_PROMPT, SHAPE["vocab_size"])
        took = interleave(contenders, [(prompts, 1), (prompts, LARGE_ANSWER)], args.repeats)
        steps = batch * (LARGE_ANSWER - 1)
        rates = {name: [steps / (whole - first) for first, whole in turns] for name, turns in took.items()}
        out[f"batch {batch}"] = compared(rates)
        print(f"  batch {batch}: {out[f'batch {batch}']['tokens_per_second']}", file=sys.stderr)
    out["of_memory_speed"] = out["batch 1"]["tokens_per_second"]["herdbook"]["median"] * held / rate
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
        generate, peer, tokens=WORDS, do_sample=True, temperature=1.0, top_k=0, num_return_sequences=ANSWERS
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
        **compared(rates),
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


PARTS = {"decode": decode, "sample": sample, "memory": memory, "large": large}


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
    parser.add_argument("--part", choices=list(PARTS), action="append", help="all but large when not given")
    parser.add_argument("--layers", type=int, default=22, help="layers of the large model")
    parser.add_argument("--kinds", choices=list(KINDS), action="append", help="of the large model; all")
    parser.add_argument("--keep", type=Path, help="folder where the large model's files for llama.cpp stay")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="processor: beside others, one thread")
    args = parser.parse_args()
    global clock
    clock = CLOCKS[args.clock]
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    result: dict[str, Any] = {"command": command_line(), "machine": machine(), "dtype": args.dtype}
    result |= {"threads": args.threads, "clock": args.clock}
    result["versions"] = versions(sys.executable, ["torch", "transformers"])
    if python := llama_python():
        result["versions"] |= versions(python, ["llama-cpp-python", "gguf"])
    for part in args.part or ["decode", "sample", "memory"]:
        result[part] = PARTS[part](args, dtype)
    show(result)
    write_result(args.out, result)


def show(result: dict[str, Any]) -> None:
    """Print the figures as one table."""
    compared_ones = dict(result.get("decode", {}))
    compared_ones |= {"sampling": result["sample"]} if "sample" in result else {}
    for kind, batches in result.get("large", {}).items():
        compared_ones |= {f"1.1B {kind}, {name}": found for name, found in batches.items() if name[:5] == "batch"}
    rows = []
    for name, found in compared_ones.items():
        for contender, rate in found["tokens_per_second"].items():
            ratio = found["ratio"].get(contender)
            shown = f"{ratio['median']:.2f} x ({ratio['min']:.2f} – {ratio['max']:.2f})" if ratio else ""
            rows.append([f"{name}, {contender}", *(f"{rate[key]:.1f}" for key in ("min", "median", "max")), shown])
    print_table(["tokens/s", "least", "median", "most", "ratio"], rows)
    if "memory" in result:
        print(f"sequences in the same memory: {result['memory']['ratio']:.1f} x contiguous")
    if "large" in result:
        for kind, found in result["large"].items():
            print(
                f"{kind}: batch 1 is {found['of_memory_speed']:.0%} of {found['read_bytes_per_second'] / 1e9:.1f} GB/s"
            )


if __name__ == "__main__":
    main()
