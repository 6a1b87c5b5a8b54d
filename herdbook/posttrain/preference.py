"""Learning from preferences (§4.1.4): DPO and its rivals, on rows in which a prompt is read once for all its answers.

The loss is of pairs of answers to one prompt, the better one against the worse one (edited > chosen > rejected), or
of single answers (KTO). Ends of messages (or all that both answers share) are left out of it, since the same tokens
would be pushed up and down at once; a share of the chosen answer's own cost, these tokens included, keeps its format.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from herdbook.model.documents import Documents
from herdbook.posttrain.losses import PAIR_LOSSES, Likelihood, kto
from herdbook.posttrain.preference_batches import CONTENT, FORMAT, IGNORED, AnswerBatch, better
from herdbook.posttrain.preference_settings import PER_TOKEN, WITH_REFERENCE, PreferenceSettings
from herdbook.posttrain.preferences import REJECTED
from herdbook.train.nats import branch_sums, token_nats
from herdbook.train.objective import Loss

if TYPE_CHECKING:
    from herdbook.posttrain.preference_batches import AnswerBatches
    from herdbook.train.parallel import Parallel


def answer_logprobs(
    model: Any, batch: AnswerBatch, documents: Documents | None = None
) -> Tensor:  # (B, A, 2) of each answer's format and of its content
    """Log-probabilities of the answers under the model, in nats; 0 where a row has fewer answers."""
    documents = documents or Documents.from_ids(batch.document_ids)
    hidden = model.hidden(batch.tokens, documents)
    nats = token_nats(hidden.flatten(0, 1), model.head.weight, batch.targets.flatten()).view(batch.targets.shape)
    most = batch.groups.shape[1]
    sums = [branch_sums(model, nats * (batch.kinds == kind), documents, most) for kind in (FORMAT, CONTENT)]
    return -torch.stack(sums, dim=-1)


class PreferenceObjective:
    """Batches of answers to the loss that the settings name."""

    of_documents = True

    def __init__(self, settings: PreferenceSettings) -> None:
        self.loss, self.masked, self.weights = settings.loss, settings.mask != "none", settings.kto_weights
        self.beta, self.margin = settings.given("beta"), settings.given("margin")
        self.nll_weight = settings.given("nll_weight")

    def count(self, batch: AnswerBatch) -> int:
        """Pairs; with KTO answers."""
        return int((~batch.ranks.isnan()).sum()) if self.loss == "kto" else len(better(batch)[0])

    def __call__(self, model: Any, batch: AnswerBatch) -> Loss:
        """The summed loss; metrics are means over the pairs or answers that they are of, times the count."""
        documents = Documents.from_ids(batch.document_ids)
        found = answer_logprobs(model, batch, documents)
        answers = self.likelihood(found, batch)
        nll = -found.sum(-1) / batch.lengths.sum(-1).clamp(min=1)
        row, winner, loser = better(batch)
        chosen, rejected = (_picked(answers, row, which) for which in (winner, loser))
        metrics = self.metrics(chosen, rejected)
        if self.loss == "kto":
            terms, costs, baseline = self.of_answers(model, batch, answers, nll)
            metrics |= {"nll": costs[costs > 0], "kl_baseline": baseline.expand(1)}
        else:
            terms, costs = PAIR_LOSSES[self.loss](chosen, rejected, self.beta, self.margin), nll[row, winner]
            metrics["nll"] = costs
        losses = terms + self.nll_weight * costs if self.nll_weight else terms
        count, metrics["preference_loss"] = self.count(batch), terms
        if self.loss in WITH_REFERENCE:
            ranked = ~batch.ranks.isnan()
            metrics["kl"] = -answers.gain[ranked]
        tokens = int(batch.filled.sum())
        return Loss(
            losses.sum(),
            count,
            {name: value.detach().sum() * (count / max(len(value), 1)) for name, value in metrics.items()},
            tokens=tokens,
            flops=flops(model.config, documents.mean_attended, tokens, batch),
            full_flops=flops(model.config, batch.tokens.shape[1], tokens, batch),
        )

    def likelihood(self, found: Tensor, batch: AnswerBatch) -> Likelihood:
        """(B, A) what the preference loss is of: all of the answers, or their content only."""
        reference = torch.zeros_like(found) if batch.reference is None else batch.reference.to(found.dtype)
        lengths = batch.lengths.to(found.dtype)
        parts = (found, reference, lengths)
        policy, held, length = (part[..., 1] if self.masked else part.sum(-1) for part in parts)
        return Likelihood(policy, held, length.clamp(min=1))

    def of_answers(
        self, model: Any, batch: AnswerBatch, answers: Likelihood, nll: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) KTO's loss of each ranked answer, (N,) what it costs per token if it is desirable, and the baseline."""
        ranked = ~batch.ranks.isnan()
        mismatched = batch.ranks.isnan() & (batch.groups >= 0)
        baseline = mean_over_rows(model, answers.gain[mismatched].detach()).clamp(min=0)
        row, place = ranked.nonzero().unbind(1)
        desirable = batch.ranks[row, place] > REJECTED
        terms = kto(_picked(answers, row, place), desirable, baseline, self.beta, self.weights)
        return terms, nll[row, place] * desirable, baseline

    def metrics(self, chosen: Likelihood, rejected: Likelihood) -> dict[str, Tensor]:
        """(P,) what is logged of each pair: who wins by how much, and log-probabilities per token."""
        if self.loss in PER_TOKEN:
            sides = [(one.gain if self.loss == "ipo" else one.policy) / one.length for one in (chosen, rejected)]
        else:
            sides = [one.gain for one in (chosen, rejected)]
        margin = self.beta * (sides[0] - sides[1])
        return {
            "reward_margin": margin,
            "accuracy": (margin > 0).to(margin.dtype),
            "chosen_logprob": chosen.mean,
            "rejected_logprob": rejected.mean,
            "chosen_gain": chosen.gain / chosen.length,
            "rejected_gain": rejected.gain / rejected.length,
        }


def _picked(answers: Likelihood, row: Tensor, place: Tensor) -> Likelihood:
    return Likelihood(answers.policy[row, place], answers.reference[row, place], answers.length[row, place])


def mean_over_rows(model: Any, values: Tensor) -> Tensor:
    """The mean of all values of a micro-batch, over the ranks that share out its rows; 0 of none."""
    sums = torch.stack([values.sum(), values.new_tensor(float(len(values)))])
    group = getattr(model, "row_group", None)
    if group is not None:
        dist.all_reduce(sums, group=group)
    return sums[0] / sums[1].clamp(min=1)


def flops(config: Any, attended: float, tokens: int, batch: AnswerBatch) -> float:
    """Operations of a step forward and backward; the head works on what is foretold only."""
    unread = tokens - int((batch.targets != IGNORED).sum())
    return tokens * config.flops_per_token(attended) - 6.0 * config.dim * config.vocab_size * unread


def preference(settings: PreferenceSettings, model: Path, preferences: Sequence[Path], out: Path) -> dict[str, Any]:
    """Train `model` on the preferences of all entries and write `out`/model, a folder that chats.

    Goes on from what a killed run left in `out`. Returns the loop's figures (`loss` per pair, of KTO per answer), what
    was read (`preferences`), `chosen_logprob_slope` (by how much the log-probability of a chosen answer's token rose
    over the run, in nats) and with held-out preferences `heldout` figures. UserError names a bad row.
    """
    from herdbook.posttrain.answers import batches_of, longest_of, read_answers, resolved
    from herdbook.posttrain.reference import with_reference
    from herdbook.posttrain.shared_tokens import without_shared
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.start import in_group, joined_groups
    from herdbook.train.tuning import begin, export, model_folder, trained_share

    if settings.parallel.processes > 1 and not in_group():
        from herdbook.train.launch import launch

        return launch(
            "herdbook.posttrain.preference:preference", settings, settings.parallel,
            model=model, preferences=list(preferences), out=out,
        )  # fmt: skip
    prepare(settings.threads)
    parallel, groups = joined_groups(settings.parallel)
    folder = model_folder(model)
    tokenizer = Tokenizer.load(folder)
    data = read_answers(settings, preferences, tokenizer, unpaired=settings.loss == "kto")
    if settings.mask == "shared":
        data.train, data.heldout = ([without_shared(one) for one in part] for part in (data.train, data.heldout))
    batches = batches_of(settings, data.train)
    heldout = batches_of(settings, data.heldout) if data.heldout else None
    settings = resolved(settings, batches)
    trained = begin(settings, folder, parallel, longest_of(data))
    if settings.loss in WITH_REFERENCE:
        for part in filter(None, (batches, heldout)):
            with_reference(part, trained, folder, settings, parallel)
    objective = PreferenceObjective(settings)
    validate = None if heldout is None else PairValidation(objective, heldout, parallel)
    figures = train(trained, objective, batches, settings, out, validate=validate, parallel=groups)
    if groups is None or groups.leads:
        export(trained, tokenizer, out / "model", parallel, settings.export_dtype)
    found = {**with_intervals(figures, heldout), **trained_share(trained)}
    return {**found, "preferences": data.figures, "chosen_logprob_slope": chosen_slope(out)}


class PairValidation:
    """How held-out pairs are told apart by the model against its reference."""

    def __init__(self, objective: PreferenceObjective, batches: AnswerBatches, parallel: Parallel | None) -> None:
        self.objective, self.batches, self.parallel = objective, batches, parallel

    def __call__(self, model: Any, final: bool) -> dict[str, float]:
        """Means over all held-out pairs: `heldout_accuracy`, `heldout_reward_margin`, `heldout_chosen_logprob`."""
        from herdbook.train.gradients import measured

        sums: dict[str, float] = {}
        pairs = 0
        for batch in self.batches.all():
            found = measured(model, answer_logprobs, batch, (*batch.groups.shape, 2), self.parallel)
            answers = self.objective.likelihood(found, batch)
            row, winner, loser = better(batch)
            pairs += len(row)
            each = self.objective.metrics(_picked(answers, row, winner), _picked(answers, row, loser))
            for name in ("accuracy", "reward_margin", "chosen_logprob", "rejected_logprob"):
                sums[name] = sums.get(name, 0.0) + float(each[name].sum())
        return {"heldout_pairs": pairs, **{f"heldout_{name}": value / max(pairs, 1) for name, value in sums.items()}}


def with_intervals(figures: dict[str, Any], heldout: AnswerBatches | None) -> dict[str, Any]:
    """The figures with those of held-out pairs in a mapping of their own, the accuracy with its 95 % interval."""
    from herdbook.evaluate.intervals import proportion

    if heldout is None or not figures.get("heldout_pairs"):
        return figures
    inner = {name.removeprefix("heldout_"): value for name, value in figures.items() if name.startswith("heldout_")}
    pairs = int(inner.pop("pairs"))
    inner["accuracy"] = proportion(round(inner["accuracy"] * pairs), pairs)
    return {**{name: value for name, value in figures.items() if not name.startswith("heldout_")}, "heldout": inner}


def chosen_slope(out: Path) -> float:
    """Nats by which the log-probability of a chosen answer's token rises over the run: a line through all steps.

    Where there is a reference the line goes through the gains on it, which do not depend on which answers a step had.
    """
    import numpy as np

    from herdbook.train.metrics import read_metrics

    file = out / "metrics.jsonl"
    records = read_metrics(file) if file.is_file() else []
    if len(records) < 2:
        return 0.0
    name = "chosen_gain" if "kl" in records[0] else "chosen_logprob"
    share = np.linspace(0.0, 1.0, len(records))
    return float(np.polyfit(share, [record[name] for record in records], 1)[0])
