"""Curation held against the known world: precision and recall of every kind of defect, over worlds of several seeds.

Worlds of the demo's kinds and shares are written, curated by the default rules and audited; pages of the same kind are
pooled over the seeds, and beside the pooled figure stands the worst seed's.

    python benchmarks/curate_defects.py [--seeds 1 2 3] [--scale 1.0]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

RESULT = common.RESULTS / "curate_defects.json"
AIM, COPIES_AIM = 0.95, 0.99
COPIES = ("url_duplicate", "exact_duplicate", "near_duplicate", "mirrored_site")
SCALED = ("problems", "programs", "short_chronicles", "language_problems", "math_articles", "quizzes")


def figures_of(seed: int, scale: float) -> tuple[dict[str, dict[str, Any]], float]:
    """The audit's figures by kind of defect, and the pages a core-second that curation took."""
    from herdbook.corpus.curate import curate
    from herdbook.corpus.settings import CurateSettings
    from herdbook.world.audit import AuditSettings, audit
    from herdbook.world.crawl import write_world
    from herdbook.world.settings import WorldSettings

    whole = WorldSettings(seed=seed)
    sizes = {name: max(int(getattr(whole, name) * scale), 1) for name in SCALED}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        world, documents, out = (Path(folder) / name for name in ("world", "documents", "audit"))
        for path in (world, documents, out):
            path.mkdir()
        write_world(WorldSettings(seed=seed, **sizes), world)
        with common.processor_time() as took:
            counts = curate(CurateSettings(), [world], documents)["documents"]
        defects = audit(AuditSettings(), world, documents, out)["defects"]
    assert counts["read"] == counts["kept"] + counts["dropped"] + counts["quarantined"]
    return defects, counts["read"] / took["cpu_seconds"]


def pooled(found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By kind: pages, and recall and precision of all seeds' pages together and of the worst seed."""
    from herdbook.world.figures import share

    result: dict[str, dict[str, Any]] = {}
    for kind in found[0]:
        row: dict[str, Any] = {"pages": sum(defects[kind]["pages"] for defects in found)}
        for figure in ("recall", "precision"):
            ones = [defects[kind][figure] for defects in found if figure in defects[kind]]
            hits = sum(round(one["value"] * one["n"]) for one in ones)
            row[figure] = {
                **(share(hits, sum(one["n"] for one in ones)) or {}),
                "worst_seed": min((one["value"] for one in ones), default=None),
            }
        row["aim"] = COPIES_AIM if kind in COPIES else AIM
        row["reached"] = all((row[name].get("value") or 0) >= row["aim"] for name in ("recall", "precision"))
        result[kind] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--scale", type=float, default=1.0, help="size of the worlds as a share of the demo's")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found, rates = [], []
    for seed in options.seeds:
        defects, rate = figures_of(seed, options.scale)
        found.append(defects)
        rates.append(rate)
    kinds = pooled(found)
    rows = [
        [
            kind,
            str(row["pages"]),
            *(f"{row[name]['value']:.4f} ({row[name]['worst_seed']:.3f})" for name in ("recall", "precision")),
            f"{row['aim']:.2f} {'reached' if row['reached'] else 'not reached'}",
        ]
        for kind, row in kinds.items()
    ]
    common.print_table(["defect", "pages", "recall (worst seed)", "precision (worst seed)", "aim"], rows)
    rate = common.spread(rates)
    print(f"curation of worlds: {rate['median']:.0f} pages per core-second ({rate['min']:.0f} to {rate['max']:.0f})")
    result = {
        "command": common.command_line(),
        "machine": common.machine(),
        "versions": common.versions(sys.executable, ["herdbook", "numpy", "pyarrow"]),
        "n": sum(row["pages"] for row in kinds.values()),
        "seeds": options.seeds,
        "scale": options.scale,
        "defects": kinds,
        "pages_per_core_second": rate,
    }
    common.write_result(options.out, result)


if __name__ == "__main__":
    main()
