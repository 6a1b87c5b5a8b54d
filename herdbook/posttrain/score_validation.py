"""How well a reward model tells pairs apart that it was not trained on, and what has to be beaten at it.

Its rivals on the same pairs: taking the longer answer, and taking the one that was likelier, token for token, under the
model at first. The latest round's pairs are those of the latest policy, so they stand by themselves too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from herdbook.posttrain.answers import Answers, read_answers
from herdbook.posttrain.preference_batches import AnswerBatches, Example, better
from herdbook.posttrain.preference_settings import RewardSettings
from herdbook.posttrain.reading import Reading
from herdbook.settings import UserError

if TYPE_CHECKING:
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.parallel import Parallel

NAMES = ("accuracy", "longest", "likelihood")


@dataclass(frozen=True)
class Told:
    """One pair: whether each way to judge takes the better answer; a tie is half right."""

    marks: tuple[float, ...]
    """Of the scores, the lengths and the likelihoods at first, as `NAMES`."""

    prompt: str
    """What was asked; pairs of the same prompt are hard or easy together."""

    round: int
    task: str


def unseen_answers(
    settings: RewardSettings, entries: Sequence[Path], tokenizer: Tokenizer, trained: Answers
) -> list[Answers]:
    """The preferences of entries that are to judge by only, prompts of the training left out; empty without entries."""
    if not entries:
        return []
    found = read_answers(settings.model_copy(update={"heldout": 0.0}), entries, tokenizer)
    known = {_key(example) for example in trained.train}
    left = [example for example in found.train if _key(example) not in known]
    if not left:
        raise UserError(f"all {len(found.train)} preferences of unseen have prompts that are trained on; give others")
    figures = {**found.figures, "kept": len(left), "trained_on": len(found.train) - len(left)}
    return [replace(found, train=left, figures=figures)]


def _key(example: Example) -> str:
    return str(example.trunk.tolist()) if example.source is None else example.source.key


class ScoreValidation:
    """How well the scores rank the answers of some batches."""

    def __init__(self, batches: AnswerBatches, reading: Reading, parallel: Parallel | None) -> None:
        self.batches, self.reading, self.parallel = batches, reading, parallel

    def __call__(self, model: Any, final: bool) -> dict[str, float]:
        """`heldout_accuracy`: the share of all held-out pairs that the scores rank as people did."""
        found = self.pairs(model)
        return {"heldout_accuracy": sum(pair.marks[0] for pair in found) / max(len(found), 1)}

    def pairs(self, model: Any) -> list[Told]:
        """How each pair is told apart."""
        from herdbook.train.gradients import measured

        found = []
        for batch in self.batches.all():
            each = measured(model, self.reading, batch, tuple(batch.groups.shape), self.parallel)
            length = batch.lengths[..., 1]
            assert batch.reference is not None
            likelihood = batch.reference[..., 1] / length.clamp(min=1)
            for row, winner, loser in zip(*(part.tolist() for part in better(batch))):
                marks = tuple(_above(of[row, winner], of[row, loser]) for of in (each, length, likelihood))
                example = self.batches.examples[self.batches.example_of(int(batch.numbers[row, winner]))]
                source = example.source
                told = (source.round, source.task) if source else (0, "other")
                found.append(Told(marks, _key(example), *told))
        return found

    def figures(self, model: Any) -> dict[str, Any]:
        """Accuracies with their 95 % intervals over prompts: of all pairs, of the latest round's, and of each task."""
        training = model.training
        model.eval()
        with torch.no_grad():
            found = self.pairs(model)
        model.train(training)
        last = max(pair.round for pair in found)
        tasks = sorted({pair.task for pair in found})
        by_task = {task: _shares([pair for pair in found if pair.task == task]) for task in tasks}
        return {
            **_shares(found),
            "latest": {"round": last, **_shares([pair for pair in found if pair.round == last])},
            **({"tasks": by_task} if len(tasks) > 1 else {}),
        }


def _above(one: Tensor, other: Tensor) -> float:
    return 1.0 if one > other else 0.5 if one == other else 0.0


def _shares(pairs: list[Told]) -> dict[str, Any]:
    """The accuracy of each way to judge, and by how much the scores are above the others; `n` counts prompts."""
    from herdbook.evaluate.intervals import ratio

    by_prompt: dict[str, list[Told]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    counts = [float(len(some)) for some in by_prompt.values()]
    sums = {
        name: [sum(pair.marks[place] for pair in some) for some in by_prompt.values()]
        for place, name in enumerate(NAMES)
    }
    figures: dict[str, Any] = {name: ratio(own, counts) for name, own in sums.items()}
    for name in NAMES[1:]:
        gained = [one - other for one, other in zip(sums["accuracy"], sums[name], strict=True)]
        figures[f"above_{name}"] = ratio(gained, counts)
    return {"pairs": len(pairs), **figures}
