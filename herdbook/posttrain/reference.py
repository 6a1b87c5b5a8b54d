"""Log-probabilities under the reference, found once: the loop then holds one model only.

The reference is the model before its first step. What is found is kept in the user's cache folder by a hash of
weights and answers, so that another loss on the same data need not find it again.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from herdbook.console import log
from herdbook.posttrain.preference import answer_logprobs
from herdbook.posttrain.preference_batches import AnswerBatches
from herdbook.train.gradients import measured
from herdbook.train.settings import TuningSettings


def with_reference(
    batches: AnswerBatches, model: Any, folder: Path, settings: TuningSettings, parallel: Any = None
) -> None:
    """Put the log-probabilities of all answers under `model`, that of the Hugging Face `folder`, into `batches`.

    Called by every rank of a run in parallel, before the first step.
    """
    device = next(model.parameters()).device
    # A model spread for bf16 runs in nothing else; with auto the loop has not tried yet what is faster.
    bf16 = settings.precision in ("bf16", "float8") or (settings.precision == "auto" and device.type != "cpu")

    rounded = settings.lora.quantised if settings.lora is not None else None

    def look() -> tuple[Path, np.ndarray | None]:
        file = cache_folder() / f"reference-{_hash(batches, folder, f'{bf16} {rounded}')}.npy"
        return file, read(file, batches.answers)

    file, found = look() if parallel is None else parallel.same(look)
    if found is None:
        found = np.zeros((batches.answers, 2), np.float32)
        context = torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()
        training = model.training
        model.eval()
        with torch.no_grad(), context:
            for batch in batches.all():
                each = measured(model, answer_logprobs, batch, (*batch.groups.shape, 2), parallel)
                there = batch.groups >= 0
                found[batch.numbers[there].numpy()] = each[there].float().numpy()
        model.train(training)
        if parallel is None or parallel.rank == 0:
            keep(file, found)
    batches.reference = found


def cache_folder() -> Path:
    """Where what was found is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "herdbook"


def read(file: Path, answers: int) -> np.ndarray | None:
    """(answers, 2) what was kept; None when there is nothing, or it was cut off."""
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (answers, 2) and found.dtype == np.float32 else None


def keep(file: Path, found: np.ndarray) -> None:
    """Write what was found, whole or not at all; a folder that can't be written to costs the next run some time."""
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as stream:
            np.save(stream, found)
        draft.replace(file)
    except OSError as error:
        log("reference_not_kept", file=file, why=error.strerror or str(error))
        draft.unlink(missing_ok=True)


def _hash(batches: AnswerBatches, folder: Path, how: str) -> str:
    """Of the model's weights and shape, and of every id of every answer and prompt."""
    digest = xxhash.xxh3_128(f"2 {how}".encode())
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        with open(path, "rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    for example in batches.examples:
        for ids in (example.trunk, *(part for one in example.answers for part in (one.ids, one.kinds))):
            digest.update(np.int64(len(ids)).tobytes())
            digest.update(np.ascontiguousarray(ids).tobytes())
    return digest.hexdigest()
