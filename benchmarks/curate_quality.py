"""Quality classifiers beside fastText: accuracy and AUC on sites neither has seen, documents per core-second.

A known world is written and read with all its flawed pages; its truth labels them (good or not, code, reasoning,
genre). Both learn from the pages of two thirds of the sites, each in its own process, in turns, and judge those of the
others. Ours is the linear classifier with its usual settings; fastText has word pairs too, 100 dimensions and 25
epochs, and one thread. Of what fastText takes, writing its file counts, since it reads no other way; of ours, the
features of a page that is judged are made once for all heads, as in curation.

    HERDBOOK_PEERS_FASTTEXT=PYTHON python benchmarks/curate_quality.py [--scale 0.1] [--repeats 3]
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

RESULT = common.RESULTS / "curate_quality.json"
HEADS = ("good", "code", "reasoning", "genre")
SCALED = ("problems", "programs", "short_chronicles", "language_problems", "math_articles", "quizzes")
STEPS = {"learn": "train", "judge": "test"}
"""What is timed, and the pages it goes over."""
SEEN: dict[str, Any] = {}
"""Features of the test pages, as curation keeps them for the next head."""
EPOCHS, WIDTH, RATE = 25, 100, 0.5


def write_pages(seed: int, scale: float, folder: Path) -> dict[str, int]:
    """Labelled texts of a world's pages, as train.jsonl and test.jsonl; how many each has."""
    import pyarrow.parquet as pq
    import xxhash

    from herdbook.corpus.curate import curate
    from herdbook.corpus.quality.labels import WORLD
    from herdbook.corpus.settings import CurateSettings
    from herdbook.world.crawl import write_world
    from herdbook.world.settings import WorldSettings

    whole = WorldSettings(seed=seed)
    sizes = {name: max(int(getattr(whole, name) * scale), 1) for name in SCALED}
    world, out = folder / "world", folder / "documents"
    for path in (world, out):
        path.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        write_world(WorldSettings(seed=seed, **sizes), world)
        curate(CurateSettings(rules=()), [world], out)
    truth = pq.read_table(world / "truth.parquet", columns=["url", "date", "expected", "genre", "language", "code"])
    known = {(row["url"], row["date"][:19]): row for row in truth.to_pylist()}
    counts = {"train": 0, "test": 0, "sites": 0, "test_sites": 0}
    sites: dict[str, str] = {}
    with open(folder / "train.jsonl", "w") as train, open(folder / "test.jsonl", "w") as test:
        for page in pq.read_table(out / "documents", columns=["url", "date", "text"]).to_pylist():
            row = known.get((page["url"], page["date"][:19]))
            if row is None or not page["text"].strip():
                continue
            site = page["url"].split("/")[2]
            sites[site] = side = "test" if xxhash.xxh3_64_intdigest(site.encode()) % 3 == 0 else "train"
            labels = {head: str(WORLD[head](row)) for head in HEADS}
            (test if side == "test" else train).write(json.dumps({"text": page["text"], **labels}) + "\n")
            counts[side] += 1
    return counts | {"sites": len(sites), "test_sites": sum(side == "test" for side in sites.values())}


def read(path: Path) -> list[dict[str, str]]:
    """The pages of a file."""
    return [json.loads(line) for line in open(path)]


def work(name: str, folder: Path) -> None:
    """A contender: learns every head, judges the test pages, prints what it took and leaves its probabilities."""
    train, test = read(folder / "train.jsonl"), read(folder / "test.jsonl")
    learn = ours if name == "herdbook" else fasttexts
    took = {"learn": 0.0, "judge": 0.0}
    found: dict[str, Any] = {}
    for head in HEADS:
        found[head] = learn(train, test, head, took, folder)
    (folder / f"{name}.json").write_text(json.dumps(found))
    print(json.dumps({"cpu_seconds": sum(took.values()), **took, "train": len(train), "test": len(test)}))


def ours(
    train: list[dict[str, str]], test: list[dict[str, str]], head: str, took: dict[str, float], folder: Path
) -> dict[str, Any]:
    """Classes and probabilities of our linear classifier; a document's features are made once for all heads."""
    import numpy as np

    from herdbook.corpus.quality import linear
    from herdbook.corpus.quality.settings import LinearSettings

    names = sorted({page[head] for page in train})
    numbers = np.array([names.index(page[head]) for page in train])
    before = time.process_time()
    classifier = linear.fit([page["text"] for page in train], numbers, len(names), LinearSettings())
    took["learn"] += time.process_time() - before
    before = time.process_time()
    chances = classifier.probabilities([page["text"] for page in test], SEEN)
    took["judge"] += time.process_time() - before
    return {"classes": names, "probabilities": chances.tolist()}


def fasttexts(
    train: list[dict[str, str]], test: list[dict[str, str]], head: str, took: dict[str, float], folder: Path
) -> dict[str, Any]:
    """Classes and probabilities of fastText."""
    import fasttext

    names = sorted({page[head] for page in train})
    before = time.process_time()
    with open(folder / "fasttext.txt", "w") as file:
        for page in train:
            file.write(f"__label__{page[head]} {' '.join(page['text'].lower().split())}\n")
    model = fasttext.train_supervised(
        str(folder / "fasttext.txt"), wordNgrams=2, epoch=EPOCHS, dim=WIDTH, lr=RATE, thread=1, verbose=0
    )
    took["learn"] += time.process_time() - before
    before = time.process_time()
    chances = []
    for page in test:
        labels, values = model.predict(" ".join(page["text"].lower().split()), k=-1)
        by_name = dict(zip(labels, values.tolist()))
        chances.append([by_name.get(f"__label__{name}", 0.0) for name in names])
    took["judge"] += time.process_time() - before
    return {"classes": names, "probabilities": chances}


def judged(folder: Path, name: str) -> dict[str, Any]:
    """Accuracy, and AUC of two classes, with 95 % intervals, of a contender's probabilities."""
    import numpy as np

    from herdbook.corpus.quality.figures import judge

    test, result = read(folder / "test.jsonl"), {}
    for head, found in json.loads((folder / f"{name}.json").read_text()).items():
        classes = found["classes"]
        rows = [row for row, page in enumerate(test) if page[head] in classes]
        truth = np.array([classes.index(test[row][head]) for row in rows])
        figures = judge(np.array(found["probabilities"])[rows], truth, classes)
        result[head] = {key: figures[key] for key in ("accuracy", "guess", "auc") if key in figures}
    return result


def told(figure: dict[str, float] | None) -> str:
    """A figure with its interval."""
    return f"{figure['value']:.4f} ({figure['low']:.4f}-{figure['high']:.4f})" if figure else ""


def main() -> None:
    """Run the contenders in turn, print, write the result."""
    parser = common.options_parser(__doc__, RESULT, "CONTENDER", "FOLDER")
    parser.add_argument("--scale", type=float, default=0.1, help="size of the world as a share of the demo's")
    parser.add_argument("--seed", type=int, default=11, help="of the world")
    options = parser.parse_args()
    if options.work:
        work(options.work[0], Path(options.work[1]))
        return
    peers, script = common.peers_python("fasttext"), str(Path(__file__).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = write_pages(options.seed, options.scale, folder)
        contenders = {
            name: [str(python), script, "--work", name, str(folder)]
            for name, python in (("herdbook", sys.executable), ("fasttext", peers))
        }
        runs = common.interleaved(contenders, options.repeats)
        quality = {name: judged(folder, name) for name in contenders}
    rates = {
        name: {
            step: common.spread([len(HEADS) * run[size] / run[step] for run in found]) for step, size in STEPS.items()
        }
        for name, found in runs.items()
    }
    rows = [
        [head, name, told(quality[name][head]["accuracy"]), f"{quality[name][head]['guess']:.4f}",
         told(quality[name][head].get("auc"))] for head in HEADS for name in contenders
    ]  # fmt: skip
    common.print_table(["head", "contender", "accuracy (95 %)", "guessing", "AUC (95 %)"], rows)
    for step in STEPS:
        mine, peer = (rates[name][step]["median"] for name in contenders)
        print(f"{step}: ours {mine:.0f}, fastText {peer:.0f} documents a head and core-second, ratio {mine / peer:.2f}")
    print(f"n={counts['test']} pages of {counts['test_sites']} of {counts['sites']} sites, {options.repeats} repeats")
    result = {
        "command": common.command_line(),
        "machine": common.machine(),
        "versions": common.versions(sys.executable, ["numpy", "scipy"]) | common.versions(peers, ["fasttext-wheel"]),
        "n": counts["test"],
        "repeats": options.repeats,
        "pages": counts,
        "quality": quality,
        "documents_per_core_second": rates,
        "ratio": {step: rates["herdbook"][step]["median"] / rates["fasttext"][step]["median"] for step in STEPS},
    }
    common.write_result(options.out, result)


if __name__ == "__main__":
    main()
