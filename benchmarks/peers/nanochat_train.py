"""nanochat on the pages that train_ten_minutes.py wrote: its tokenizer, its `base_train`, then the held-out pages.

    NANOCHAT=CHECKOUT NANOCHAT_BASE_DIR=FOLDER python benchmarks/peers/nanochat_train.py SECONDS

Width 256, four layers, vocabulary 8,192, rows of 512 and steps of 4,096 tokens suit ten minutes on two cores; learning
rates and all else are nanochat's own. A short trial of each type tells which is faster and how many steps fit.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from typing import Any

LENGTH, STEP, VOCABULARY, TRIAL_STEPS = 512, 4096, 8192, 30
ATTEMPTS, LATE = 3, 1.05  # as train_ten_minutes.py: a run that took longer does not count
TAG = "ten-minutes"
CHECKOUT = os.environ["NANOCHAT"]
TIME = re.compile(r"step (\d+)/\d+ .*?dt: ([\d.]+)ms")


def base_train(steps: int, dtype: str, tag: str) -> list[float]:
    """Run nanochat's `base_train`; seconds of each step, as it prints them."""
    command = [
        *(sys.executable, "-u", "-m", "scripts.base_train", "--depth=4", "--head-dim=64", "--window-pattern=L"),
        *(f"--max-seq-len={LENGTH}", f"--device-batch-size={STEP // LENGTH}", f"--total-batch-size={STEP}"),
        *("--eval-every=-1", "--core-metric-every=-1", "--sample-every=-1"),
        *(f"--num-iterations={steps}", f"--model-tag={tag}"),
    ]
    environment = {**os.environ, "NANOCHAT_DTYPE": dtype, "PYTHONPATH": CHECKOUT}
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seconds, output = [], []
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        if found := TIME.search(line):
            seconds.append(float(found[2]) / 1000)
            if int(found[1]) % 20 == 0:
                print(line.rstrip(), flush=True)
    if process.wait():
        sys.exit("".join(output[-40:]))
    return seconds


def heldout_bits(tag: str) -> dict[str, Any]:
    """Bits per byte of the held-out pages, each cut into rows of LENGTH tokens, and the model's parameters."""
    import torch
    from nanochat.checkpoint_manager import load_model
    from nanochat.dataset import parquets_iter_batched

    model, tokenizer, _ = load_model("base", torch.device("cpu"), phase="eval", model_tag=tag)
    bos, nats, size = tokenizer.get_bos_token_id(), 0.0, 0
    with torch.no_grad():
        for texts in parquets_iter_batched(split="val"):
            for text in texts:
                ids = torch.tensor(tokenizer.encode(text, prepend=bos))
                size += len(text.encode())
                for start in range(0, len(ids) - 1, LENGTH):
                    row = ids[start : start + LENGTH + 1][None]
                    nats += float(model(row[:, :-1], row[:, 1:], loss_reduction="none").sum())
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"bits_per_byte": nats / math.log(2) / size, "parameters": parameters}


def main() -> None:
    """Train and judge; one line of JSON last."""
    budget = float(sys.argv[1])
    tokenizer = [sys.executable, "-m", "scripts.tok_train", f"--vocab-size={VOCABULARY}"]
    subprocess.run(tokenizer, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": CHECKOUT}, check=True)
    trials = {}
    for dtype in ("float32", "bfloat16"):
        steady = base_train(TRIAL_STEPS, dtype, f"{TAG}-trial")[10:]
        trials[dtype] = sum(steady) / len(steady)
    dtype = min(trials, key=lambda name: trials[name])
    each, training = trials[dtype], math.inf
    for _ in range(ATTEMPTS):
        steps = int(budget / each)
        print(f"seconds a step: {trials}; {steps} steps in {dtype}", flush=True)
        steady = base_train(steps, dtype, TAG)[10:]  # the first steps compile
        each = sum(steady) / len(steady)
        training = each * steps
        if training <= LATE * budget:
            break
    sys.path.insert(0, CHECKOUT)
    os.environ["NANOCHAT_DTYPE"] = dtype
    told = {"tokens": steps * STEP, "seconds": training, "steps": steps, "dtype": dtype, "trial_step_seconds": trials}
    print(json.dumps({**heldout_bits(TAG), **told}))


if __name__ == "__main__":
    main()
