"""Reward models (§4.1.2): a pre-trained model whose head gives one number, trained to rank the answers to a prompt.

A prompt and all its answers lie in one row, and the answers don't see each other. The loss is that of the Bradley-Terry
model over all pairs that differ in rank (edited > chosen > rejected), without a margin, as Llama 3's is. An answer's
score is read at its last token, the end of the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from herdbook.model.documents import Documents
from herdbook.posttrain.preference_batches import AnswerBatch, AnswerBatches, Example, better, encode_example
from herdbook.posttrain.preference_settings import RewardSettings
from herdbook.settings import UserError
from herdbook.tokens.tools import answer_message
from herdbook.train.nats import branch_sums, scores
from herdbook.train.objective import Loss

if TYPE_CHECKING:
    from herdbook.evaluate.intervals import Figure
    from herdbook.model.transformer import Transformer
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.parallel import Parallel

ROW_TOKENS = 8192  # read at a time when answers are scored


def answer_scores(model: Any, batch: AnswerBatch, documents: Documents | None = None) -> Tensor:  # (B, A)
    """The score of each answer, read at its last token; 0 where a row has fewer answers."""
    documents = documents or Documents.from_ids(batch.document_ids)
    hidden = model.hidden(batch.tokens, documents)
    each = scores(hidden.flatten(0, 1), model.head.weight)[:, 0].view(batch.last.shape)
    return branch_sums(model, each * batch.last, documents, batch.groups.shape[1])


class Ranking:
    """-log sigmoid(score of the better answer - score of the worse), of all pairs to the same prompt."""

    of_documents = True

    def count(self, batch: AnswerBatch) -> int:
        """Pairs of answers that differ in rank."""
        return len(better(batch)[0])

    def __call__(self, model: Any, batch: AnswerBatch) -> Loss:
        """The summed loss, and metrics of the pairs."""
        documents = Documents.from_ids(batch.document_ids)
        found = answer_scores(model, batch, documents)
        row, winner, loser = better(batch)
        margin = found[row, winner] - found[row, loser]
        tokens = int(batch.filled.sum())
        metrics = {
            "accuracy": (margin > 0).to(margin.dtype).sum(),
            "reward_margin": margin.sum(),
            "chosen_reward": found[row, winner].sum(),
            "rejected_reward": found[row, loser].sum(),
        }
        return Loss(
            -F.logsigmoid(margin).sum(),
            len(row),
            {name: value.detach() for name, value in metrics.items()},
            tokens=tokens,
            flops=tokens * model.config.flops_per_token(documents.mean_attended),
            full_flops=tokens * model.config.flops_per_token(batch.tokens.shape[1]),
        )


class RewardModel:
    """A trained reward model and its tokenizer, to score answers with."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @classmethod
    def load(cls, folder: Path, device: torch.device | str | None = None) -> RewardModel:
        """From an entry of a reward stage or a Hugging Face folder; UserError when it is no reward model."""
        from herdbook.model.huggingface import load_model
        from herdbook.tokens.tokenizer import Tokenizer
        from herdbook.train.machine import own_device
        from herdbook.train.tuning import model_folder

        folder = model_folder(Path(folder))
        return cls(load_model(folder, device=device or own_device(), reward=True), Tokenizer.load(folder))

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[Sequence[dict[str, Any]]],  # messages, the last one not the assistant's
        answers: Sequence[Sequence[str]],  # to each prompt some, what the assistant says
        tools: Sequence[Sequence[dict[str, Any]] | None] | None = None,  # of each prompt, what an answer may call
    ) -> list[list[float]]:  # of each answer its score, the higher the better
        """How good answers are; each as if it were the only one, whoever stands beside it.

        UserError names the prompt that has more tokens, with an answer, than the model holds.
        """
        if len(prompts) != len(answers):
            raise ValueError(f"{len(prompts)} prompts but answers to {len(answers)}")
        found: list[list[float]] = [[0.0] * len(mine) for mine in answers]
        row: list[tuple[int, Example]] = []
        room = ROW_TOKENS
        known = tools or [None] * len(prompts)
        for number, (prompt, mine, own) in enumerate(zip(prompts, answers, known, strict=True)):
            if not mine:
                continue
            example = self._encoded(number, prompt, mine, own)
            if row and example.size > room:
                self._read(row, found)
                row, room = [], ROW_TOKENS
            row.append((number, example))
            room -= example.size
        if row:
            self._read(row, found)
        return found

    def _encoded(
        self,
        number: int,
        prompt: Sequence[dict[str, Any]],
        answers: Sequence[str],
        tools: Sequence[dict[str, Any]] | None,
    ) -> Example:
        messages = [[answer_message(answer, tools)] for answer in answers]
        example = encode_example(self.tokenizer, prompt, messages, [0.0] * len(messages), tools=tools)
        if example.longest > self.model.config.max_length:
            raise UserError(
                f"prompt {number} with its longest answer has {example.longest} tokens; the reward model holds "
                f"{self.model.config.max_length}"
            )
        return example

    def _read(self, row: list[tuple[int, Example]], found: list[list[float]]) -> None:
        """Score the answers of one row of examples."""
        batches = AnswerBatches([example for _, example in row], sum(example.size for _, example in row), 1)
        device = next(self.model.parameters()).device
        batch = batches.assemble([list(range(len(row)))], 0).to(device)
        each = answer_scores(self.model, batch)[0].float().cpu()
        for slot, answer in enumerate(batch.numbers[0].tolist()):
            which = batches.example_of(answer)
            found[row[which][0]][answer - int(batches.first[which])] = float(each[slot])


def reward(settings: RewardSettings, model: Path, preferences: Sequence[Path], out: Path) -> dict[str, Any]:
    """Train a reward model with the trunk of `model` on the preferences of all entries; writes `out`/model.

    Goes on from what a killed run left in `out`. Returns the loop's figures (`loss` per pair), what was read
    (`preferences`), and of held-out pairs `heldout`: `accuracy`, that of taking the longer answer (`longest`), and
    `latest`, both of the last round's pairs only. UserError names a bad row.
    """
    from herdbook.posttrain.answers import batches_of, longest_of, read_answers, resolved
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.start import in_group, joined_groups
    from herdbook.train.tuning import begin, export, model_folder, trained_share

    if settings.parallel.processes > 1 and not in_group():
        from herdbook.train.launch import launch

        return launch(
            "herdbook.posttrain.reward:reward", settings, settings.parallel,
            model=model, preferences=list(preferences), out=out,
        )  # fmt: skip
    prepare(settings.threads)
    parallel, groups = joined_groups(settings.parallel)
    folder = model_folder(model)
    tokenizer = Tokenizer.load(folder)
    data = read_answers(settings, preferences, tokenizer)
    batches = batches_of(settings, data.train)
    settings = resolved(settings, batches)
    trained = begin(settings, folder, parallel, longest_of(data), scores=True)
    judge = ScoreValidation(batches_of(settings, data.heldout), parallel) if data.heldout else None
    figures = train(trained, Ranking(), batches, settings, out, validate=judge, parallel=groups)
    if groups is None or groups.leads:
        export(trained, tokenizer, out / "model", parallel, settings.export_dtype)
    figures = {name: value for name, value in figures.items() if not name.startswith("heldout_")}
    if judge is not None:
        figures["heldout"] = judge.figures(trained)
    return {**figures, **trained_share(trained), "preferences": data.figures}


class ScoreValidation:
    """How well held-out answers are ranked."""

    def __init__(self, batches: AnswerBatches, parallel: Parallel | None) -> None:
        self.batches, self.parallel = batches, parallel

    def __call__(self, model: Any, final: bool) -> dict[str, float]:
        """`heldout_accuracy`: the share of all held-out pairs that the scores rank as people did."""
        found = self.pairs(model)
        return {"heldout_accuracy": sum(right for right, _, _ in found) / max(len(found), 1)}

    def pairs(self, model: Any) -> list[tuple[float, float, int]]:
        """Of each pair whether scores rank it right, whether lengths do (a tie is half right), and its round."""
        from herdbook.train.gradients import measured

        found = []
        for batch in self.batches.all():
            each = measured(model, answer_scores, batch, tuple(batch.groups.shape), self.parallel)
            for row, winner, loser in zip(*(part.tolist() for part in better(batch))):
                length = batch.lengths[row, :, 1]
                marks = [_above(of[winner], of[loser]) for of in (each[row], length)]
                found.append((marks[0], marks[1], self._round(int(batch.numbers[row, winner]))))
        return found

    def _round(self, answer: int) -> int:
        source = self.batches.examples[self.batches.example_of(answer)].source
        return 0 if source is None else source.round

    def figures(self, model: Any) -> dict[str, Any]:
        """Accuracies with their 95 % intervals, of all rounds and of the latest."""
        training = model.training
        model.eval()
        with torch.no_grad():
            found = self.pairs(model)
        model.train(training)
        last = max(number for _, _, number in found)
        latest = [one for one in found if one[2] == last]
        return {**_shares(found), "latest": {"round": last, **_shares(latest)}}


def _above(one: Tensor, other: Tensor) -> float:
    return 1.0 if one > other else 0.5 if one == other else 0.0


def _shares(pairs: list[tuple[float, float, int]]) -> dict[str, Figure]:
    from herdbook.evaluate.intervals import mean

    accuracy, longest = ([one[which] for one in pairs] for which in (0, 1))
    above = [one - other for one, other in zip(accuracy, longest)]
    return {"accuracy": mean(accuracy), "longest": mean(longest), "above_longest": mean(above)}
