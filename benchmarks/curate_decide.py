"""Deciding again with a changed threshold, beside the time that measuring takes.

A crawl of real pages is curated once. Then one threshold after the other is changed, from rules early and late in their
order, and it is decided again, each time from the state that the usual thresholds left. Processor time, of all
processes and threads together.

    python benchmarks/curate_decide.py [--crawl FILE] [--repeats 3] [--workers 2]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

from herdbook.corpus.curate import curate, decide_again
from herdbook.corpus.settings import CurateSettings

RESULT = common.RESULTS / "curate_decide.json"
CRAWL = common.SHARED / "web" / "debian-docs.warc.gz"
AIM = 1 / 20
CHANGES = {
    "length_words": 60.0,
    "adult_share": 0.002,
    "divergence_excess": 3.0,
    "duplicate_near_similarity": 0.75,
    "lines_words_left": 40.0,
}
"""Other thresholds, in the order in which their rules come: what lies behind a rule is decided anew."""


def quiet(function: Any, *arguments: Any) -> Any:
    """Call it without its table on the screen."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def measure(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Curate once, then decide again and again."""
    usual = CurateSettings.model_validate(
        {"workers": options.workers, "engine": "native", "sources": [{"path": str(options.crawl)}]}
    )
    with common.processor_time() as whole:
        figures = quiet(curate, usual, [], out)
    for left in (".decided", "documents", "measurements"):
        shutil.rmtree(out / left)
    with common.processor_time() as first:
        quiet(decide_again, usual, out)
    with common.processor_time() as unchanged:
        quiet(decide_again, usual, out)
    measuring = {
        "cpu_seconds": whole["cpu_seconds"] - first["cpu_seconds"],
        "wall_seconds": figures["seconds"]["measure"],
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CHANGES}
    kept = {}
    for _ in range(options.repeats):
        for name, threshold in CHANGES.items():
            changed = usual.model_copy(update={"thresholds": {name: threshold}})
            with common.processor_time() as used:
                kept[name] = quiet(decide_again, changed, out)["documents"]["kept"]
            runs[name].append(used)
            quiet(decide_again, usual, out)
    worst = max(statistics.median(run["cpu_seconds"] for run in found) for found in runs.values())
    return {
        "command": common.command_line(),
        "machine": common.machine(),
        "versions": common.versions(sys.executable, ["numpy", "pyarrow"]),
        "n": options.repeats,
        "documents": figures["documents"],
        "kept": kept,
        "measuring": measuring,
        "deciding_first": first,
        "deciding_unchanged": unchanged,
        "deciding_changed": {
            name: {key: common.spread([run[key] for run in found]) for key in ("cpu_seconds", "wall_seconds")}
            for name, found in runs.items()
        },
        "share_of_measuring": worst / measuring["cpu_seconds"],
        "aim": AIM,
    }


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--crawl", type=Path, default=CRAWL, help="WARC file of real pages")
    parser.add_argument("--repeats", type=int, default=3, help="times each threshold is changed")
    parser.add_argument("--workers", type=int, default=2, help="processes that measure")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    options = parser.parse_args()
    if not options.crawl.is_file():
        sys.exit(f"{options.crawl}: no such crawl; name a WARC file of real pages with --crawl")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    rows = []
    for name in ("measuring", "deciding_first", "deciding_unchanged"):
        rows.append([name, f"{result[name]['cpu_seconds']:.2f}", "", "", f"{result[name]['wall_seconds']:.2f}"])
    for name, found in result["deciding_changed"].items():
        cpu, wall = found["cpu_seconds"], found["wall_seconds"]
        shown = [f"{cpu[key]:.2f}" for key in ("median", "min", "max")]
        rows.append([f"changed {name}", *shown, f"{wall['median']:.2f}"])
    common.print_table(["", "core-s", "min", "max", "wall s"], rows)
    share = result["share_of_measuring"]
    print(f"slowest: {share:.4f} of measuring (1/{1 / share:.0f}); aim < 1/{1 / AIM:.0f}; n={result['n']}")
    common.write_result(options.out, result)


if __name__ == "__main__":
    main()
