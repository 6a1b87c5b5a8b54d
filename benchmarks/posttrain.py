"""Fine-tuning speed and memory beside TRL's trainers: the same tiny model, dialogs, tokenizer, type and optimizer.

Both go once through the same dialogs, learn the answers only, with AdamW and products in bf16 where the machine has
them (fp32 else), one thread, each contender a process of its own and their runs taking turns. TRL is run as its users
run it on a CPU: `trl_padded` fills batches up to their longest dialog, `trl_packed` packs by best fit; the faster one
is compared with. Steps of all have about the same number of tokens. Time is processor time of training alone, dialogs
and model read before it; memory is what the process holds at most beyond its imports.

    python benchmarks/posttrain.py [--repeats 5]
"""

from __future__ import annotations

import json
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
    processor_time,
    spread,
    versions,
    write_result,
)

from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import save_model
from herdbook.model.transformer import Transformer
from herdbook.posttrain.rows import write_rows
from herdbook.tokens.tokenizer import Tokenizer, special_names
from herdbook.train.machine import faster_precision, prepare

RESULT = RESULTS / "posttrain.json"
DIALOGS, ROWS, LENGTH, AIM = 200, 4, 512, 1.5
SYLLABLES = [first + second for first in "bdfgklmnprst" for second in "aeiou"]


def word(draw: random.Random) -> str:
    """One of 3,600 words."""
    return " " + draw.choice(SYLLABLES) + draw.choice(SYLLABLES)


def make_tokenizer() -> Tokenizer:
    """Bytes, and words of one and two syllables."""
    ranks = {bytes([value]): value for value in range(256)}
    for token in (*(" " + one[0] for one in SYLLABLES), *(" " + one for one in SYLLABLES), *SYLLABLES):
        ranks.setdefault(token.encode(), len(ranks))
    for one in SYLLABLES:
        for two in SYLLABLES[:58]:
            ranks.setdefault(f" {one}{two}".encode(), len(ranks))
    return Tokenizer(ranks, special_names(32))


def write_inputs(folder: Path) -> None:
    """A random model of the demo's shape, and dialogs of one to three turns as long as short questions and answers."""
    tokenizer, draw = make_tokenizer(), random.Random(0)
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=128, layers=4, heads=4, kv_heads=4, ffn_dim=352, max_length=LENGTH
    )
    model = Transformer(shape)
    model.initialize(0)
    save_model(model, folder / "model", bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id, tokenizer.eot_id])
    tokenizer.save(folder / "model")
    rows = []
    for number in range(DIALOGS):
        messages = []
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            for role, mean in (("user", 25), ("assistant", 20)):
                words = min(60, 1 + int(draw.expovariate(1 / mean)))
                messages.append({"role": role, "content": "".join(word(draw) for _ in range(words)).strip()})
        rows.append({"id": str(number), "messages": messages})
    write_rows(folder / "dialogs" / "dialogs.jsonl", rows)


def memory(name: str) -> float:
    """MiB that this process holds (VmRSS) or has held at most (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def timed(train: Callable[[], Any], imported: float) -> dict[str, Any]:
    """What a contender prints: seconds of training, and memory beyond the imports."""
    with processor_time() as used:
        train()
    return {**used, "training_mib": memory("VmHWM") - imported, "peak_mib": memory("VmHWM")}


def ours(folder: Path) -> dict[str, Any]:
    """The loop, as the stage `sft` runs it."""
    from herdbook.posttrain.dialog_batches import read_sets, resolved
    from herdbook.posttrain.settings import SftSettings
    from herdbook.train.loop import train
    from herdbook.train.objective import AnswerTokens
    from herdbook.train.phased import PhasedBatches
    from herdbook.train.phases import Plan
    from herdbook.train.tuning import begin

    prepare(1)
    imported = memory("VmRSS")
    settings = SftSettings(
        epochs=1, rows=ROWS, length=LENGTH, warmup=5, threads=1, peak_lr=1e-3, checkpoint_every=0, tensorboard=False,
        precision="bf16" if torch_bf16() else "fp32", peak_flops=1e11,
    )  # fmt: skip
    found = read_sets({"dialogs": folder}, Tokenizer.load(folder / "model"), settings)
    settings = resolved(settings, found.sets)
    batches = PhasedBatches(found.sets, Plan.of(settings), settings.seed, settings.packing)
    model = begin(settings, folder / "model", None)
    with tempfile.TemporaryDirectory() as out:
        said = timed(lambda: train(model, AnswerTokens(), batches, settings, Path(out)), imported)
    counts = found.figures["dialogs"]
    return {**said, "tokens": counts["tokens"], "answers": counts["answer_tokens"], "steps": settings.steps}


def torch_bf16() -> bool:
    """Whether bf16 is the faster type here, for all contenders."""
    return faster_precision(torch.device("cpu")) == "bf16"


def trl(folder: Path, packed: bool) -> dict[str, Any]:
    """TRL's SFTTrainer, its loss on the assistant's tokens only."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    prepare(1)
    imported = memory("VmRSS")
    rows = [json.loads(line) for line in (folder / "dialogs" / "dialogs.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True, dtype=torch.float32)
    mean = statistics.fmean(len(tokenizer.apply_chat_template(row["messages"])["input_ids"]) for row in rows[:200])
    with tempfile.TemporaryDirectory() as out:
        settings = SFTConfig(
            out, num_train_epochs=1, learning_rate=1e-3, warmup_steps=5, bf16=torch_bf16(), use_cpu=True,
            per_device_train_batch_size=ROWS if packed else round(ROWS * LENGTH / mean), packing=packed,
            max_length=LENGTH, assistant_only_loss=True, gradient_checkpointing=False, report_to=[],
            save_strategy="no", logging_steps=1000, max_grad_norm=1.0, eos_token="<|eot_id|>", seed=0,
        )  # fmt: skip
        data = Dataset.from_list([{"messages": row["messages"]} for row in rows])
        trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer)
        said = timed(trainer.train, imported)
    columns = trainer.train_dataset
    tokens = sum(len(row["input_ids"]) for row in columns)
    return {**said, "tokens": tokens, "steps": trainer.state.global_step}


CONTENDERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ours": ours,
    "trl_padded": lambda folder: trl(folder, packed=False),
    "trl_packed": lambda folder: trl(folder, packed=True),
}


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
        commands = {key: [sys.executable, __file__, "--work", key, name] for key in CONTENDERS}
        runs = interleaved(commands, options.repeats)
    rates = {key: [run["tokens"] / run["cpu_seconds"] for run in some] for key, some in runs.items()}
    peers = [key for key in rates if key != "ours"]
    ratios = {key: spread([a / b for a, b in zip(rates["ours"], rates[key])]) for key in peers}
    best = min(peers, key=lambda key: ratios[key]["median"])
    print_table(
        ["sft", "tokens/core-s", "ours / it", "training MiB", "steps"],
        [
            [
                key,
                f"{statistics.median(rates[key]):,.0f}",
                f"{ratios[key]['median']:.2f} ({ratios[key]['min']:.2f}-{ratios[key]['max']:.2f})"
                if key in ratios
                else "",
                f"{statistics.median(run['training_mib'] for run in some):,.0f}",
                str(some[-1]["steps"]),
            ]
            for key, some in runs.items()
        ],
    )
    print(f"against the faster peer ({best}): {ratios[best]['median']:.2f} x, aim {AIM} x, n={options.repeats}")
    result = {
        "command": command_line(),
        "machine": machine(),
        "versions": versions(sys.executable, ["torch", "transformers", "trl"]),
        "aim": AIM,
        "sft": {
            "n": options.repeats,
            "tokens_per_core_second": {key: spread(values) for key, values in rates.items()},
            "ratio": ratios,
            "faster_peer": best,
            "training_mib": {key: spread([run["training_mib"] for run in some]) for key, some in runs.items()},
            "runs": runs,
        },
    }
    write_result(options.out, result)


if __name__ == "__main__":
    main()
