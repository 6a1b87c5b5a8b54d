"""One model on several processes beside the same on one: are answers and likelihoods the same?

200 prompts (drawn tokens, 1 to 64 of them), greedy answers of 24 tokens with their log-probabilities, in float32, by
each layout; the single process runs the model's own modules. A trained model says more than a drawn one, since its
likeliest tokens are seldom close together. Ranks are started as the commands start them, with gloo.

    python benchmarks/infer_ranks.py MODEL [--prompts 200]
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command_line, machine, print_table, versions, write_result

from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.layout import Layout

LAYOUTS: dict[str, dict[str, int]] = {
    "tensor 2": {"tensor_parallel": 2},
    "pipeline 2, micro-batches 1": {"pipeline_parallel": 2, "micro_batches": 1},
    "pipeline 2, micro-batches 4": {"pipeline_parallel": 2, "micro_batches": 4},
    "tensor 2 x pipeline 2": {"tensor_parallel": 2, "pipeline_parallel": 2},
}


def answers(folder: Path, prompts: list[list[int]], layout: Layout, tokens: int) -> tuple[list[Any], list[float]]:
    """Greedy completions, and log-probabilities of each prompt's last half after its first."""
    engine = Engine.load(folder, device="cpu", dtype=torch.float32, rows=32, compile="no", layout=layout)
    try:
        found = engine.generate(prompts, Sampling(max_tokens=tokens, logprobs=0, ignore_end=True))
        halves = [(prompt[: (len(prompt) + 1) // 2], prompt[(len(prompt) + 1) // 2 :]) for prompt in prompts]
        scores = engine.score([first for first, _ in halves], [rest for _, rest in halves])
        return found, [score.logprob / max(1, score.tokens) for score in scores]
    finally:
        engine.close()


def main() -> None:
    """Run all layouts and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--out", type=Path, default=RESULTS / "infer_ranks.json")
    options = parser.parse_args()
    chance, engine = random.Random(0), Engine.load(options.model, device="cpu", compile="no")
    words, begin, parameters = sorted(engine.words), engine.tokenizer.bos_id, engine.config.parameters()
    prompts = [[begin, *chance.choices(words, k=chance.randrange(64))] for _ in range(options.prompts)]
    want, likely = answers(options.model, prompts, Layout(), options.tokens)
    results: dict[str, Any] = {}
    for name, layout in LAYOUTS.items():
        got, scores = answers(options.model, prompts, Layout(**layout), options.tokens)
        same = [one for one in zip(got, want, strict=True) if one[0].token_ids == one[1].token_ids]
        apart = [
            abs(mine.logprob - theirs.logprob)
            for one, other in same
            for mine, theirs in zip(one.logprobs, other.logprobs, strict=True)
        ]
        results[name] = {
            "equal_answers": len(same),
            "prompts": len(prompts),
            "tokens": len(apart),
            "largest_logprob_difference": max(apart),
            "largest_score_difference_per_token": max(abs(a - b) for a, b in zip(scores, likely, strict=True)),
        }
    print_table(
        ("layout", "equal answers", "of", "logprobs apart", "scores apart"),
        [
            (
                name,
                str(one["equal_answers"]),
                str(one["prompts"]),
                f"{one['largest_logprob_difference']:.1e}",
                f"{one['largest_score_difference_per_token']:.1e}",
            )
            for name, one in results.items()
        ],
    )
    told = {"parameters": parameters, "layouts": results}
    about = {"command": command_line(), "machine": machine(), "versions": versions(sys.executable, ["torch"])}
    write_result(options.out, {**about, **told})


if __name__ == "__main__":
    main()
