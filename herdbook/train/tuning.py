"""Runs that go on from a Hugging Face folder and leave one: what every objective of post-training has in common.

The model is loaded whole in one process or in parts on many ranks, trained by the one loop, and written with its
tokenizer as a folder that ends its turns, so that engines and transformers know it for a chat model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from herdbook.console import log
from herdbook.model.adapters import save_adapter
from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import assign, checked_weights, read_config, save_model
from herdbook.model.lora import add_lora, merge, trained
from herdbook.model.lora_settings import LoraSettings
from herdbook.model.reward import RewardConfig
from herdbook.model.transformer import Transformer, drawn
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import END_HEADER, END_OF_MESSAGE, END_OF_TURN, PAD, START_HEADER, Tokenizer
from herdbook.train.alone import alone, compile_blocks
from herdbook.train.parallel import Parallel
from herdbook.train.phases import Plan
from herdbook.train.settings import TuningSettings
from herdbook.train.spread import is_spread
from herdbook.train.start import applied, filled, spread_blank
from herdbook.train.topology import check_plan


def model_folder(entry: Path) -> Path:
    """Where a model entry has its Hugging Face folder; the entry may be such a folder itself."""
    return entry / "model" if (entry / "model" / "config.json").is_file() else entry


@dataclass(frozen=True)
class Adapted:
    """What a model with adapters stands upon."""

    folder: Path
    """The Hugging Face folder of the frozen model."""

    lora: LoraSettings

    tokens: tuple[int, ...]
    """Ids whose rows of embedding and head are trained."""

    figures: dict[str, float]
    """How many parameters are trained, and their share of the model's."""


def begin(
    settings: TuningSettings,
    folder: Path,
    parallel: Parallel | None,
    longest: int | None = None,  # tokens of the longest dialog; None: there may be some as long as a row
    scores: bool = False,
) -> Any:
    """The model of a Hugging Face folder before its first step, whole or in this rank's part; weights are fp32.

    With `settings.lora` its adapters are what is trained; with `scores` it is to become a reward model, its head drawn
    anew. UserError when the topology does not fit the model, or dialogs are longer than what it was made for.
    """
    config = read_config(folder)
    row = max(part.length for part in Plan.of(settings).parts)
    if (longest or row) > config.max_length:
        what = f"dialogs of {longest} tokens" if longest else f"rows of length={row} tokens"
        raise UserError(
            f"{what} are longer than the {config.max_length} that the model {folder} holds; make length smaller, or "
            "extend the model first"
        )
    if parallel is not None:
        check_plan(settings.parallel, config, Plan.of(settings))
    wanted = RewardConfig.of(config) if scores else config
    if settings.lora is not None:
        whole = ("head.weight",) if scores else ()
        return adapted(whole_model(folder, wanted, settings.seed), settings, folder, parallel, whole)
    if parallel is None:
        return alone(whole_model(folder, wanted, settings.seed), settings)
    model = filled(spread_blank(parallel, wanted, settings), weights_of(folder, wanted, settings.seed))
    if settings.compile:
        compile_blocks(model, settings.parallel.recompute)
    return model


def whole_model(folder: Path, config: ModelConfig, seed: int) -> Transformer:
    """The model of a folder in one process, or a reward model with its trunk; weights are fp32."""
    with torch.device("meta"):
        model = Transformer(config)
    weights = {name: weight.to(torch.float32, copy=True) for name, weight in weights_of(folder, config, seed)}
    assign(model, weights)
    return model


def weights_of(folder: Path, config: ModelConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """A language model's weights, one at a time; for a reward model with a head that is drawn by the seed."""
    scores = isinstance(config, RewardConfig)
    with torch.device("meta"):
        names = Transformer(read_config(folder))
    for name, weight in checked_weights(folder, names):
        if not (scores and name == "head.weight"):
            yield name, weight
    if scores:
        yield "head.weight", drawn("head.weight", torch.Size((config.head_words, config.dim)), config.layers, seed)


def adapted(
    model: Any,
    settings: TuningSettings,
    folder: Path,
    parallel: Parallel | None,
    whole: Collection[str] = (),  # weights that are trained beside the adapters, such as a new head
) -> Any:
    """The plain model of `folder` with adapters, as this process trains it; the model is changed in place.

    Every rank loads the whole model once: only what is left after sharding is kept.
    """
    assert settings.lora is not None
    total = sum(weight.numel() for weight in model.parameters())
    tokens = tuple(chat_ids(Tokenizer.load(folder))) if settings.lora.chat_tokens else ()
    add_lora(model, settings.lora, settings.seed, whole, tokens)
    if settings.lora.dropout:  # what is left out is a function of the seed, of other things on each rank
        torch.manual_seed(settings.seed + (parallel.rank if parallel is not None else 0))
    count = sum(weight.numel() for weight in trained(model).values())
    log("lora", rank=settings.lora.rank, trained=count, of=total, share=count / total)
    figures = {"trained_parameters": count, "trained_share": count / total}
    if parallel is None:
        model = alone(model, settings)
    else:
        model = applied(parallel, model, settings)
    object.__setattr__(model, "adapted", Adapted(folder, settings.lora, tokens, figures))
    return model


def trained_share(model: nn.Module) -> dict[str, float]:
    """`trained_parameters` and `trained_share` of a model with adapters, for the figures; nothing of another."""
    base: Adapted | None = getattr(model, "adapted", None)
    return {} if base is None else base.figures


def trained_wholes(model: nn.Module, parallel: Parallel | None) -> dict[str, Tensor]:
    """The trained weights as whole tensors on the CPU, wherever their parts lie; called by every rank."""
    mine = {}
    for name, weight in trained(model).items():
        found = weight.detach()
        mine[name] = (found.full_tensor() if is_spread(found) else found).cpu()
    if parallel is None or parallel.settings.pipeline == 1:
        return mine
    return {name: weight for part in parallel.ranks.gathered(mine) for name, weight in part.items()}


def chat_ids(tokenizer: Tokenizer) -> list[int]:
    """The special tokens that the chat format is made of."""
    names = (START_HEADER, END_HEADER, END_OF_TURN, END_OF_MESSAGE)
    return [tokenizer.special_tokens[name] for name in names if name in tokenizer.special_tokens]


def end_ids(tokenizer: Tokenizer) -> list[int]:
    """What ends an answer of a chat model: end of text, of a turn, and of a message that calls a tool."""
    more = tokenizer.special_tokens.get(END_OF_MESSAGE)
    return [tokenizer.eos_id, *([] if more is None else [more]), tokenizer.eot_id]


def export(model: Any, tokenizer: Tokenizer, folder: Path, parallel: Parallel | None, dtype: str = "float32") -> None:
    """Write the model, its tokenizer and chat template as one Hugging Face folder; called by every rank.

    Adapters are merged into it, and those of a language model lie in peft's format in `adapter` beside the folder.
    """
    stored = torch.float32 if dtype == "float32" else torch.bfloat16
    options: dict[str, Any] = {"dtype": stored, "bos_id": tokenizer.bos_id, "eos_ids": end_ids(tokenizer)}
    scores = isinstance(model.config, RewardConfig)
    if scores:
        options["pad_id"] = tokenizer.special_tokens.get(PAD)
    leads = parallel is None or parallel.rank == 0
    if leads:
        tokenizer.save(folder)
    base: Adapted | None = getattr(model, "adapted", None)
    if base is not None:
        weights = trained_wholes(model, parallel)
        if leads:
            plain = whole_model(base.folder, model.config, 0)  # a head drawn anew is among what was trained
            if not scores:
                beside = folder.parent / "adapter"
                save_adapter(weights, base.lora, base.folder, beside, plain.config.experts > 0, tokens=base.tokens)
            merge(plain, weights, base.lora, base.tokens)
            save_model(plain, folder, **options)
        if parallel is not None:
            parallel.ranks.gathered(None)  # nobody leaves before it is written
    elif parallel is not None:
        from herdbook.train.export import save_spread

        save_spread(parallel.ranks, model, folder, **options)
    else:
        save_model(model, folder, **options)
