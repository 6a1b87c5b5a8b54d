"""Speculative decoding on a CPU beside plain decoding: tokens a second, guesses that were right, the same ids.

The model has random weights (1,024 wide, 12 layers, vocabulary 32,000; 201M parameters). Its layers behind the first
count little (`--later`), so that the first alone makes a draft which is often right; and its head gives weight to 256
tokens only, so that greedy answers soon go in circles, which is what n-grams are for. How often guesses were right is
printed, since all depends on it. At temperature 1 the draft draws with the same chance as the model, and n-grams have
nothing to go by: they show what wrong guesses cost.

    python benchmarks/infer_speculative.py [--repeats 5] [--threads 2] [--tokens 192] [--later 0.03]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command_line, machine, print_table, spread, write_result
from infer_peers import CLOCKS, model_of, prompts_of, tokenizer_of

from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.speculative import Draft, SpeculativeEngine
from herdbook.model.config import ModelConfig
from herdbook.model.transformer import Transformer

RESULT = RESULTS / "infer_speculative.json"
CONFIG = ModelConfig(
    vocab_size=32_000, dim=1024, layers=12, heads=16, kv_heads=4, ffn_dim=2816, max_length=2048, rope_theta=10_000.0
)
DRAFT_LAYERS, SPOKEN = 1, 256
DRAWN = {"greedy": 0.0, "temperature 1": 1.0}


def models(later: float) -> tuple[Transformer, Transformer]:
    """The model, and its first layers as a draft."""
    model = model_of(CONFIG, torch.bfloat16)
    with torch.no_grad():
        for block in list(model.blocks)[DRAFT_LAYERS:]:
            block.attention.output.weight.mul_(later)
            block.feed_forward.down.weight.mul_(later)
        model.head.weight[SPOKEN:] = 0
    draft = Transformer(CONFIG.model_copy(update={"layers": DRAFT_LAYERS})).to(torch.bfloat16).eval()
    wanted = draft.state_dict()
    draft.load_state_dict({name: weight for name, weight in model.state_dict().items() if name in wanted})
    return model, draft


def measure(engines: dict[str, Engine], batch: int, temperature: float, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each engine, taking turns; ends with an error when their answers differ."""
    clock = CLOCKS[args.clock]
    sampling = Sampling(max_tokens=args.tokens, temperature=temperature, ignore_end=True)
    prompts = prompts_of(batch, 32, CONFIG.vocab_size)
    rates: dict[str, list[float]] = {name: [] for name in engines}
    shares: dict[str, float] = {}
    for turn in range(args.repeats + 1):
        answers = {}
        for name, engine in engines.items():
            before = (engine.tried, engine.right) if isinstance(engine, SpeculativeEngine) else (0, 0)
            engine.scheduler.blocks.forget()
            start = clock()
            answers[name] = [answer.token_ids for answer in engine.generate(prompts, sampling)]
            rate = batch * args.tokens / (clock() - start)
            if isinstance(engine, SpeculativeEngine) and engine.tried > before[0]:
                shares[name] = (engine.right - before[1]) / (engine.tried - before[0])
            if turn:  # the first turn warms up
                rates[name].append(rate)
            if answers[name] != answers["plain"]:
                sys.exit(f"{name}: answers differ from plain ones")
    return {
        "tokens_per_second": {name: spread(values) for name, values in rates.items()},
        "guesses_right": shares,
        "ratio": {
            name: spread([one / plain for one, plain in zip(values, rates["plain"], strict=True)])
            for name, values in rates.items()
        },
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="turns that count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=192, help="tokens of an answer")
    parser.add_argument("--later", type=float, default=0.03, help="how much layers behind the draft's count")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="processor: beside others, one thread")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, draft = models(args.later)
    tokenizer = tokenizer_of(CONFIG.vocab_size)
    engines: dict[str, Engine] = {
        "plain": Engine(model, tokenizer, []),
        "n-grams": SpeculativeEngine(model, tokenizer, [], rows_guessed=8),
        "draft": SpeculativeEngine(model, tokenizer, [], guesser=Draft(Engine(draft, tokenizer, [])), rows_guessed=8),
    }
    found, rows = {}, []
    for drawn, temperature in DRAWN.items():
        for batch in (1, 4):
            name = f"{drawn}, batch {batch}"
            found[name] = measure(engines, batch, temperature, args)
            for engine, rate in found[name]["tokens_per_second"].items():
                right, ratio = found[name]["guesses_right"].get(engine), found[name]["ratio"][engine]
                shown = f"{ratio['median']:.2f} x ({ratio['min']:.2f} – {ratio['max']:.2f})"
                rows.append((f"{name}, {engine}", f"{rate['median']:.0f}", shown, f"{right:.0%}" if right else ""))
    print_table(("tokens/s", "median", "of plain", "guesses right"), rows)
    result = {"command": command_line(), "machine": machine(), "threads": args.threads, "clock": args.clock}
    write_result(args.out, result | {"later": args.later, "tokens": args.tokens, "found": found})


if __name__ == "__main__":
    main()
