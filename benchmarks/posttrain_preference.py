"""DPO's speed and memory beside TRL's DPOTrainer: the same tiny model, preferences, tokenizer, type and optimizer.

Both go once through the same pairs with AdamW, products in bf16 where the machine has them (fp32 else), one thread,
each contender a process of its own, their runs taking turns; steps have about the same number of pairs. What counts is
pairs per second of processor time, since we read a prompt once for both answers and TRL for each. Ours is the work of
the stage: the reference's likelihoods are found within that time, before the first step; TRL finds them in every step,
and holds two models for it. Data and model are read before; memory is what a process holds at most beyond its imports.

    python benchmarks/posttrain_preference.py [--repeats 5]
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import (
    RESULTS,
    command_line,
    interleaved,
    machine,
    options_parser,
    print_table,
    spread,
    versions,
    write_result,
)
from posttrain import AIM, LENGTH, ROWS, memory, timed, torch_bf16, word, write_inputs

from herdbook.posttrain.rows import write_rows
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.machine import prepare

RESULT = RESULTS / "posttrain_preference.json"
PAIRS = 160


def said(draw: random.Random, mean: float) -> str:
    """About `mean` words."""
    return "".join(word(draw) for _ in range(min(60, 1 + int(draw.expovariate(1 / mean))))).strip()


def write_pairs(folder: Path) -> None:
    """Preferences as long as short questions and answers."""
    draw, rows = random.Random(1), []
    for number in range(PAIRS):
        row: dict[str, Any] = {"id": str(number), "prompt": [{"role": "user", "content": said(draw, 25)}]}
        row |= {side: [{"role": "assistant", "content": said(draw, 20)}] for side in ("chosen", "rejected")}
        rows.append(row)
    write_rows(folder / "preferences" / "preferences.jsonl", rows)


def ours(folder: Path) -> dict[str, Any]:
    """The loop, as the stage `preference` runs it."""
    from herdbook.posttrain.answers import batches_of, longest_of, read_answers, resolved
    from herdbook.posttrain.preference import PreferenceObjective
    from herdbook.posttrain.preference_settings import PreferenceSettings
    from herdbook.posttrain.reference import with_reference
    from herdbook.train.loop import train
    from herdbook.train.tuning import begin

    prepare(1)
    imported = memory("VmRSS")
    settings = PreferenceSettings(
        epochs=1, rows=ROWS, length=LENGTH, warmup=2, threads=1, peak_lr=1e-4, checkpoint_every=0, tensorboard=False,
        precision="bf16" if torch_bf16() else "fp32", peak_flops=1e11, heldout=0.0, nll_weight=0.0,
        mask="none",
    )  # fmt: skip
    data = read_answers(settings, [folder], Tokenizer.load(folder / "model"))
    batches = batches_of(settings, data.train)
    settings = resolved(settings, batches)
    model = begin(settings, folder / "model", None, longest_of(data))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as out:
        os.environ["XDG_CACHE_HOME"] = out  # nothing is known from before

        def work() -> None:
            with_reference(batches, model, folder / "model", settings)
            figures.update(train(model, PreferenceObjective(settings), batches, settings, Path(out)))

        found = timed(work, imported)
    return {**found, "pairs": len(data.train), "loss": figures["loss"], "steps": figures["steps"]}


def trl(folder: Path) -> dict[str, Any]:
    """TRL's DPOTrainer with batches of as many pairs as our rows hold."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    prepare(1)
    imported = memory("VmRSS")
    rows = [json.loads(line) for line in (folder / "preferences" / "preferences.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as out:
        settings = DPOConfig(
            out, num_train_epochs=1, learning_rate=1e-4, warmup_steps=2, bf16=torch_bf16(), use_cpu=True, beta=0.1,
            per_device_train_batch_size=pairs_of_batch(rows, tokenizer), max_length=LENGTH, report_to=[],
            gradient_checkpointing=False, save_strategy="no", logging_steps=1000, max_grad_norm=1.0, seed=0,
        )  # fmt: skip
        data = Dataset.from_list([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows])
        trainer = DPOTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer)
        found = timed(trainer.train, imported)
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    return {**found, "pairs": len(rows), "loss": losses[-1], "steps": trainer.state.global_step}


def pairs_of_batch(rows: list[Any], tokenizer: Any) -> int:
    """Pairs that fit into as many rows as ours, their prompts read once."""
    sizes = [
        sum(len(tokenizer(row[part][0]["content"])["input_ids"]) + 6 for part in ("prompt", "chosen", "rejected"))
        for row in rows
    ]
    return round(ROWS * LENGTH / statistics.fmean(sizes))


CONTENDERS: dict[str, Callable[[Path], dict[str, Any]]] = {"ours": ours, "trl": trl}


def main() -> None:
    """Measure, print, write the result."""
    parser = options_parser(__doc__, RESULT, "CONTENDER", "FOLDER")
    options = parser.parse_args()
    if options.work:
        name, folder = options.work
        print(json.dumps(CONTENDERS[name](Path(folder))))
        return
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name))
        write_pairs(Path(name))
        commands = {key: [sys.executable, __file__, "--work", key, name] for key in CONTENDERS}
        runs = interleaved(commands, options.repeats)
    rates = {key: [run["pairs"] / run["cpu_seconds"] for run in some] for key, some in runs.items()}
    ratio = spread([a / b for a, b in zip(rates["ours"], rates["trl"])])
    print_table(
        ["dpo", "pairs/core-s", "training MiB", "loss", "steps"],
        [
            [
                key,
                f"{statistics.median(rates[key]):,.1f}",
                f"{statistics.median(run['training_mib'] for run in some):,.0f}",
                f"{some[-1]['loss']:.3f}",
                str(some[-1]["steps"]),
            ]
            for key, some in runs.items()
        ],
    )
    print(
        f"ours / trl: {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}), aim {AIM} x, n={options.repeats}"
    )
    result = {
        "command": command_line(),
        "machine": machine(),
        "versions": versions(sys.executable, ["torch", "transformers", "trl"]),
        "aim": AIM,
        "n": options.repeats,
        "pairs_per_core_second": {key: spread(values) for key, values in rates.items()},
        "ratio": ratio,
        "training_mib": {key: spread([run["training_mib"] for run in some]) for key, some in runs.items()},
        "runs": runs,
    }
    write_result(options.out, result)


if __name__ == "__main__":
    main()
