"""What adapters cost and averaging buys on held-out answers: full fine-tuning twice, LoRA, QLoRA, and the average.

    python benchmarks/posttrain_variants.py BASE WORLD [--epochs 1] [--only full_0 full_1]

BASE is a model entry (the demo's base), WORLD an entry with dialogs of the same world. All variants see the same
dialogs, a tenth of the prompts held out; bits per byte of answers, differences paired by dialog with 95 % intervals.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command_line, machine, print_table, write_result

from herdbook.evaluate.intervals import ratio
from herdbook.evaluate.likelihood import counted_nats
from herdbook.model.huggingface import load_model
from herdbook.posttrain.average import average
from herdbook.posttrain.dialog_batches import read_sets
from herdbook.posttrain.settings import AverageSettings, SftSettings
from herdbook.posttrain.sft import sft
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.tuning import model_folder

RESULT = RESULTS / "posttrain_variants.json"
HELDOUT = 0.1
LORA = {"rank": 3, "alpha": 12, "targets": ("value", "output", "up", "down")}  # below 1 % of the demo's parameters
VARIANTS: dict[str, dict[str, Any]] = {
    "full_0": {"peak_lr": 2e-3, "seed": 0},
    "full_1": {"peak_lr": 2e-3, "seed": 1},
    "lora": {"peak_lr": 1e-2, "lora": LORA},
    "qlora_int8": {"peak_lr": 1e-2, "lora": {**LORA, "quantised": "int8"}},
    "qlora_int4": {"peak_lr": 1e-2, "lora": {**LORA, "quantised": "int4"}},
}


def settings_of(name: str, epochs: float) -> SftSettings:
    """A variant's settings."""
    common = {"epochs": epochs, "rows": 4, "length": 512, "warmup": 10, "heldout": HELDOUT, "threads": 1,
              "tensorboard": False, "checkpoint_every": 0}  # fmt: skip
    return SftSettings.model_validate({**common, **VARIANTS[name]})


def main() -> None:
    """Train, judge, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("base", type=Path, help="the model entry to begin with")
    parser.add_argument("world", type=Path, help="an entry that gives dialogs")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the dialogs")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help="variants to train")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    options = parser.parse_args()
    split = read_sets(
        {"talk": options.world}, Tokenizer.load(model_folder(options.base)), settings_of("full_0", options.epochs)
    ).sets.sets["talk"]["heldout"]
    sizes = [float(size) for size in split.bytes]

    def bits(folder: Path) -> Any:
        return counted_nats(load_model(folder / "model", dtype=torch.float32).eval(), split) / math.log(2)

    found: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for variant in options.only:
            (work / variant).mkdir()
            figures = sft(settings_of(variant, options.epochs), {"talk": options.world}, options.base, work / variant)
            costs[variant] = bits(work / variant)
            found[variant] = {key: figures[key] for key in ("loss", "steps", "tokens", "nats_per_token")}
            found[variant]["trained_share"] = figures.get("trained_share", 1.0)
        full = [variant for variant in options.only if variant.startswith("full")]
        if len(full) > 1:
            average(AverageSettings(), {one: work / one for one in full}, work / "average")
            costs["average"] = bits(work / "average")
            found["average"] = {"trained_share": 1.0}
    for variant, cost in costs.items():
        found[variant]["bits_per_byte"] = ratio(list(cost), sizes)
        found[variant]["minus_full_0"] = ratio(list(cost - costs["full_0"]), sizes)
    command = command_line().replace(str(options.base), "BASE").replace(str(options.world), "WORLD")
    result = {"command": command, "machine": machine(), "heldout_dialogs": len(split), "variants": found}
    rows = []
    for variant, one in found.items():
        value, less = one["bits_per_byte"], one["minus_full_0"]
        shown = [f"{value['value']:.4f}", f"{less['value']:+.4f} ({less['low']:+.4f} to {less['high']:+.4f})"]
        rows.append([variant, f"{100 * one['trained_share']:.2f} %", *shown])
    print_table(["variant", "trained", "bits/byte of answers", "minus full_0"], rows)
    write_result(options.out, result)


if __name__ == "__main__":
    main()
