"""What benchmarks share: the machine, contenders that take turns, processor time of whole process trees, results.

A contender is a command that does its work and prints one line of JSON last. Peers live in an environment of their own,
because some need older libraries than ours; `HERDBOOK_PEERS` names its python. Time is processor time, summed over all
processes, so that a figure per core-second holds beside other jobs and on any number of cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SHARED = HERE.parents[1] / "shared" / "data"
"""Real data beside the checkout."""


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, system and Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_name(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def peers_python(kind: str = "") -> Path:
    """The python of the peers' environment, or of the one named; ends the benchmark with what to do without it."""
    variable, name = ("HERDBOOK_PEERS", ".venv") if not kind else (f"HERDBOOK_PEERS_{kind.upper()}", f".{kind}")
    path = Path(os.environ.get(variable, HERE / "peers" / name / "bin" / "python"))
    if not path.is_file():
        made = f"benchmarks/peers/{name}"
        sys.exit(
            f"{path}: no environment of the peers; make one with\n  python -m venv {made} && "
            f"{made}/bin/pip install -r benchmarks/peers/{kind or 'requirements'}.txt\nor name its python in {variable}"
        )
    return path


def options_parser(doc: str | None, result: Path, *inputs: str) -> argparse.ArgumentParser:
    """Options of a benchmark that calls itself as a contender: --repeats, --out and, hidden, --work with `inputs`."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender")
    parser.add_argument("--out", type=Path, default=result, help="where the result is written")
    parser.add_argument("--work", nargs=len(inputs), metavar=inputs, help=argparse.SUPPRESS)
    return parser


def versions(python: Path | str, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages as a python sees them."""
    code = (
        "import json,sys;from importlib.metadata import version as v;print(json.dumps({p:v(p) for p in sys.argv[1:]}))"
    )
    ran = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True)
    return dict(json.loads(ran.stdout))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median and greatest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


@contextmanager
def processor_time() -> Iterator[dict[str, float]]:
    """Processor seconds of this process and of its ended children, and wall seconds, of what is done within."""
    found: dict[str, float] = {}
    before, started = _used(), time.perf_counter()
    yield found
    found["cpu_seconds"], found["wall_seconds"] = _used() - before, time.perf_counter() - started


def _used() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def run_once(command: Sequence[str], extra: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a contender with one thread a library: its last line, and the processor time of its whole tree.

    `tree_seconds` counts imports and start-up too; what a contender prints as `cpu_seconds` is its work alone.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(HERE.parent), **(extra or {})}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(list(command), stdout=output, stderr=errors, env=environment, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        lines = output.read().strip().splitlines()
        if process.returncode or not lines:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read()[-4000:]}")
    return {**json.loads(lines[-1]), "tree_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1e3}


def interleaved(
    contenders: Mapping[str, Sequence[str]], repeats: int, extra: Mapping[str, str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Run each contender `repeats` times, taking turns; none always comes after the same other."""
    names = list(contenders)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(repeats):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            runs[name].append(run_once(contenders[name], extra))
            print(f"  {number + 1}/{repeats} {name}: {runs[name][-1]['cpu_seconds']:.1f} core-s", file=sys.stderr)
    return runs


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, the first to the left and the others to the right."""
    cells = [list(row) for row in (headings, *rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headings))]
    for row in cells:
        print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip())


def command_line() -> str:
    """The command as it was typed, with the script's path as it stands in the project."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(HERE.parent) if script.is_relative_to(HERE.parent) else script
    return " ".join(["python", str(shown), *sys.argv[1:]])


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write the figures of a benchmark as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
