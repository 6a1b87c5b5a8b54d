"""Supervised fine-tuning (§4.1.3): a model learns what the assistant says in dialogs, and nothing of what it is told.

Judged by held-out answers: nats per token of theirs, the ends of turns included, and bits per byte of their text.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.posttrain.settings import SftSettings

if TYPE_CHECKING:
    from torch import nn

    from herdbook.train.phased import PhasedBatches


def sft(settings: SftSettings, dialogs: dict[str, Path], start: Path, out: Path) -> dict[str, Any]:
    """Train the model `start` on the named sets of dialogs and write `out`/model, a folder that chats.

    Goes on from what a killed run left in `out`. Returns the loop's figures, with `loss` in nats per answer token,
    of each set what was read, and with held-out dialogs their `nats_per_token` and `bits_per_byte`. UserError names
    the file and row of a bad dialog, and what `train` and `begin` find wrong.
    """
    from herdbook.posttrain.dialog_batches import read_sets, resolved
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.metrics import nested
    from herdbook.train.objective import AnswerTokens
    from herdbook.train.phased import PhasedBatches
    from herdbook.train.phases import Plan
    from herdbook.train.start import in_group, joined_groups
    from herdbook.train.tuning import begin, export, model_folder, trained_share

    if settings.parallel.processes > 1 and not in_group():
        from herdbook.train.launch import launch

        return launch("herdbook.posttrain.sft:sft", settings, settings.parallel, dialogs=dialogs, start=start, out=out)
    prepare(settings.threads)
    parallel, groups = joined_groups(settings.parallel)
    folder = model_folder(start)
    tokenizer = Tokenizer.load(folder)
    found = read_sets(dialogs, tokenizer, settings)
    settings = resolved(settings, found.sets)
    batches = PhasedBatches(found.sets, Plan.of(settings), settings.seed, settings.packing)
    model = begin(settings, folder, parallel)
    validate = AnswerValidation(settings, batches)
    figures = train(
        model, AnswerTokens(), batches, settings, out, validate=validate if validate.names else None, parallel=groups
    )
    if groups is None or groups.leads:
        export(model, tokenizer, out / "model", parallel, settings.export_dtype)
    return {**nested(figures), **trained_share(model), "sets": found.figures, "epochs": batches.epochs()}


class AnswerValidation:
    """What held-out answers cost: a sample within the run, all at its end."""

    def __init__(self, settings: SftSettings, batches: PhasedBatches) -> None:
        self.settings, self.batches = settings, batches
        self.names = [name for name in batches.names if len(batches.sets.sets[name]["heldout"])]

    def __call__(self, model: nn.Module, final: bool) -> dict[str, float]:
        """`nats_per_token` and `bits_per_byte` over all sets together, and `…/SET` where there are several."""
        import torch

        from herdbook.posttrain.dialog_batches import held_out
        from herdbook.train.gradients import judged
        from herdbook.train.objective import AnswerTokens

        objective, nats, count, size = AnswerTokens(), 0.0, 0, 0
        figures: dict[str, float] = {}
        with torch.no_grad():
            for name, dialogs in held_out(self.batches, None if final else self.settings.validate_tokens):
                own, counted = 0.0, 0
                for batch in dialogs:
                    own, counted = own + float(judged(model, objective, batch)), counted + batch.count
                figures |= _costs(own, counted, dialogs.bytes, f"/{name}")
                nats, count, size = nats + own, count + counted, size + dialogs.bytes
        together = _costs(nats, count, size)
        return together | (figures if len(self.names) > 1 else {})


def _costs(nats: float, count: float, size: float, suffix: str = "") -> dict[str, float]:
    return {
        f"nats_per_token{suffix}": nats / max(count, 1),
        f"bits_per_byte{suffix}": nats / math.log(2) / max(size, 1),
    }
