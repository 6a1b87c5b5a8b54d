"""What ten minutes of training come to, beside nanochat: bits per byte on the same held-out pages of a real crawl.

Both read the same pages (the crawl as recipes/real-web.yaml curates it), make a tokenizer of their own from them, train
for the same minutes, and code the same held-out pages, cut into rows of 512 tokens that know nothing of each other.
Ours is the model of recipes/real-web.yaml, a plain Llama; nanochat's is its `base_train` with the width and depth that
suit such a machine, in the type that is faster here. How many steps fit is measured first, for each alike; nanochat's
time starts after its compiling. Without a checkout of nanochat, transformers' Trainer on our tokens is the peer.

    python benchmarks/train_ten_minutes.py [--nanochat CHECKOUT] [--nanochat-python PYTHON] [--minutes 10]

PYTHON has what nanochat imports (rustbpe, tiktoken, pyarrow, wandb, filelock, psutil, requests, torch); the Trainer
needs accelerate. One runs after the other, so that each has the machine to itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

CRAWL = common.SHARED / "web" / "debian-docs.warc.gz"
RECIPE = common.HERE.parent / "recipes" / "real-web.yaml"
RESULT = common.RESULTS / "train_ten_minutes.json"
TRIAL_STEPS = 100
ATTEMPTS, LATE = 3, 1.05  # the machine may slow down after the trial: a run that took longer does not count
ROW_GROUP = 512  # documents that nanochat reads at once


def ours(tokens: Path, out: Path, seconds: float, overrides: list[str]) -> dict[str, Any]:
    """Train the recipe's model on packed pages for about `seconds`; the figures of the run."""
    from herdbook.pretrain.settings import PretrainSettings
    from herdbook.pretrain.stages import pretrain
    from herdbook.recipe import read_recipe

    base = next(stage for stage in read_recipe(RECIPE, overrides).stages.values() if stage.name == "base")
    given = base.settings.model_dump(exclude={"tokens", "steps"}, exclude_unset=True)

    def train(folder: str, **changes: Any) -> dict[str, Any]:
        settings = PretrainSettings.model_validate({**given, "validate_every": 0, "tensorboard": False, **changes})
        return pretrain(settings, tokens, None, out / folder)

    found, steps = train("trial", steps=TRIAL_STEPS, final_tokens=1000), TRIAL_STEPS
    for attempt in range(ATTEMPTS):
        steps = max(TRIAL_STEPS, int(steps * seconds / found["goodput"]["training_seconds"]))
        found = train(f"run-{attempt}", steps=steps, final_tokens=None)
        if found["goodput"]["training_seconds"] <= LATE * seconds:
            break
    return {
        "bits_per_byte": found["bits_per_byte"],
        "tokens": found["tokens"],
        "seconds": found["goodput"]["training_seconds"],
        "parameters": found["parameters"],
        "steps": steps,
    }


def prepare(folder: Path, crawl: Path, overrides: list[str]) -> Path:
    """Curate and pack the crawl; the folder of the token sets. What is in the book of an earlier call is kept."""
    from herdbook.book import Book

    book = Book(folder / "book")
    command = [sys.executable, "-m", "herdbook", "run", str(RECIPE), *overrides, "--only", "tokens"]
    environment = {**os.environ, "HERDBOOK_PAGES": str(crawl), "HERDBOOK_BOOK": str(book.folder)}
    subprocess.run(command, check=True, env={**environment, "PYTHONPATH": str(common.HERE.parent)})
    newest = max((entry for entry in book.entries()[0] if entry.stage == "tokens"), key=lambda entry: entry.finished)
    return book.folder_of(newest)


def write_pages(tokens: Path, folder: Path) -> dict[str, int]:
    """The packed pages as nanochat's Parquet files of text, of which the last is held out; bytes of each split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from herdbook.tokens.shards import TokenSets
    from herdbook.tokens.tokenizer import Tokenizer

    sets, tokenizer = TokenSets.open(tokens), Tokenizer.load(tokens / "tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for number, split in enumerate(("train", "heldout")):
        texts = [
            tokenizer.decode(found[split].document(i)[1:-1].tolist())
            for found in sets.sets.values()
            for i in range(len(found[split]))
        ]
        order = np.random.default_rng(0).permutation(len(texts))  # pages of one site lie together in a crawl
        table = pa.table({"text": [texts[i] for i in order]})
        pq.write_table(table, folder / f"shard_{number:05d}.parquet", row_group_size=ROW_GROUP)
        sizes[split] = sum(len(text.encode()) for text in texts)
    return sizes


def contender(command: list[str], **environment: str) -> dict[str, Any]:
    """Run a contender with all cores, its output passed on; its last line is its result."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(common.HERE.parent), **environment},
    )
    last = ""
    assert process.stdout is not None
    for line in process.stdout:
        print("   ", line.rstrip()[:160], file=sys.stderr)
        last = line if line.startswith("{") else last
    if process.wait() or not last:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return {**json.loads(last), "wall_seconds": time.perf_counter() - started}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or Path(name)).resolve()
        tokens = prepare(folder, options.crawl, options.overrides)
        sizes = write_pages(tokens, folder / "nanochat" / "base_data_climbmix")
        script, seconds = str(Path(__file__).resolve()), str(60 * options.minutes)
        result: dict[str, Any] = {"pages_bytes": sizes, "minutes": options.minutes}
        if options.nanochat:
            command = [str(options.nanochat_python), str(common.HERE / "peers" / "nanochat_train.py"), seconds]
            checkout = str(options.nanochat.resolve())
            data = str(folder / "nanochat")
            result["nanochat"] = contender(command, NANOCHAT=checkout, NANOCHAT_BASE_DIR=data, WANDB_MODE="disabled")
        else:
            command = [sys.executable, str(common.HERE / "peers" / "trainer_train.py"), str(tokens), seconds]
            result["trainer"] = contender(command)
        with tempfile.TemporaryDirectory() as out:
            result["ours"] = contender(
                [sys.executable, script, "--work", str(tokens), out, seconds, *options.overrides]
            )
    return result


def main() -> None:
    """Compare, print, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("overrides", nargs="*", help="settings of recipes/real-web.yaml: base.rows=8 …")
    parser.add_argument("--crawl", type=Path, default=CRAWL, help="a WARC file")
    parser.add_argument("--minutes", type=float, default=10, help="minutes of training of each")
    parser.add_argument("--nanochat", type=Path, default=os.environ.get("NANOCHAT"), help="a checkout of nanochat")
    parser.add_argument("--nanochat-python", type=Path, default=sys.executable, help="a python with what it imports")
    parser.add_argument(
        "--folder", type=Path, help="where curated pages and nanochat's files are kept for another call"
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    parser.add_argument("--work", nargs=3, metavar=("TOKENS", "OUT", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        tokens, out, seconds = options.work
        print(json.dumps(ours(Path(tokens), Path(out), float(seconds), options.overrides)))
        return
    options.nanochat = Path(options.nanochat) if options.nanochat else None
    result = compare(options)
    peer = "nanochat" if options.nanochat else "trainer"
    rows = []
    for name in ("ours", peer):
        found = result[name]
        minutes, size = f"{found['seconds'] / 60:.1f}", f"{found['parameters']:,}"
        rows.append([name, f"{found['bits_per_byte']:.3f}", f"{found['tokens']:,}", minutes, size])
    common.print_table(["", "bits per byte", "tokens", "minutes", "parameters"], rows)
    ratio = result["ours"]["bits_per_byte"] / result[peer]["bits_per_byte"]
    print(f"ours / {peer} {ratio:.3f} of its bits per byte, aim 1 or less; one run each")
    common.write_result(options.out, {**result, "ratio": ratio, "machine": common.machine()})


if __name__ == "__main__":
    main()
