"""Initial pre-training (§3.4): token sets to a base model, judged in bits per byte of held-out pages.

Bits per byte count what a compressor would have to write for the same pages: the code of every token after
a document's first (begin of text, which every document has), its end-of-text token included, over the bytes of
its text. Thus the figure can stand beside xz's, and does not depend on the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.pretrain.settings import ModelShape, PretrainSettings, budgeted, shape_of
from herdbook.settings import UserError

if TYPE_CHECKING:
    from torch import nn

    from herdbook.model.config import ModelConfig
    from herdbook.model.transformer import Transformer
    from herdbook.tokens.batches import HeldOut
    from herdbook.tokens.shards import TokenSets
    from herdbook.train.parallel import Parallel
    from herdbook.train.phased import PhasedBatches

__all__ = ["ModelShape", "PretrainSettings", "bits_per_byte", "pretrain"]


def pretrain(settings: PretrainSettings, tokens: Path, start: Path | None, out: Path) -> dict[str, Any]:
    """Train on the token sets in `tokens` and write `out`/model, going on from what a killed run left in `out`.

    `start` is a model entry to go on from. Returns loss (nats per token), bits_per_byte (of all held-out pages, and
    per set), tokens, tokens_per_second, mfu, parameters, seconds. Raises UserError as `train` does, and when shape
    and tokenizer don't fit.
    """
    from herdbook.console import log
    from herdbook.model.huggingface import read_config
    from herdbook.tokens.shards import TokenSets
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.metrics import nested
    from herdbook.train.objective import NextToken
    from herdbook.train.phased import PhasedBatches
    from herdbook.train.phases import Plan
    from herdbook.train.start import in_group, joined_groups

    if settings.parallel.processes > 1 and not in_group():
        from herdbook.train.launch import launch

        return launch(
            "herdbook.pretrain.stages:pretrain", settings, settings.parallel, tokens=tokens, start=start, out=out
        )
    prepare(settings.threads)
    parallel, groups = joined_groups(settings.parallel)
    sets = TokenSets.open(tokens)
    settings = budgeted(settings, start_shape(settings, sets) if start is None else read_config(start / "model"))
    batches = PhasedBatches(sets, Plan.of(settings), settings.seed, settings.packing)
    model = begin(parallel, settings, sets, start)
    parameters = model.config.parameters()
    log("model", parameters=parameters, sets=",".join(batches.names), **_passes(batches))
    validate = Validation(settings, batches)
    judge = validate if validate.names else None
    figures = train(model, NextToken(), batches, settings, out, validate=judge, parallel=groups)
    if groups is None or groups.leads:
        export(model, settings, sets, tokens, out, parallel)
    return {**nested(figures), "parameters": parameters}


def begin(
    parallel: Parallel | None,
    settings: PretrainSettings,
    sets: TokenSets,
    start: Path | None,
    reshape: Callable[[ModelConfig], ModelConfig] | None = None,
) -> Any:
    """The model before its first step, whole or in this process's part; `reshape` changes what weights do not tell."""
    from herdbook.train.alone import alone, compile_blocks

    if parallel is None:
        return alone(make_model(settings, sets, start, reshape), settings)
    model = spread_model(parallel, settings, sets, start, reshape)
    if settings.compile:
        compile_blocks(model, settings.parallel.recompute)
    return model


def make_model(
    settings: PretrainSettings,
    sets: TokenSets,
    start: Path | None,
    reshape: Callable[[ModelConfig], ModelConfig] | None = None,
) -> Transformer:
    """The model before its first step: loaded from `start`, or drawn from the seed."""
    import torch

    from herdbook.model.huggingface import load_model
    from herdbook.model.transformer import Transformer

    if start is None:
        model = Transformer(start_shape(settings, sets))
        model.initialize(settings.seed)
        return model
    model = load_model(start / "model", dtype=torch.float32)
    check_start(settings, sets, start, model.config)
    if settings.upcycle is not None:
        from herdbook.model.upcycle import upcycle

        how = settings.upcycle
        model = upcycle(model, how.experts, how.per_token, how.router_loss, settings.seed)
    if reshape is None:
        return model
    other = Transformer(reshape(model.config))
    other.load_state_dict(model.state_dict())
    return other


def spread_model(
    parallel: Parallel,
    settings: PretrainSettings,
    sets: TokenSets,
    start: Path | None,
    reshape: Callable[[ModelConfig], ModelConfig] | None = None,
) -> nn.Module:
    """As `make_model`, over many ranks: no rank has to hold the whole model, but where one is upcycled."""
    from herdbook.model.huggingface import read_config
    from herdbook.train.phases import Plan
    from herdbook.train.start import applied, drawn_model, loaded_model
    from herdbook.train.topology import check_plan

    plan = Plan.of(settings)
    if settings.upcycle is not None:
        model = make_model(settings, sets, start, reshape)
        check_plan(settings.parallel, model.config, plan)
        return applied(parallel, model, settings)
    if start is None:
        config = start_shape(settings, sets)
        check_plan(settings.parallel, config, plan)
        return drawn_model(parallel, config, settings)
    config = read_config(start / "model")
    check_start(settings, sets, start, config)
    check_plan(settings.parallel, config, plan)
    return loaded_model(parallel, start / "model", settings, config if reshape is None else reshape(config))


def start_shape(settings: PretrainSettings, sets: TokenSets) -> ModelConfig:
    """The shape of a model that is drawn anew."""
    if settings.model is None:
        raise UserError("pretrain needs model: a preset's name or a shape, or a model stage to go on from")
    if settings.upcycle is not None:
        raise UserError("upcycle needs a dense model stage to go on from; a mixture drawn anew is model.experts")
    return shape_of(settings.model, sets.vocab_size)


def check_start(settings: PretrainSettings, sets: TokenSets, start: Path, config: ModelConfig) -> None:
    """`UserError` unless the model to go on from knows the tokens, and has the shape that is asked for."""
    check_tokenizer(sets, start)
    if config.vocab_size < sets.vocab_size:
        raise UserError(
            f"{start}: its vocabulary of {config.vocab_size} is smaller than the tokens' {sets.vocab_size}; "
            "pack the documents with the model's own tokenizer"
        )
    if settings.model is not None:
        wanted = shape_of(settings.model, sets.vocab_size)
        if wanted.model_copy(update={"vocab_size": config.vocab_size}) != config:
            raise UserError(
                f"{start}: the model to go on from has another shape than model={settings.model}; leave it out"
            )


def check_tokenizer(sets: TokenSets, start: Path) -> None:
    """`UserError` unless the tokens were made with the tokenizer of the model to go on from."""
    from herdbook.tokens.tokenizer import Tokenizer

    if (start / "model" / "tokenizer.json").is_file() and Tokenizer.load(start / "model").hash != sets.tokenizer_hash:
        raise UserError(
            f"{sets.folder}: its tokens were made with another tokenizer than that of the model {start}, so their "
            "numbers mean other pieces of text; pack the documents with the model's own tokenizer"
        )


def train_spread(settings: PretrainSettings, tokens: Path, start: Path, out: Path) -> dict[str, Any]:
    """One rank's part of a run whose checkpoints are what is wanted of it; returns the run's figures."""
    from herdbook.tokens.shards import TokenSets
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.objective import NextToken
    from herdbook.train.phased import PhasedBatches
    from herdbook.train.phases import Plan
    from herdbook.train.start import joined_groups

    prepare(settings.threads)
    parallel, groups = joined_groups(settings.parallel)
    sets = TokenSets.open(tokens)
    batches = PhasedBatches(sets, Plan.of(settings), settings.seed, settings.packing)
    model = begin(parallel, settings, sets, start)
    return train(model, NextToken(), batches, settings, out, parallel=groups)


class Validation:
    """Bits per byte of held-out pages: a sample within the run, all at its end."""

    def __init__(self, settings: PretrainSettings, batches: PhasedBatches) -> None:
        self.settings, self.batches = settings, batches
        self.names = [name for name in batches.names if len(batches.sets.sets[name]["heldout"])]

    def __call__(self, model: nn.Module, final: bool) -> dict[str, float]:
        """`bits_per_byte` over all sets together, and `bits_per_byte/SET` where there are several."""
        limit = self.settings.final_tokens if final else self.settings.validate_tokens
        bits, size, figures = 0.0, 0, {}
        for name in self.names:
            share = None if limit is None else max(1, limit // len(self.names))
            pages = self.batches.heldout(name, share)
            found = bits_of(model, pages)
            bits, size = bits + found, size + pages.bytes
            figures[f"bits_per_byte/{name}"] = found / max(pages.bytes, 1)
        together = {"bits_per_byte": bits / max(size, 1)}
        return together | (figures if len(figures) > 1 else {})


def bits_of(model: nn.Module, pages: HeldOut) -> float:
    """Bits that code the held-out documents with the model's predictions."""
    import torch

    from herdbook.train.gradients import judged
    from herdbook.train.objective import NextToken

    objective, nats = NextToken(), 0.0
    with torch.no_grad():
        for batch in pages:
            nats += float(judged(model, objective, batch))
    return nats / math.log(2)


def bits_per_byte(model: nn.Module, pages: HeldOut) -> float:
    """Bits per byte of text of held-out documents."""
    return bits_of(model, pages) / max(pages.bytes, 1)


def export(
    model: Any, settings: PretrainSettings, sets: TokenSets, tokens: Path, out: Path, parallel: Parallel | None = None
) -> None:
    """Write the trained model and its tokenizer as one Hugging Face folder, `out`/model."""
    import torch

    from herdbook.model.huggingface import save_model
    from herdbook.tokens.tokenizer import Tokenizer

    folder = out / "model"
    dtype = torch.float32 if settings.export_dtype == "float32" else torch.bfloat16
    if parallel is None or parallel.rank == 0:
        folder.mkdir(exist_ok=True)
        Tokenizer.load(tokens / "tokenizer").save(folder)
    if parallel is not None:
        from herdbook.train.export import save_spread

        save_spread(parallel.ranks, model, folder, dtype=dtype, bos_id=sets.bos_id, eos_ids=[sets.eos_id])
        return
    save_model(model, folder, dtype=dtype, bos_id=sets.bos_id, eos_ids=[sets.eos_id])


def _passes(batches: PhasedBatches) -> dict[str, float]:
    """How many times the run goes through each set."""
    return {f"epochs_{name}": passes for name, passes in batches.epochs().items()}
