"""Learning from answers that the model gives while it learns: online DPO (Guo et al. 2024) and GRPO (Shao et al. 2024).

It is the same loop: a batch's source asks the model itself. What is drawn follows from the seed, the number of the step
and the weights at that step, so a run that was killed goes on as if it had not been. Every batch is learnt from once,
so GRPO's ratio of new to old probabilities is 1 and needs no clipping.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from herdbook.model.documents import Documents
from herdbook.posttrain.preference import PreferenceObjective, answer_logprobs
from herdbook.posttrain.preference_batches import CONTENT, FORMAT, NO_RANK, Answer, AnswerBatch, AnswerBatches, Example
from herdbook.posttrain.preference_settings import PreferenceSettings
from herdbook.posttrain.rl_settings import RlSettings
from herdbook.settings import UserError
from herdbook.tokens.rows import shuffled
from herdbook.train.nats import branch_sums, token_nats
from herdbook.train.objective import Loss

if TYPE_CHECKING:
    from herdbook.posttrain.reward import RewardModel
    from herdbook.tokens.tokenizer import Tokenizer


@dataclass
class DrawnBatch(AnswerBatch):
    """Answers that the model gave; their ranks are 1 and 0 for online DPO, advantages for GRPO."""

    reference_nats: Tensor | None = None  # (B, T) cost of each target under the reference
    rewards: Tensor | None = None  # (R, K) score of each answer to each request of the step
    ended: Tensor | None = None  # (R, K) whether it ended


class Grpo:
    """-advantage * probability ratio + beta * KL from the reference, a mean over each answer's tokens (eq. 3 and 4)."""

    of_documents = True

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def count(self, batch: AnswerBatch) -> int:
        """Answers."""
        return int((batch.groups >= 0).sum())

    def __call__(self, model: Any, batch: DrawnBatch) -> Loss:
        """The summed loss, and the mean KL per token of each answer."""
        documents = Documents.from_ids(batch.document_ids)
        hidden = model.hidden(batch.tokens, documents)
        nats = token_nats(hidden.flatten(0, 1), model.head.weight, batch.targets.flatten()).view(batch.targets.shape)
        assert batch.reference_nats is not None
        most, learnt = batch.groups.shape[1], batch.kinds > 0
        ahead = (nats - batch.reference_nats) * learnt  # by how much the reference finds a token likelier
        ratio = torch.exp(nats.detach() - nats) * learnt
        length = batch.lengths.sum(-1).clamp(min=1)
        kl = branch_sums(model, torch.expm1(ahead) - ahead, documents, most) / length
        gain = branch_sums(model, ratio, documents, most) / length * batch.ranks.nan_to_num()
        there, tokens = batch.groups >= 0, int(batch.filled.sum())
        losses = (self.beta * kl - gain)[there]
        metrics = {"kl": kl[there].detach().sum()}
        return Loss(
            losses.sum(), self.count(batch), metrics, tokens=tokens,
            flops=tokens * model.config.flops_per_token(documents.mean_attended),
            full_flops=tokens * model.config.flops_per_token(batch.tokens.shape[1]),
        )  # fmt: skip


class Watched:
    """An objective that logs the scores of the answers too."""

    of_documents = True

    def __init__(self, objective: Any) -> None:
        self.objective = objective

    def count(self, batch: DrawnBatch) -> int:
        """What the objective counts."""
        count: int = self.objective.count(batch)
        return count

    def __call__(self, model: Any, batch: DrawnBatch) -> Loss:
        """The objective's loss, with means over the step's answers among the metrics."""
        loss: Loss = self.objective(model, batch)
        assert batch.rewards is not None and batch.ended is not None
        best, mean = batch.rewards.amax(1).mean(), batch.rewards.mean()
        seen = {"reward": mean, "best_reward": best, "ended": batch.ended.float().mean()}
        loss.metrics |= {name: value * max(loss.count, 1) for name, value in seen.items()}
        return loss


class DrawnBatches:
    """The batches of a run: what the model answers to the requests of each step, scored."""

    def __init__(
        self, settings: RlSettings, model: Any, tokenizer: Tokenizer, requests: list[Any], judge: RewardModel | None
    ) -> None:
        self.settings, self.model, self.tokenizer, self.judge = settings, model, tokenizer, judge
        self.requests = requests
        self.reference = copy.deepcopy(model).eval().requires_grad_(False)

    def asked(self, step: int) -> list[Any]:
        """The requests of a step; passes over all of them follow each other, each shuffled."""
        count, size = self.settings.requests_per_step, len(self.requests)
        numbers = range(step * count, (step + 1) * count)
        return [self.requests[shuffled(size, self.settings.seed, n // size, "requests")[n % size]] for n in numbers]

    def batch(self, step: int) -> DrawnBatch:
        """Draw and score the answers of a step, and put those into rows that are learnt from."""
        requests = self.asked(step)
        prompts, drawn = self._draw(requests, step)
        texts = [[one.text.strip() for one in own] for own in drawn]
        ended = torch.tensor([[one.finish_reason == "stop" for one in own] for own in drawn])
        rewards = self._scored(requests, texts, ended)
        examples = []
        for prompt, own, scores in zip(prompts, drawn, rewards):
            answers = [self._answer(prompt, one) for one in own]
            examples += self._examples(np.array(prompt[:-1], np.uint32), answers, scores)
        return self._batch(examples, rewards, ended)

    def _draw(self, requests: list[Any], step: int) -> tuple[list[list[int]], list[list[Any]]]:
        from herdbook.inference.engine import Engine, Sampling
        from herdbook.posttrain.asking import ends_of_turns, prompt_ids

        settings = self.settings
        prompts = [prompt_ids(self.tokenizer, request, request["messages"]) for request in requests]
        sampling = Sampling(
            max_tokens=settings.max_tokens, temperature=settings.temperature,
            stop_ids=ends_of_turns(self.tokenizer), seed=settings.seed + 1_000_003 * step,
        )  # fmt: skip
        training = self.model.training
        # A new one for each step: an engine may keep weights, and what it read before, in a form of its own.
        engine = Engine(self.model, self.tokenizer, ends_of_turns(self.tokenizer), rows=64)
        found = iter(engine.generate([prompt for prompt in prompts for _ in range(settings.answers)], sampling))
        self.model.train(training)
        return prompts, [[next(found) for _ in range(settings.answers)] for _ in prompts]

    def _scored(self, requests: list[Any], texts: list[list[str]], ended: Tensor) -> Tensor:  # (R, K)
        from herdbook.posttrain.asking import verdicts

        if self.judge is not None:
            tools = [request.get("tools") for request in requests]
            said = [[text or "…" for text in own] for own in texts]
            found = torch.tensor(self.judge.score([request["messages"] for request in requests], said, tools))
        else:
            found = torch.tensor([[worth or 0.0 for worth in own] for own in verdicts(requests, texts)])
        # What has not ended, or says nothing, is worse than the worst that did.
        bad = ~ended | torch.tensor([[not text for text in own] for own in texts])
        return torch.where(bad, found.amin() - 1.0, found) if self.judge is not None else found.masked_fill(bad, -1.0)

    def _answer(self, prompt: list[int], drawn: Any) -> Answer:
        ids = np.array([prompt[-1], *drawn.token_ids], np.uint32)
        kinds = np.full(len(ids) - 1, CONTENT, np.uint8)
        if drawn.finish_reason == "stop":
            kinds[-1] = FORMAT
        return Answer(ids, kinds, NO_RANK)

    def _examples(self, trunk: np.ndarray, answers: list[Answer], scores: Tensor) -> list[Example]:
        """What a request teaches: its best and worst answer with online DPO, all with GRPO; equals teach nothing."""
        deviation = float(scores.std())
        if deviation < 1e-6:
            return []
        if self.settings.method == "dpo":
            pair = ((int(scores.argmax()), 1.0), (int(scores.argmin()), 0.0))
            return [Example(trunk, tuple(Answer(answers[at].ids, answers[at].kinds, rank) for at, rank in pair))]
        advantages = ((scores - scores.mean()) / (deviation + 1e-4)).tolist()
        ranked = [Answer(one.ids, one.kinds, rank) for one, rank in zip(answers, advantages, strict=True)]
        return [Example(trunk, tuple(ranked))]

    @torch.no_grad()
    def _batch(self, examples: list[Example], rewards: Tensor, ended: Tensor) -> DrawnBatch:
        length = max([self.settings.length, *(example.size for example in examples)])
        if examples:
            rows = AnswerBatches(examples, length, 1, self.settings.seed)
            plain = rows.assemble([rows.row(number) for number in range(rows.table.count)], 0)
        else:
            blank = Example(np.zeros(1, np.uint32), (Answer(np.zeros(2, np.uint32), np.zeros(1, np.uint8), NO_RANK),))
            plain = AnswerBatches([blank], length, 1).assemble([[]], 0)
        made = DrawnBatch(**vars(plain), rewards=rewards, ended=ended)
        if self.settings.method == "dpo":
            made.reference = answer_logprobs(self.reference, made)
        else:
            hidden = self.reference.hidden(made.tokens, Documents.from_ids(made.document_ids))
            nats = token_nats(hidden.flatten(0, 1), self.reference.head.weight, made.targets.flatten())
            made.reference_nats = nats.view(made.targets.shape)
        return made


def rl(settings: RlSettings, model: Path, requests: Path, out: Path, reward: Path | None = None) -> dict[str, Any]:
    """Train `model` on its own answers to the training requests; writes `out`/model, a folder that chats.

    Goes on from what a killed run left in `out`. Returns the loop's figures, and the mean `reward` and share `ended` of
    the answers in the first and in the last tenth of the steps. UserError when there is nothing to score by.
    """
    from herdbook.posttrain.asking import read_requests
    from herdbook.posttrain.reward import RewardModel
    from herdbook.posttrain.round_settings import AskSettings
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.tuning import begin, export, model_folder, trained_share

    if settings.score == "reward" and reward is None:
        raise UserError("score is reward, and no reward model feeds this stage; feed one, or score by verdict")
    prepare(settings.threads)
    folder = model_folder(model)
    tokenizer = Tokenizer.load(folder)
    ask = AskSettings(tasks=settings.tasks, limit=settings.limit, kept_back=settings.kept_back, seed=settings.seed)
    asked = read_requests(requests, ask)
    if settings.score == "verdict" and not all(request.get("check") for request in asked):
        raise UserError("score is verdict, and some requests carry no check; leave their tasks out, or score by reward")
    passes = settings.passes
    if passes is not None:
        steps = max(1, round(passes * len(asked) / settings.requests_per_step))
        warmup = min(settings.warmup, steps // 10)
        settings = settings.model_copy(update={"steps": steps, "epochs": None, "warmup": warmup})
    trained = begin(settings, folder, None)
    judge = RewardModel.load(reward, trained.embedding.weight.device) if settings.score == "reward" and reward else None
    batches = DrawnBatches(settings, trained, tokenizer, asked, judge)
    figures = train(trained, Watched(objective_of(settings)), batches, settings, out)
    export(trained, tokenizer, out / "model", None, settings.export_dtype)
    return {**figures, **trained_share(trained), "requests": len(asked), **ends_of_run(out)}


def objective_of(settings: RlSettings) -> Any:
    """What is minimised."""
    if settings.method == "grpo":
        return Grpo(settings.strength)
    # The end of an answer is its own to learn here: one that does not end is scored for it.
    how = {"loss": "dpo", "formatting_mask": False, "beta": settings.strength, "nll_weight": settings.nll_weight}
    return PreferenceObjective(PreferenceSettings.model_validate({**how, "steps": 1}))


def ends_of_run(out: Path) -> dict[str, dict[str, float]]:
    """Means over the first and the last tenth of the steps."""
    from herdbook.train.metrics import read_metrics

    records = read_metrics(out / "metrics.jsonl")
    tenth = max(1, len(records) // 10)
    parts = {"first": records[:tenth], "last": records[-tenth:]}
    names = ("reward", "best_reward", "ended", "kl")
    return {part: {name: _mean([one[name] for one in some]) for name in names} for part, some in parts.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
