"""One engine of a fleet, in the process that Daft starts for it (`fleet.py`)."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import daft
import torch

from herdbook.files import write_text
from herdbook.inference.backends import load_engine
from herdbook.inference.base import BaseEngine
from herdbook.inference.fleet import GenerateSettings
from herdbook.inference.prompts import Part, prompt_ids, read_part
from herdbook.inference.sampler import Sampling
from herdbook.settings import UserError

WATCH_SECONDS = 0.5


class EngineWorker:
    """One engine in its own process, as Daft makes it."""

    def __init__(self, told: str) -> None:
        self.told = json.loads(told)
        self.out = Path(self.told["out"])
        self.settings = GenerateSettings.model_validate(self.told["settings"])
        if self.told["parent"]:
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
            self._take_devices()
        settings = self.settings
        self.engine = load_engine(
            self.told["model"],
            settings.backend,
            device=settings.device,
            dtype=settings.dtype,
            rows=settings.rows,
            layout=settings.layout,
        )

    def _take_devices(self) -> None:
        """This engine's GPUs, or its share of the cores: what no other of the job's processes has."""
        engines, ranks, gpus = self.told["engines"], self.settings.layout.ranks, self.told["gpus"]
        for number in range(engines):
            lock = os.open(
                self.out / f".engine-{number}.lock", os.O_CREAT | os.O_WRONLY
            )  # held until this process ends
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            if gpus:
                first = number * ranks % gpus
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(first, first + ranks)))
            break
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, min(cores, int(os.environ.get("OMP_NUM_THREADS", cores))) // engines))

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
    def answer(self, told: daft.Series) -> list[str]:
        """Answer parts and publish each; their figures as JSON."""
        return [self.publish(Part.heard(part)) for part in told.to_pylist()]

    def publish(self, part: Part) -> str:
        """Answer one part and publish it."""
        rows = read_part(part)
        lines = answer_rows(self.engine, rows, part, self.settings)
        write_text(self.out / part.name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))
        tokens = sum(answer["tokens"] for row in lines for answer in row.get("answers", []))
        return json.dumps({"prompts": len(rows), "tokens": tokens})


def answer_rows(
    engine: BaseEngine, rows: Sequence[dict[str, Any]], part: Part, settings: GenerateSettings
) -> list[dict[str, Any]]:
    """The rows with their answers, or with what kept them from being asked."""
    made: list[dict[str, Any]] = [dict(row) for row in rows]
    asks: list[tuple[int, list[int], Sampling, int]] = []
    for place, row in enumerate(made):
        seed = row.get("seed")
        changes = {"seed": settings.sampling.seed + part.first + place if seed is None else seed}
        sampling = settings.sampling.model_copy(update=changes)
        try:
            ids, dialog = prompt_ids(row, engine.tokenizer)
            engine.check(ids, sampling)
        except UserError as error:
            row["error"] = f"row {part.row + place + 1} of {Path(part.file).name}: {error}"
            continue
        if dialog:  # a base model, too, is not to go on with the next turn
            sampling = sampling.model_copy(update={"stop_ids": (*sampling.stop_ids, engine.tokenizer.eot_id)})
        row["answers"] = []
        asks += [(place, ids, sampling, number) for number in range(settings.n)]
    found = engine.generate(
        [ids for _, ids, _, _ in asks],
        [sampling for _, _, sampling, _ in asks],
        [number for _, _, _, number in asks],
    )
    for (place, _, _, _), completion in zip(asks, found, strict=True):
        answer: dict[str, Any] = {"text": completion.text, "finish_reason": completion.finish_reason}
        answer["tokens"] = len(completion.token_ids)
        if completion.logprobs is not None:
            answer["logprobs"] = [one.logprob for one in completion.logprobs]
        if settings.token_ids:
            answer["token_ids"] = completion.token_ids
        made[place]["answers"].append(answer)
    return made


def _end_with(parent: int) -> None:
    """End when the command is gone: another one may begin at the same parts at any time."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)
