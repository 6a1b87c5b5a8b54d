"""Runs that go on from a Hugging Face folder and leave one: what every objective of post-training has in common.

The model is loaded whole in one process or in parts on many ranks, trained by the one loop, and written with its
tokenizer as a folder that ends its turns, so that engines and transformers know it for a chat model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from herdbook.model.huggingface import load_model, read_config, save_model
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import END_OF_MESSAGE, Tokenizer
from herdbook.train.alone import alone, compile_blocks
from herdbook.train.parallel import Parallel
from herdbook.train.phases import Plan
from herdbook.train.settings import TrainSettings
from herdbook.train.start import loaded_model
from herdbook.train.topology import check_plan


def model_folder(entry: Path) -> Path:
    """Where a model entry has its Hugging Face folder; the entry may be such a folder itself."""
    return entry / "model" if (entry / "model" / "config.json").is_file() else entry


def begin(settings: TrainSettings, folder: Path, parallel: Parallel | None) -> Any:
    """The model of a Hugging Face folder before its first step, whole or in this rank's part; weights are fp32.

    UserError when the topology does not fit it, or rows are longer than what it was made for.
    """
    config = read_config(folder)
    longest = max(part.length for part in Plan.of(settings).parts)
    if longest > config.max_length:
        raise UserError(
            f"rows of length={longest} tokens are longer than the {config.max_length} that the model {folder} holds; "
            "make them shorter, or extend the model first"
        )
    if parallel is None:
        return alone(load_model(folder, dtype=torch.float32), settings)
    check_plan(settings.parallel, config, Plan.of(settings))
    model = loaded_model(parallel, folder, settings)
    if settings.compile:
        compile_blocks(model, settings.parallel.recompute)
    return model


def end_ids(tokenizer: Tokenizer) -> list[int]:
    """What ends an answer of a chat model: end of text, of a turn, and of a message that calls a tool."""
    more = tokenizer.special_tokens.get(END_OF_MESSAGE)
    return [tokenizer.eos_id, *([] if more is None else [more]), tokenizer.eot_id]


def export(
    model: nn.Module, tokenizer: Tokenizer, folder: Path, parallel: Parallel | None, dtype: str = "float32"
) -> None:
    """Write the model, its tokenizer and chat template as one Hugging Face folder; called by every rank."""
    stored = torch.float32 if dtype == "float32" else torch.bfloat16
    if parallel is None or parallel.rank == 0:
        tokenizer.save(folder)
    if parallel is not None:
        from herdbook.train.export import save_spread

        save_spread(parallel.ranks, model, folder, dtype=stored, bos_id=tokenizer.bos_id, eos_ids=end_ids(tokenizer))
        return
    save_model(model, folder, dtype=stored, bos_id=tokenizer.bos_id, eos_ids=end_ids(tokenizer))  # type: ignore[arg-type]
