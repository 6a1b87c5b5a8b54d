"""Extraction beside trafilatura: F1 of shingles of four words on news pages marked by hand, and pages per core-second.

Each contender extracts every page in a process of its own, and they take turns. F1 is of mean precision and mean
recall, as the pages' own evaluation has it; the headline, which the marked text leaves out, counts against us. `body`
leaves out the line that ours itself calls the page's heading.

    HERDBOOK_PEERS=PYTHON python benchmarks/curate_extract.py [--repeats 3]
"""

from __future__ import annotations

import gzip
import json
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

RESULT = common.RESULTS / "curate_extract.json"
AIMS = {"f1": 0.962, "pages_per_core_second": 400}
PEERS = ("trafilatura", "trafilatura_fast")


def pages(folder: Path) -> dict[str, tuple[str, str]]:
    """Name to page and its marked text."""
    truth = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    return {
        name: (gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()).decode(), entry["articleBody"])
        for name, entry in truth.items()
    }


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Runs of four words with their counts; a shorter text is one run."""
    words = re.findall(r"\w+", text)
    return Counter(zip(*(words[start:] for start in range(4)))) or Counter([tuple(words)])


def f1(true: list[str], found: list[str]) -> dict[str, float]:
    """Mean precision, mean recall and their harmonic mean."""
    precision, recall = [], []
    for a, b in zip(map(shingles, true), map(shingles, found)):
        same = (a & b).total()
        precision.append(same / b.total())
        recall.append(same / a.total())
    p, r = statistics.fmean(precision), statistics.fmean(recall)
    return {"precision": p, "recall": r, "f1": 2 * p * r / (p + r)}


def extractor(name: str) -> Callable[[str], tuple[str, str]]:
    """A contender: page to its text, and to the text without what it calls the heading."""
    if name == "herdbook":
        from herdbook.corpus.extract import extract

        def ours(html: str) -> tuple[str, str]:
            found = extract(html)
            return found.text, "\n".join(line for line, kind in zip(found.lines, found.kinds) if kind != "h")

        return ours
    import trafilatura

    def theirs(html: str) -> tuple[str, str]:
        text = trafilatura.extract(html, fast=name == "trafilatura_fast", include_comments=False) or ""
        return text, text

    return theirs


def work(name: str, folder: Path) -> None:
    """Extract twenty pages to warm up, then all of them, and print the figures of that."""
    chosen = pages(folder)
    extract = extractor(name)
    for html, _ in list(chosen.values())[:20]:
        extract(html)
    started = time.process_time()
    found = [extract(html) for html, _ in chosen.values()]
    seconds = time.process_time() - started
    truth = [text for _, text in chosen.values()]
    figures = {"all": f1(truth, [text for text, _ in found]), "body": f1(truth, [body for _, body in found])}
    print(json.dumps({"cpu_seconds": seconds, "pages": len(found), **figures}))


def main() -> None:
    """Run the contenders in turn, print, write the result."""
    parser = common.options_parser(__doc__, RESULT, "CONTENDER")
    parser.add_argument("--data", type=Path, default=common.SHARED / "extraction", help="folder of marked pages")
    options = parser.parse_args()
    if options.work:
        work(options.work[0], options.data)
        return
    peers = common.peers_python()
    script = str(Path(__file__).resolve())
    contenders = {
        name: [
            sys.executable if name == "herdbook" else str(peers),
            script,
            "--work",
            name,
            "--data",
            str(options.data),
        ]
        for name in ("herdbook", *PEERS)
    }
    runs = common.interleaved(contenders, options.repeats)
    rates = {name: common.spread([r["pages"] / r["cpu_seconds"] for r in found]) for name, found in runs.items()}
    scores: dict[str, Any] = {name: {part: found[0][part] for part in ("all", "body")} for name, found in runs.items()}
    rows = [
        [name, *(f"{scores[name]['all'][key]:.4f}" for key in ("precision", "recall", "f1")),
         f"{scores[name]['body']['f1']:.4f}", f"{rates[name]['median']:.0f}",
         f"{rates['herdbook']['median'] / rates[name]['median']:.1f}"]
        for name in contenders
    ]  # fmt: skip
    common.print_table(["contender", "precision", "recall", "F1", "F1 body", "pages/core-s", "ours is x"], rows)
    print(f"aims: F1 {AIMS['f1']}, {AIMS['pages_per_core_second']} pages per core-second, n={len(pages(options.data))}")
    result = {
        "command": common.command_line(),
        "machine": common.machine(),
        "versions": common.versions(sys.executable, ["lxml"]) | common.versions(peers, ["trafilatura"]),
        "n": len(pages(options.data)),
        "repeats": options.repeats,
        "pages_per_core_second": rates,
        "scores": scores,
        "aims": AIMS,
    }
    common.write_result(options.out, result)


if __name__ == "__main__":
    main()
