"""A model in parts as one Hugging Face folder, without a machine that has to hold it whole.

Every file has weights of one pipeline stage, and one of its ranks gathers and writes it, weight by weight: no rank
holds more than one file. Files are published together, by the first rank, when all are on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from herdbook.model.huggingface import config_to_json, file_names, publish, shards, theirs, write_weights
from herdbook.settings import UserError
from herdbook.train.distributed import Ranks


@torch.no_grad()
def save_spread(
    ranks: Ranks,
    model: nn.Module,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    bos_id: int | None,
    eos_ids: Sequence[int],
    shard_bytes: int = 5_000_000_000,
) -> None:
    """As `huggingface.save_model`; called by every rank."""
    ranks.from_first(lambda: folder.mkdir(parents=True, exist_ok=True))
    weights = {theirs(name): weight.detach() for name, weight in model.named_parameters()}
    groups = shards(weights, dtype.itemsize, shard_bytes)
    of_stage = ranks.size // ranks.settings.pipeline  # neighbours in rank share a stage
    every = ranks.gathered((groups, sum(weight.numel() for weight in weights.values())))[::of_stage]
    all_groups = [group for stage_groups, _ in every for group in stage_groups]
    drafts = [folder / f".{name}.tmp" for name in file_names(len(all_groups))]
    before = sum(len(stage_groups) for stage_groups, _ in every[: ranks.stage_rank])
    problem = None
    for number, group in enumerate(groups):
        mine = number % of_stage == ranks.rank % of_stage
        tensors: dict[str, Tensor] = {}
        for name in group:
            whole = weights[name].full_tensor()  # type: ignore[attr-defined]
            if mine:
                tensors[name] = whole.to(dtype=dtype, device="cpu").contiguous()
        if mine and problem is None:
            try:
                write_weights(tensors, drafts[before + number])
            except Exception as error:
                problem = f"rank {ranks.rank}: {error}"
    problems = [one for one in ranks.gathered(problem) if one]
    if problems:
        ranks.from_first(partial(_remove, drafts))
        raise UserError(f"{folder}: the model could not be written ({problems[0]}); free some space and run again")
    size = sum(numbers for _, numbers in every) * dtype.itemsize
    config = config_to_json(model.config, dtype, bos_id, eos_ids)  # type: ignore[arg-type]
    ranks.from_first(lambda: publish(folder, drafts, all_groups, size, config))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
