"""A long-context stage (§3.4.2): the model's context grows to `length`, and training ends when the gate opens.

A recipe has as many of them as it wants (the paper: six, 8K to 128K), each fed by the one before, so every length has
its model and its figures in the book. A stage whose gate is shut at its limit of tokens says why, and stops the recipe.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.pretrain.settings import ExtendSettings
from herdbook.settings import UserError

if TYPE_CHECKING:
    from herdbook.model.config import ModelConfig


def extend(settings: ExtendSettings, tokens: Path, start: Path, questions: Path, out: Path) -> dict[str, Any]:
    """Train the model of `start` in rows of `length` until the gate opens, and write `out`/model.

    `questions` is the folder that holds the needles. Returns what `pretrain` returns, `needle`, `short_bits_per_byte`,
    `before` (the same before the first extension) and `checks`, the gate's log. UserError when it stays shut.
    """
    import torch

    from herdbook.console import log
    from herdbook.model.huggingface import read_config
    from herdbook.pretrain.gates import Before, Gate, short_pages
    from herdbook.pretrain.stages import begin, bits_per_byte, export
    from herdbook.tokens.shards import TokenSets
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.metrics import nested
    from herdbook.train.objective import NextToken
    from herdbook.train.phased import PhasedBatches
    from herdbook.train.phases import Plan
    from herdbook.train.start import in_group, joined
    from herdbook.train.topology import check_length

    longer = partial(stretched, settings=settings)
    longer(read_config(start / "model"))  # a mistake is told before processes are started
    if settings.parallel.size > 1 and not in_group():
        from herdbook.train.launch import launch

        stage = "herdbook.pretrain.extend:extend"
        return launch(stage, settings, settings.parallel, tokens=tokens, start=start, questions=questions, out=out)
    prepare(settings.threads)
    parallel = joined(settings.parallel)
    same = parallel.same if parallel is not None else lambda do: do()
    sets = TokenSets.open(tokens)
    batches = PhasedBatches(sets, Plan.of(settings), settings.seed, settings.packing)
    before = same(lambda: Before.find(out, start))
    length = before.length if before else settings.short_length or read_config(start / "model").max_length
    check_length(settings.parallel, length, "short_length")
    pages = short_pages(settings, sets, batches.names, length)
    if before is None:
        with torch.no_grad():
            before = Before(length, bits_per_byte(begin(parallel, settings, sets, start), pages))
    same(partial(before.write, out))
    model = begin(parallel, settings, sets, start, longer)
    gate = Gate(settings, before, pages, questions, tokens, parallel, out / ".gate")
    log("gate", length=settings.length, short_length=length, before=before.bits_per_byte, allowed=gate.allowed,
        rope_theta=model.config.rope_theta, limit_steps=settings.total_steps)  # fmt: skip
    figures = train(model, NextToken(), batches, settings, out, validate=gate, ended=gate.passed, parallel=parallel)
    if not gate.passed(figures):
        raise UserError(gate.failure(figures))
    export(model, settings, sets, tokens, out, parallel)
    return {
        **nested(figures),
        "before": {"length": before.length, "bits_per_byte": before.bits_per_byte},
        "checks": same(lambda: checks(out / "metrics.jsonl")),
        "parameters": model.config.parameters(),
    }


def stretched(config: ModelConfig, settings: ExtendSettings) -> ModelConfig:
    """The shape with room for `length` tokens and the stage's RoPE; UserError where that is no more room."""
    if settings.length <= config.max_length:
        raise UserError(
            f"extend: the model has a context of {config.max_length} tokens already, and length is {settings.length}; "
            "give a longer one"
        )
    changes: dict[str, Any] = {"max_length": settings.length}
    if settings.rope_theta is not None:
        changes["rope_theta"] = settings.rope_theta
    if settings.rope_scaling is not None:
        changes["rope_scaling"] = settings.rope_scaling
    return type(config)(**{**config.model_dump(), **changes})


def checks(metrics: Path) -> list[dict[str, float]]:
    """Every look at the gate: tokens so far, needle, short bits per byte."""
    from herdbook.train.metrics import read_metrics

    keys = ("tokens", "needle", "short_bits_per_byte")
    return [{key: record[key] for key in keys} for record in read_metrics(metrics) if "needle" in record]
