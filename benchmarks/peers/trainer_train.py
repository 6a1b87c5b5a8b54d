"""transformers' Trainer on the same packed tokens, a plain Llama as its users write it, with AdamW.

    python benchmarks/peers/trainer_train.py TOKENS SECONDS

Documents are laid end to end and cut into rows of 512, as is usual with Trainer. Run by train_ten_minutes.py.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from herdbook.tokens.shards import TokenSets
from herdbook.train.machine import faster_precision

LENGTH, ROWS, TRIAL_STEPS = 512, 8, 20
ATTEMPTS, LATE = 3, 1.05  # as train_ten_minutes.py: a run that took longer does not count


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The training split as rows of LENGTH tokens."""

    def __init__(self, sets: TokenSets) -> None:
        self.ids = np.concatenate([splits["train"].tokens for splits in sets.sets.values()])

    def __len__(self) -> int:
        return len(self.ids) // LENGTH

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.ids[i * LENGTH : (i + 1) * LENGTH].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def train(sets: TokenSets, steps: int, bf16: bool) -> tuple[Any, float]:
    """The model after `steps` steps, and seconds."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sets.vocab_size, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=LENGTH, use_cache=False,
        )
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=ROWS, learning_rate=2e-3, warmup_steps=20,
            lr_scheduler_type="cosine", bf16=bf16, use_cpu=True, report_to=[], save_strategy="no", logging_steps=50,
            adam_beta2=0.95, weight_decay=0.1, seed=0,
        )  # fmt: skip
        started = time.perf_counter()
        Trainer(model, arguments, train_dataset=Rows(sets)).train()
        return model.eval(), time.perf_counter() - started


def heldout_bits(model: Any, sets: TokenSets) -> float:
    """Bits per byte of the held-out pages, each cut into rows of LENGTH tokens."""
    nats, size = 0.0, 0
    with torch.no_grad():
        for splits in sets.sets.values():
            pages = splits["heldout"]
            size += int(pages.bytes.sum())
            for number in range(len(pages)):
                ids = torch.from_numpy(pages.document(number).astype(np.int64))
                for start in range(0, len(ids) - 1, LENGTH):
                    row = ids[start : start + LENGTH + 1]
                    logits = model(row[None, :-1]).logits[0].float()
                    nats += float(torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum"))
    return nats / math.log(2) / size


def main() -> None:
    """Train and judge; one line of JSON last."""
    sets = TokenSets.open(Path(sys.argv[1]))
    bf16 = faster_precision(torch.device("cpu")) == "bf16"
    _, trial = train(sets, TRIAL_STEPS, bf16)
    steps, seconds, budget = TRIAL_STEPS, trial, float(sys.argv[2])
    for _ in range(ATTEMPTS):
        steps = int(steps * budget / seconds)
        model, seconds = train(sets, steps, bf16)
        if seconds <= LATE * budget:
            break
    parameters = sum(weight.numel() for weight in model.parameters())
    told = {"tokens": steps * ROWS * LENGTH, "seconds": seconds, "steps": steps, "parameters": parameters}
    print(json.dumps({"bits_per_byte": heldout_bits(model, sets), **told, "bf16": bf16}))


if __name__ == "__main__":
    main()
