"""Answers to many prompts by many engines (`herdbook generate`): what rejection sampling and synthesis draw from.

Daft hands parts of the prompts to engines, each in a process of its own with its own devices: on this machine, or on
the nodes of a Ray cluster (HERDBOOK_ENGINE=ray). A part's answers are published whole, as one file; a job that was
killed goes on with the parts that are not there. An answer is a function of model, row and settings: number of engines,
size of parts and interruptions change nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from herdbook import console
from herdbook.files import read_json, write_json
from herdbook.inference.backends import Backend, Dtype, choose_backend
from herdbook.inference.layout import Layout, check_layout
from herdbook.inference.prompts import Part, cut_parts, prompt_files
from herdbook.inference.sampler import Sampling
from herdbook.model.huggingface import read_config
from herdbook.settings import Settings, UserError

JOB = "generate.json"
DONE = "done.json"


class GenerateSettings(Settings):
    """How prompts are answered."""

    n: int = Field(default=1, ge=1)
    """Answers to each prompt."""

    sampling: Sampling = Sampling()
    """How an answer is drawn; row r has the seed `seed` + r, unless it has a column `seed`."""

    token_ids: bool = False
    """Keep the tokens of each answer."""

    part: int = Field(default=256, ge=1)
    """Prompts of a part, which an engine works on at a time and finishes or begins anew."""

    engines: int = Field(default=0, ge=0)
    """Engines at work; 0: one for each group of devices, or one on a CPU."""

    rows: int = Field(default=64, ge=1)
    """Most answers that an engine writes at once."""

    layout: Layout = Layout()
    """How the model of one engine lies over several processes."""

    device: str | None = None
    """cpu or cuda; where there are GPUs, cuda if left out."""

    backend: Backend = "auto"
    """own, vllm (extra `vllm`), or auto: vllm where it is installed and there are GPUs."""

    dtype: Dtype = "auto"
    """Precision of the weights; auto: as stored, but float32 on a CPU without bfloat16 units."""


def generate(model: Path, prompts: Path, out: Path, settings: GenerateSettings) -> dict[str, Any]:
    """Answer all prompts into `out` as part-….jsonl: each row as it was, with `answers`; returns figures.

    An answer is `text`, `finish_reason`, `tokens`, and what was asked for of `logprobs` and `token_ids`. A row that
    cannot be asked gets `error` in place of `answers`. UserError when `out` holds answers of another job.
    """
    check_layout(settings.layout, read_config(model))
    # Chosen once: what is begun by one backend is not gone on with by another.
    settings = settings.model_copy(update={"backend": choose_backend(settings.backend, settings.device)})
    files = prompt_files(prompts)
    parts = cut_parts(files, settings.part)
    begin(out, model, files, settings)
    with alone(out):
        return go_on(model, parts, out, settings)


def go_on(model: Path, parts: Sequence[Part], out: Path, settings: GenerateSettings) -> dict[str, Any]:
    """Answer the parts that are not there yet; figures of all."""
    left = [part for part in parts if not (out / part.name).is_file()]
    engines = min(count_engines(settings), len(left))
    rows = sum(part.rows for part in parts)
    console.log("generate", prompts=rows, parts=len(parts), done=len(parts) - len(left), engines=engines)
    start = time.monotonic()
    with console.progress("generate", rows, "prompts") as tracker:
        tracker.advance(rows - sum(part.rows for part in left))
        tokens = 0
        for told in answered(left, model, out, settings, engines):
            tokens += told["tokens"]
            tracker.note(tokens=tokens)
            tracker.advance(told["prompts"])
    figures = count_answers(out, parts)
    figures |= {"seconds": round(time.monotonic() - start, 3), "engines": engines, "parts_now": len(left)}
    write_json(out / DONE, figures)
    return figures


def begin(out: Path, model: Path, files: Sequence[Path], settings: GenerateSettings) -> None:
    """Say in `out` what is answered there; UserError when it was something else that was begun."""
    changes_nothing = {"engines", "rows", "layout", "device"}
    job = {
        "settings": settings.model_dump(mode="json", exclude=changes_nothing),
        "model": marks(sorted(file for file in model.iterdir() if file.is_file())),
        "prompts": marks(files),
    }
    path = out / JOB
    if path.is_file():
        before = read_json(path)
        changed = [name for name in job if before.get(name) != job[name]]
        if changed:
            raise UserError(
                f"{out} holds answers begun with other {' and '.join(changed)}; give another folder, or remove it"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty, and holds no answers that could be gone on with; give another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, job)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """UserError while another command works at the same answers."""
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another command is writing answers to {out}; wait for its end") from None
        yield


def marks(files: Sequence[Path]) -> str:
    """A hash of files' names, sizes and times of change: reading terabytes to find them unchanged takes too long."""
    told = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


def count_engines(settings: GenerateSettings) -> int:
    """How many engines there are to be."""
    if settings.engines:
        return settings.engines
    gpus = cluster_gpus() if on_ray() else own_gpus(settings)
    return max(1, gpus // settings.layout.ranks)


def on_ray() -> bool:
    """Whether a Ray cluster was asked for."""
    return os.environ.get("HERDBOOK_ENGINE") == "ray"


def own_gpus(settings: GenerateSettings) -> int:
    """GPUs of this machine that engines may take."""
    import torch

    return torch.cuda.device_count() if settings.device != "cpu" and torch.cuda.is_available() else 0


def cluster_gpus() -> int:
    """GPUs of the cluster."""
    from herdbook.corpus.cluster import connect

    return int(connect().cluster_resources().get("GPU", 0))


def answered(
    parts: Sequence[Part], model: Path, out: Path, settings: GenerateSettings, engines: int
) -> Iterator[dict[str, Any]]:
    """Have the parts answered; what each engine tells of a part when it is published."""
    if not parts:
        return
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import daft

    if on_ray():
        from herdbook.corpus.cluster import connect

        connect()
        daft.set_runner_ray(noop_if_initialized=True)
    gpus = settings.layout.ranks if on_ray() and settings.device != "cpu" and cluster_gpus() else 0
    from herdbook.inference.fleet_worker import EngineWorker

    workers: Any = daft.cls(EngineWorker, max_concurrency=engines, use_process=True, gpus=gpus)
    told = json.dumps(
        {
            "model": str(model.absolute()),
            "out": str(out.absolute()),
            "settings": settings.model_dump(mode="json"),
            "engines": engines,
            "gpus": 0 if on_ray() else own_gpus(settings),
            "parent": 0 if on_ray() else os.getpid(),
        }
    )
    frame = daft.from_pydict({"part": [part.told() for part in parts]})
    if on_ray():
        frame = frame.into_partitions(len(parts))
    answers = workers(told).answer(frame["part"])
    try:
        for row in frame.select(answers.alias("told")).iter_rows():
            yield json.loads(row["told"])
    except Exception as error:
        if isinstance(error, UserError):
            raise
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or RuntimeError(f"an engine has ended: {error}; run again to go on") from error


def count_answers(out: Path, parts: Sequence[Part]) -> dict[str, Any]:
    """What lies in `out`: prompts, answers and their tokens, how many ended by themselves, rows that failed."""
    figures: dict[str, Any] = dict.fromkeys(("prompts", "answers", "tokens", "ended", "failed"), 0)
    first = ""
    for part in parts:
        with open(out / part.name, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                figures["prompts"] += 1
                if "error" in row:
                    figures["failed"] += 1
                    first = first or row["error"]
                for answer in row.get("answers", []):
                    figures["answers"] += 1
                    figures["tokens"] += answer["tokens"]
                    figures["ended"] += answer["finish_reason"] == "stop"
    if first:
        figures["first_failure"] = first
    return figures
