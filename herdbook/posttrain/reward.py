"""Reward models (§4.1.2): a model that gives each answer to a prompt one number, trained to rank them.

A prompt and all its answers lie in one row, and the answers don't see each other. The loss is that of the Bradley-Terry
model over all pairs that differ in rank (edited > chosen > rejected), without a margin, as Llama 3's is. `reading` says
how an answer's score is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from herdbook.model.documents import Documents
from herdbook.posttrain.preference import flops
from herdbook.posttrain.preference_batches import AnswerBatch, AnswerBatches, Example, better, encode_example
from herdbook.posttrain.preference_settings import RewardSettings
from herdbook.posttrain.reading import AT_THE_END, Reading
from herdbook.posttrain.reference import with_reference
from herdbook.settings import UserError
from herdbook.tokens.tools import answer_message
from herdbook.train.objective import Loss

if TYPE_CHECKING:
    from herdbook.model.transformer import Transformer
    from herdbook.tokens.tokenizer import Tokenizer

ROW_TOKENS = 8192  # read at a time when answers are scored


class Ranking:
    """-log sigmoid(score of the better answer - score of the worse), of all pairs to the same prompt."""

    of_documents = True

    def __init__(self, reading: Reading = AT_THE_END) -> None:
        self.reading = reading

    def count(self, batch: AnswerBatch) -> int:
        """Pairs of answers that differ in rank."""
        return len(better(batch)[0])

    def __call__(self, model: Any, batch: AnswerBatch) -> Loss:
        """The summed loss, and metrics of the pairs."""
        documents = Documents.from_ids(batch.document_ids)
        found = self.reading(model, batch, documents)
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
            flops=self.flops(model.config, documents.mean_attended, tokens, batch),
            full_flops=self.flops(model.config, batch.tokens.shape[1], tokens, batch),
        )

    def flops(self, config: Any, attended: float, tokens: int, batch: AnswerBatch) -> float:
        """Operations of a step forward and backward."""
        if self.reading.likelihood:
            return flops(config, attended, tokens, batch)
        return float(tokens * config.flops_per_token(attended))


class RewardModel:
    """A trained reward model and its tokenizer, to score answers with."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, reading: Reading = AT_THE_END) -> None:
        self.model, self.tokenizer, self.reading = model.eval(), tokenizer, reading

    @classmethod
    def load(cls, folder: Path, device: torch.device | str | None = None) -> RewardModel:
        """From an entry of a reward stage or a Hugging Face folder; UserError when it is no reward model."""
        from herdbook.model.huggingface import load_model
        from herdbook.tokens.tokenizer import Tokenizer
        from herdbook.train.machine import own_device
        from herdbook.train.tuning import model_folder

        folder = model_folder(Path(folder))
        reading = Reading.load(folder)
        model = load_model(folder, device=device or own_device(), reward=not reading.likelihood)
        return cls(model, Tokenizer.load(folder), reading)

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
        each = self.reading(self.model, batch)[0].float().cpu()
        for slot, answer in enumerate(batch.numbers[0].tolist()):
            which = batches.example_of(answer)
            found[row[which][0]][answer - int(batches.first[which])] = float(each[slot])


def reward(
    settings: RewardSettings, model: Path, preferences: Sequence[Path], out: Path, unseen: Sequence[Path] = ()
) -> dict[str, Any]:
    """Train a reward model that goes on from `model` on the preferences of all entries; writes `out`/model.

    Goes on from what a killed run left in `out`. Returns the loop's figures (`loss` per pair), what was read
    (`preferences`), and how well held-out pairs (`heldout`) and those of the entries `unseen` are told apart; see
    `score_validation`. Of `unseen`, prompts that were trained on are left out. UserError names a bad row.
    """
    from herdbook.posttrain.answers import batches_of, longest_of, read_answers, resolved
    from herdbook.posttrain.score_validation import ScoreValidation, unseen_answers
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.start import in_group, joined_groups
    from herdbook.train.tuning import begin, export, model_folder, trained_share

    if settings.parallel.processes > 1 and not in_group():
        from herdbook.train.launch import launch

        return launch(
            "herdbook.posttrain.reward:reward", settings, settings.parallel,
            model=model, preferences=list(preferences), out=out, unseen=list(unseen),
        )  # fmt: skip
    prepare(settings.threads)
    parallel, groups = joined_groups(settings.parallel)
    folder = model_folder(model)
    tokenizer = Tokenizer.load(folder)
    reading = Reading(settings.likelihood)
    data = read_answers(settings, preferences, tokenizer)
    others = unseen_answers(settings, unseen, tokenizer, data)
    batches = batches_of(settings, data.train)
    settings = resolved(settings, batches)
    longest = max(map(longest_of, (data, *others)))
    judged = {"heldout": data.heldout, "unseen": others[0].train if others else []}
    judges = {
        name: ScoreValidation(batches_of(settings, examples), reading, parallel)
        for name, examples in judged.items()
        if examples
    }
    if judges:  # how likely the answers were before any training is the rival that a judge has to beat
        plain = settings.model_copy(update={"lora": None})
        before = begin(plain, folder, parallel, longest)
        for judge in judges.values():
            with_reference(judge.batches, before, folder, plain, parallel)
        del before
    trained = begin(settings, folder, parallel, longest, scores=not reading.likelihood)
    figures = train(trained, Ranking(reading), batches, settings, out, validate=judges.get("heldout"), parallel=groups)
    if groups is None or groups.leads:
        export(trained, tokenizer, out / "model", parallel, settings.export_dtype)
        if parallel is None or parallel.rank == 0:
            reading.save(out / "model")
    figures = {name: value for name, value in figures.items() if not name.startswith("heldout_")}
    figures |= {name: judge.figures(trained) for name, judge in judges.items()}
    read = data.figures | ({"unseen": others[0].figures} if others else {})
    return {**figures, **trained_share(trained), "preferences": read}
