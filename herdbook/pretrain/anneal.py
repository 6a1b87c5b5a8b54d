"""Annealing (§3.4.3): the rate falls linearly to 0 on an up-sampled mix, and the checkpoints' average is the model.

The same on 30 % of a new set and 70 % of the usual mix, beside the usual mix alone, tells what the new set is worth
(§3.1.3). Both are judged on the same held-out documents, so the difference has an interval over them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.pretrain.settings import AnnealSettings, DataTestSettings, PretrainSettings
from herdbook.settings import UserError

if TYPE_CHECKING:
    import numpy as np

    from herdbook.model.transformer import Transformer
    from herdbook.tokens.shards import TokenSets


def anneal(settings: AnnealSettings, tokens: Path, start: Path, out: Path) -> dict[str, Any]:
    """Train to a rate of 0, average the last checkpoints, and write the average as `out`/model.

    Returns what `pretrain` returns with `bits_per_byte` of the average; `members` (step to bits per byte),
    `best_member`, `average_minus_best` (with its 95 % interval over documents) and `no_worse` (1 if not above 0).
    """
    import torch

    from herdbook.console import log
    from herdbook.pretrain.stages import export
    from herdbook.tokens.shards import TokenSets
    from herdbook.train import average
    from herdbook.train.checkpoint import Checkpoints
    from herdbook.train.metrics import nested

    sets = TokenSets.open(tokens)
    every, steps = average.evenly(settings.total_steps, settings.members, settings.average_over)
    # Stops that were asked for leave further checkpoints; no member may make room for them.
    kept = settings.total_steps // every + 1000
    changed = settings.model_copy(update={"checkpoint_every": every, "keep_checkpoints": kept})
    model, figures = _trained(changed, sets, start, out)
    judge = Judge(sets, settings.judge, settings.mix, settings.final_tokens)
    checkpoints = Checkpoints(out / "checkpoints", kept)
    mean: dict[str, torch.Tensor] = {}
    costs: dict[int, np.ndarray] = {}
    for count, step in enumerate(average.members(checkpoints, steps, model), 1):
        average.add_to_mean(mean, model, count)
        costs[step] = judge.nats(model)
        log("member", step=step, bits_per_byte=judge.bits_per_byte(costs[step]))
    average.set_weights(model, mean)
    own = judge.nats(model)
    best = min(costs, key=lambda step: float(costs[step].sum()))
    difference = judge.difference(own, costs[best])
    log("averaged", members=len(steps), bits_per_byte=judge.bits_per_byte(own), best_member=best, **difference)
    export(model, settings, sets, tokens, out)
    return {
        **nested(figures),
        "bits_per_byte": judge.bits_per_byte(own),
        "members": {f"step_{step}": judge.bits_per_byte(cost) for step, cost in costs.items()},
        "best_member": judge.bits_per_byte(costs[best]),
        "average_minus_best": difference,
        "no_worse": float(own.sum() <= costs[best].sum()),
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def data_test(settings: DataTestSettings, tokens: Path, start: Path, out: Path) -> dict[str, Any]:
    """Anneal twice from one model, with and without the set `new`; returns both figures and their difference.

    `new_minus_usual` is in bits per byte of the same documents with its 95 % interval: below 0, the new set helps.
    """
    from herdbook.console import log
    from herdbook.tokens.shards import TokenSets

    sets = TokenSets.open(tokens)
    usual = usual_mix(settings, sets)
    mixed = {name: share * (1 - settings.share) for name, share in usual.items()} | {settings.new: settings.share}
    judge = Judge(sets, settings.judge, usual if settings.judge is None else None, settings.final_tokens)
    costs, runs = {}, {}
    for name, mix in (("usual", usual), ("new", mixed)):
        model, runs[name] = _trained(settings.model_copy(update={"mix": mix}), sets, start, out / name)
        costs[name] = judge.nats(model)
    difference = judge.difference(costs["new"], costs["usual"])
    log("data_test", new=settings.new, share=settings.share, **difference)
    return {
        "usual": judge.bits_per_byte(costs["usual"]),
        "with_new": judge.bits_per_byte(costs["new"]),
        "new_minus_usual": difference,
        "tokens": sum(run["tokens"] for run in runs.values()),
        "goodput": {name: run["goodput"] for name, run in runs.items()},
    }


def usual_mix(settings: DataTestSettings, sets: TokenSets) -> dict[str, float]:
    """The shares without the new set, summing to 1; by tokens when no mix is given."""
    if settings.new not in sets.sets:
        raise UserError(f"data_test: new={settings.new!r} is none of the token sets {', '.join(sets.names)}")
    shares = settings.mix or {name: float(len(splits["train"].tokens)) for name, splits in sets.sets.items()}
    shares = {name: share for name, share in shares.items() if name != settings.new}
    if not sum(shares.values()) > 0:
        raise UserError(f"data_test: beside new={settings.new!r} the mix has nothing; name the usual sets in mix")
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def _trained(settings: PretrainSettings, sets: TokenSets, start: Path, out: Path) -> tuple[Transformer, dict[str, Any]]:
    """The model after the run, whole, and the run's figures; nothing is exported."""
    from herdbook.pretrain.stages import make_model
    from herdbook.train.alone import alone
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.objective import NextToken
    from herdbook.train.phased import PhasedBatches
    from herdbook.train.phases import Plan

    prepare(settings.threads)
    batches = PhasedBatches(sets, Plan.of(settings), settings.seed, settings.packing)
    model = make_model(settings, sets, start)
    if settings.parallel.processes > 1:
        from herdbook.train.average import load_weights
        from herdbook.train.checkpoint import Checkpoints
        from herdbook.train.launch import launch

        out.mkdir(parents=True, exist_ok=True)
        figures = launch(
            "herdbook.pretrain.stages:train_spread",
            settings,
            settings.parallel,
            tokens=sets.folder,
            start=start,
            out=out,
        )
        load_weights(Checkpoints(out / "checkpoints"), figures["steps"], model)
        return model, figures
    return model, train(alone(model, settings), NextToken(), batches, settings, out)


class Judge:
    """Held-out documents on which models of one run are compared, each document by itself."""

    def __init__(
        self, sets: TokenSets, names: tuple[str, ...] | None, mix: dict[str, float] | None, limit: int | None
    ) -> None:
        """Documents of `names`, else of the sets in `mix`, else of all; about `limit` tokens, evenly over them."""
        from herdbook.evaluate.bits import choose_documents
        from herdbook.tokens.batches import check_name

        chosen = list(names or mix or sets.names)
        for name in chosen:
            check_name(name, sets, "judge: set")
        self.documents: list[np.ndarray] = []
        self.bytes: list[float] = []
        for name in chosen:
            split = sets.sets[name]["heldout"]
            for i in choose_documents(split, None if limit is None else max(1, limit // len(chosen)), 1):
                self.documents.append(split.document(i))
                self.bytes.append(float(split.bytes[i]))
        if not sum(self.bytes):
            raise UserError(
                f"the sets {', '.join(chosen)} have no held-out documents to judge by; raise heldout of the pack stage"
            )

    def nats(self, model: Transformer) -> np.ndarray:
        """What each document costs the model."""
        from herdbook.evaluate.bits import document_nats

        model.eval()
        return document_nats(model, self.documents, model.config.max_length, 0.0, "judge")

    def bits_per_byte(self, nats: np.ndarray) -> float:
        """Bits per byte of all documents."""
        return float(nats.sum()) / math.log(2) / sum(self.bytes)

    def difference(self, one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
        """Bits per byte of `one` minus those of `other`, with the 95 % interval over documents, which are paired."""
        from herdbook.evaluate.intervals import ratio

        return dict(ratio(list((one - other) / math.log(2)), self.bytes))
