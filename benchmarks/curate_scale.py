"""Curation's memory and time as the crawl grows: the global phase on made-up signatures, and a whole curation.

The global phase (near duplicates: bands, candidate pairs, comparison, components) runs alone on signatures with planted
copies whose truth is known, first on a tenth of `--documents`, then on all: its time may grow 1.2 times as fast.
The whole curation runs on every fourth page of a real crawl, then on all pages: the peak memory of all its processes
together may grow 1.2 times.

    python benchmarks/curate_scale.py [--documents 10000000] [--crawl FILE] [--workers 2] [--folder TMP]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import psutil

RESULT = common.RESULTS / "curate_scale.json"
CRAWL = common.SHARED / "web" / "debian-docs.warc.gz"
AIMS = {"growth_of_time": 1.2, "growth_of_memory": 1.2}
WIDTH, BAND_ROWS, THRESHOLD, BLOCK = 112, 4, 0.6, 1 << 14
ODD = np.random.default_rng(1).integers(0, 1 << 63, (2, WIDTH), dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def mixed(values: np.ndarray) -> np.ndarray:
    """A hash (n,) uint64 of numbers."""
    values = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(29))


def origin(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What is planted: the row (n,) that each document shares words with, itself if none, and their Jaccard similarity.

    Of ten documents seven are originals, two are copies (.8 to 1), and one is only related (.2 to .4).
    """
    chance = mixed(rows + 77)
    other = (chance % np.uint64(count // 10)).astype(np.int64) * 10 + (chance >> np.uint64(40)).astype(np.int64) % 7
    share = (chance >> np.uint64(20) & np.uint64(0xFFFF)) / 65536
    kind = rows % 10
    likeness = np.where(kind < 9, 0.8 + 0.2 * share, 0.2 + 0.2 * share)
    return np.where(kind < 7, rows, other), np.where(kind < 7, 1.0, likeness)


def write_signatures(path: Path, count: int) -> None:
    """A file of signatures (count, WIDTH) uint32 with what `origin` plants."""
    with open(path, "wb") as file:
        for start in range(0, count, BLOCK):
            rows = np.arange(start, min(start + BLOCK, count))
            other, likeness = origin(rows, count)
            own = (mixed(rows)[:, None] * ODD[0]) >> np.uint64(32)
            theirs = (mixed(other)[:, None] * ODD[0]) >> np.uint64(32)
            shared = ((mixed(rows + 5)[:, None] * ODD[1]) >> np.uint64(48)) < (likeness * 65536)[:, None]
            np.where(shared, theirs, own).astype("<u4").tofile(file)


def global_phase(path: Path, count: int) -> dict[str, Any]:
    """Run the phase on a file of signatures; time, peak memory, and what it found of what was planted."""
    from herdbook.corpus.columns import near_among
    from herdbook.corpus.engine import Native
    from herdbook.corpus.likeness import Signatures

    rows = np.arange(count)
    # Originals are better than their copies, else two copies of one original may both rightly stay.
    rank = np.empty(count, dtype=np.int64)
    rank[np.lexsort((mixed(rows), rows % 10 < 7))] = rows
    starts = [*range(0, count, BLOCK), count]
    with common.processor_time() as used:
        held, engine = Signatures(path, WIDTH, THRESHOLD), Native(path.parent / "engine")
        gone, _, _ = near_among(held, None, starts, np.ones(count, bool), rank, BAND_ROWS, engine)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    removed = np.zeros(count, dtype=bool)
    removed[np.argsort(rank)[gone]] = True
    copies = (rows % 10 == 7) | (rows % 10 == 8)
    right = int((removed & copies).sum())
    found = {"documents": count, **used, "peak_mb": peak, "removed": int(removed.sum())}
    return {**found, "precision": right / max(int(removed.sum()), 1), "recall": right / max(int(copies.sum()), 1)}


def curation(crawl: Path, out: Path, workers: int) -> dict[str, Any]:
    """Curate a crawl in a process of its own; pages, time, and the peak memory of all its processes together."""
    settings = {"workers": workers, "engine": "native", "sources": [{"path": str(crawl)}], "measure": {"shard_mb": 1}}
    command = [sys.executable, __file__, "--work-curate", str(out), json.dumps(settings)]
    started, peak = time.perf_counter(), 0
    with open(out.with_suffix(".log"), "w+") as log:
        process = psutil.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, tree_memory(process))
            time.sleep(0.05)
        log.seek(0)
        said = log.read()
    if process.returncode:
        sys.exit(f"curating {crawl} ended with {process.returncode}:\n{said[-3000:]}")
    documents = json.loads(said.strip().splitlines()[-1])
    return {"documents": documents, "wall_seconds": time.perf_counter() - started, "peak_mb": peak / 1e6}


def tree_memory(process: psutil.Process) -> int:
    """Bytes resident in a process and all below it."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def work_curate(out: Path, settings: str) -> None:
    """The process that curates."""
    from herdbook.corpus.curate import curate
    from herdbook.corpus.settings import CurateSettings

    out.mkdir()
    print(json.dumps(curate(CurateSettings.model_validate_json(settings), [], out)["documents"]))


def every_fourth(crawl: Path, target: Path) -> None:
    """Every fourth record of a crawl that is compressed record by record."""
    from fastwarc.warc import ArchiveIterator

    with open(crawl, "rb") as file:
        starts = [record.stream_pos for record in ArchiveIterator(file, parse_http=False)]
    data = crawl.read_bytes()
    ends = [*starts[1:], len(data)]
    target.write_bytes(b"".join(data[a:b] for a, b in list(zip(starts, ends))[::4]))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both measurements."""
    phases = []
    for count in (options.documents // 10, options.documents):
        path = folder / "signatures"
        write_signatures(path, count)
        phases.append(json.loads(
            subprocess.run([sys.executable, __file__, "--work-phase", str(path), str(count)], check=True,
                           capture_output=True, text=True).stdout.splitlines()[-1]))  # fmt: skip
        path.unlink()
    curations = []
    if options.crawl.is_file():
        quarter = folder / "quarter.warc.gz"
        every_fourth(options.crawl, quarter)
        for name, crawl in (("quarter", quarter), ("whole", options.crawl)):
            curations.append(curation(crawl, folder / name, options.workers))
    else:
        print(f"{options.crawl} is not here, so no whole curation; name a WARC file with --crawl", file=sys.stderr)
    small, large = phases
    return {
        "command": common.command_line(),
        "machine": common.machine(),
        "versions": common.versions(sys.executable, ["numpy", "pyarrow"]),
        "n": 1,
        "global_phase": phases,
        "growth_of_time": large["cpu_seconds"] / small["cpu_seconds"] / (large["documents"] / small["documents"]),
        "curation": curations,
        "growth_of_memory": curations[1]["peak_mb"] / curations[0]["peak_mb"] if curations else None,
        "aims": AIMS,
    }


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--documents", type=int, default=10_000_000, help="made-up signatures of the larger run")
    parser.add_argument("--crawl", type=Path, default=CRAWL, help="WARC file of real pages")
    parser.add_argument("--workers", type=int, default=2, help="processes that measure")
    parser.add_argument("--folder", type=Path, help="for files on the way: 1 kB a document")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    parser.add_argument("--work-phase", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--work-curate", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work_phase:
        print(json.dumps(global_phase(Path(options.work_phase[0]), int(options.work_phase[1]))))
        return
    if options.work_curate:
        work_curate(Path(options.work_curate[0]), options.work_curate[1])
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(options, Path(folder))
    rows = [
        [f"{p['documents']:,}", f"{p['cpu_seconds']:.1f}", f"{p['wall_seconds']:.1f}", f"{p['peak_mb']:,.0f}",
         f"{p['precision']:.4f}", f"{p['recall']:.4f}"] for p in result["global_phase"]
    ]  # fmt: skip
    common.print_table(["signatures", "core-s", "wall s", "peak MB", "precision", "recall"], rows)
    print(f"time grows {result['growth_of_time']:.2f} times as fast as the documents; aim <= {AIMS['growth_of_time']}")
    rows = [
        [f"{c['documents']['read']:,}", f"{c['wall_seconds']:.1f}", f"{c['peak_mb']:,.0f}"] for c in result["curation"]
    ]
    common.print_table(["pages curated", "wall s", "peak MB of all processes"], rows)
    if rows:
        print(f"memory grows {result['growth_of_memory']:.2f} times; aim <= {AIMS['growth_of_memory']}")
    common.write_result(options.out, result)


if __name__ == "__main__":
    main()
