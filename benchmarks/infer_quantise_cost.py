"""What each scheme costs a real model: bits per byte, predictions and answers before and after, over the same text.

Takes a model of a book with the tokens and the world it was raised on (the demo's are meant), and runs the
`quantize` stage on it with each scheme, with the scales that make room for the largest weight and with searched ones.

    python benchmarks/infer_quantise_cost.py BOOK [--model base] [--tokens 20000]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, command_line, machine, print_table, write_result

from herdbook.book import Book
from herdbook.evaluate.quantize import QuantizeSettings, quantize
from herdbook.evaluate.settings import EvaluateSettings
from herdbook.models import ancestors
from herdbook.stages import KINDS

RESULT = RESULTS / "infer_quantise_cost.json"
WHOLE: dict[str, Any] = {"matrices": ("attention", "feed_forward"), "ends": 0}
RUNS: dict[str, dict[str, Any]] = {
    "fp8, as the paper has it": {"scheme": "fp8"},
    "fp8, all matrices": {"scheme": "fp8", **WHOLE},
    "int8": {"scheme": "int8"},
    "int8_dynamic": {"scheme": "int8_dynamic"},
    "int4, groups of 32": {"scheme": "int4", "group": 32},
    "int4, groups of 32, 12 scales searched": {"scheme": "int4", "group": 32, "search": 12},
}


def main() -> None:
    """Quantise, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("book", type=Path)
    parser.add_argument("--model", default="base")
    parser.add_argument("--tokens", type=int, default=20_000, help="held-out tokens per set")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    book = Book(options.book)
    entry = book.resolve(options.model)
    feeds = {KINDS[found.kind].gives: book.folder_of(found) for found in ancestors(entry, book) if found.kind in KINDS}
    exam = EvaluateSettings.model_validate(
        {"tasks": ("bits", "facts"), "limit": 400, "xz": False, "bits_tokens": options.tokens}
    )
    found: dict[str, Any] = {}
    for name, settings in RUNS.items():
        with tempfile.TemporaryDirectory() as out:
            chosen = QuantizeSettings(exam=exam, divergence_tokens=options.tokens, **settings)
            figures = quantize(chosen, book.folder_of(entry), feeds["world"] / "questions", feeds["tokens"], Path(out))
        found[name] = {key: figures[key] for key in ("rounded", "size", "memory", "change", "divergence")}
        found[name]["bits_per_byte_before"] = figures["before"]["bits"]["bits_per_byte"]
    rows = [
        (
            name,
            f"{f['size']['of_before']:.2f}",
            f"{f['rounded']['error']:.3f}",
            f"{f['change']['bits']['bits_per_byte']['value']:+.5f}",
            f"{f['divergence']['nats']['value']:.5f}",
            f"{f['divergence']['same_token']['value']:.3f}",
            f"{f['change']['facts']['accuracy']['value']:+.3f}",
        )
        for name, f in found.items()
    ]
    print_table(("scheme", "size", "weights' error", "bits per byte", "KL, nats", "same token", "facts"), rows)
    write_result(options.out, {"command": command_line(), "machine": machine(), "schemes": found})


if __name__ == "__main__":
    main()
