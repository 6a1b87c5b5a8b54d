"""Batches of answers that the model gives while it learns: drawn, scored, and learnt from for some steps.

What is drawn follows from the seed, the number of the rollout and the weights at that step. A rollout that several
steps learn from lies in a file for as long as a checkpoint may stand among these steps: the weights that drew it are
gone by then, and a run that was killed there needs it to go on as if it had not been.
Letters: B rows, T tokens, R requests, K answers to each, N targets of all answers of a rollout, one after the other.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from herdbook.model.documents import Documents
from herdbook.posttrain.preference_batches import CONTENT, FORMAT, NO_RANK, Answer, AnswerBatch, AnswerBatches, Example
from herdbook.posttrain.rl_losses import advantages_of, whitened
from herdbook.posttrain.rl_objectives import DrawnBatch, nats_of, policy_of, values_of
from herdbook.posttrain.rl_settings import RlSettings
from herdbook.settings import UserError
from herdbook.tokens.rows import shuffled

if TYPE_CHECKING:
    from herdbook.posttrain.reward import RewardModel
    from herdbook.tokens.tokenizer import Tokenizer

KNOWN = ("reference_nats", "old_nats", "advantages", "old_values", "returns")
EQUAL = 1e-6  # scores whose deviation is below it teach nothing by comparison


@dataclasses.dataclass
class Rollout:
    """What the model answered in one go, scored, and what is known of each target."""

    number: int
    ids: list[list[np.ndarray]]  # R times K: (n,) uint32, the prompt's last token and the answer's
    rewards: np.ndarray  # (R, K) float32
    ended: np.ndarray  # (R, K) bool
    known: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Each (N,) float32 and called as in `KNOWN`, as far as the method needs them."""

    def save(self, file: Path) -> None:
        """Write it, whole or not at all."""
        flat = [one for own in self.ids for one in own]
        parts: dict[str, Any] = {"ids": np.concatenate(flat), "lengths": np.array([len(one) for one in flat])}
        parts |= {"rewards": self.rewards, "ended": self.ended, **self.known}
        draft = file.with_suffix(f".{os.getpid()}.tmp")
        with open(draft, "wb") as stream:
            np.savez(stream, **parts)
        draft.replace(file)

    @classmethod
    def load(cls, file: Path, number: int) -> Rollout:
        """What was saved."""
        with np.load(file, allow_pickle=False) as found:
            parts = {name: found[name] for name in found.files}
        rewards, ended = parts.pop("rewards"), parts.pop("ended")
        flat = np.split(parts.pop("ids"), np.cumsum(parts.pop("lengths"))[:-1])
        most = rewards.shape[1]
        ids = [flat[at : at + most] for at in range(0, len(flat), most)]
        return cls(number, ids, rewards, ended, parts)


class DrawnBatches:
    """The batches of a run: what the model answers to the requests of each rollout, scored."""

    def __init__(
        self,
        settings: RlSettings,
        model: Any,  # the policy, or an ActorCritic
        tokenizer: Tokenizer,
        requests: list[Any],
        judge: RewardModel | None,
        folder: Path | None = None,  # of the run, where rollouts are kept; None keeps none
    ) -> None:
        self.settings, self.model, self.tokenizer, self.judge = settings, model, tokenizer, judge
        self.requests, self.folder = requests, folder
        self.reference = copy.deepcopy(policy_of(model)).eval().requires_grad_(False)
        self.rollout: Rollout | None = None

    def asked(self, number: int) -> list[Any]:
        """The requests of a rollout; passes over all of them follow each other, each shuffled."""
        count, size = self.settings.requests_per_step, len(self.requests)
        numbers = range(number * count, (number + 1) * count)
        return [self.requests[shuffled(size, self.settings.seed, n // size, "requests")[n % size]] for n in numbers]

    def batch(self, step: int) -> DrawnBatch:
        """The answers that a step learns from; those of the first step of a rollout are drawn when it is asked for."""
        number, within = divmod(step, self.settings.steps_per_rollout)
        requests = self.asked(number)
        prompts = self._prompts(requests)
        if self.rollout is None or self.rollout.number != number:
            self.rollout = self._begun(number, requests, prompts) if within == 0 else self._kept(number)
        passes, place = divmod(within, self.settings.minibatches)
        order = shuffled(len(requests), self.settings.seed, number, passes, "minibatches")
        mine = sorted(order[place :: self.settings.minibatches].tolist())
        return self._batch(self.rollout, prompts, mine)

    def _prompts(self, requests: list[Any]) -> list[list[int]]:
        from herdbook.posttrain.asking import prompt_ids

        return [prompt_ids(self.tokenizer, request, request["messages"]) for request in requests]

    def _begun(self, number: int, requests: list[Any], prompts: list[list[int]]) -> Rollout:
        """Draw a rollout, score it, and find what the steps need to know of its tokens."""
        drawn = self._draw(prompts, number)
        texts = [[one.text.strip() for one in own] for own in drawn]
        ended = np.array([[one.finish_reason == "stop" for one in own] for own in drawn])
        ids = [
            [np.array([prompt[-1], *one.token_ids], np.uint32) for one in own]
            for prompt, own in zip(prompts, drawn, strict=True)
        ]
        rollout = Rollout(number, ids, self._scored(requests, texts, ended), ended)
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), self._autocast():
            self._know(rollout, prompts)
        self.model.train(training)
        if self.folder is not None and self.settings.steps_per_rollout > 1:
            self._keep(rollout, self.folder)
        return rollout

    def _draw(self, prompts: list[list[int]], number: int) -> list[list[Any]]:
        from herdbook.inference.engine import Engine, Sampling
        from herdbook.posttrain.asking import ends_of_turns

        settings, policy = self.settings, policy_of(self.model)
        sampling = Sampling(
            max_tokens=settings.max_tokens, temperature=settings.temperature,
            stop_ids=ends_of_turns(self.tokenizer), seed=settings.seed + 1_000_003 * number,
        )  # fmt: skip
        training = policy.training
        # A new one for each rollout: an engine may keep weights, and what it read before, in a form of its own.
        engine = Engine(policy, self.tokenizer, ends_of_turns(self.tokenizer), rows=64)
        found = iter(engine.generate([prompt for prompt in prompts for _ in range(settings.answers)], sampling))
        policy.train(training)
        return [[next(found) for _ in range(settings.answers)] for _ in prompts]

    def _scored(self, requests: list[Any], texts: list[list[str]], ended: np.ndarray) -> np.ndarray:  # (R, K)
        from herdbook.posttrain.asking import verdicts

        # What has not ended, or says nothing, is worse than the worst that did.
        bad = ~ended | np.array([[not text for text in own] for own in texts])
        if self.judge is not None:
            tools = [request.get("tools") for request in requests]
            # Only what can be scored is read: an answer that has not ended may be longer than the judge holds.
            said = [[one for one, out in zip(own, none) if not out] for own, none in zip(texts, bad, strict=True)]
            scores = self.judge.score([request["messages"] for request in requests], said, tools)
            found = np.zeros(bad.shape, np.float32)
            found[~bad] = [score for own in scores for score in own]
            worst = 0.0 if bad.all() else float(found[~bad].min())
            return np.where(bad, worst - 1.0, found).astype(np.float32)
        found = np.array([[worth or 0.0 for worth in own] for own in verdicts(requests, texts)], np.float32)
        return np.where(bad, -1.0, found).astype(np.float32)

    def _autocast(self) -> Any:
        """What is found of tokens is found as the loop's steps find it."""
        bf16 = self.settings.precision == "bf16"
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16) if bf16 else nullcontext()

    def _know(self, rollout: Rollout, prompts: list[list[int]]) -> None:
        """Fill `rollout.known`."""
        examples = [one for one in map(self._example, prompts, rollout.ids, rollout.rewards, rollout.ended) if one]
        if not examples:
            return
        device, policy = next(self.model.parameters()).device, policy_of(self.model)
        sizes = [len(answer.kinds) for example in examples for answer in example.answers]
        batches, batch = self._rows(examples)
        batch, places = batch.to(device), targets_of(batches, batch)
        documents = Documents.from_ids(batch.document_ids)

        def found(of: Tensor) -> np.ndarray:
            flat = np.empty(sum(sizes), np.float32)
            flat[places] = of[batch.kinds > 0].float().cpu().numpy()
            return flat

        known = rollout.known
        known["reference_nats"] = found(nats_of(self.reference, batch, documents))
        if self.settings.method == "dpo":
            return
        if self.settings.steps_per_rollout > 1 or self.settings.method == "ppo":
            known["old_nats"] = found(nats_of(policy, batch, documents))
        if self.settings.method == "ppo":
            known["old_values"] = found(values_of(self.model.critic, batch, documents))
            known |= self._advantages(known, rollout.rewards.flatten(), sizes)
        else:
            ranks = [answer.rank for example in examples for answer in example.answers]
            known["advantages"] = np.repeat(np.array(ranks, np.float32), sizes)

    def _advantages(self, known: dict[str, np.ndarray], scores: np.ndarray, sizes: list[int]) -> dict[str, np.ndarray]:
        """PPO's advantages and returns: the score comes with an answer's last token, the KL's price with each."""
        settings = self.settings
        price = settings.strength * (known["reference_nats"] - known["old_nats"]).astype(np.float64)
        advantages, ends = np.empty(len(price)), np.cumsum(sizes)
        for score, start, end in zip(scores, ends - sizes, ends, strict=True):
            rewards = -price[start:end]
            rewards[-1] += score
            values = known["old_values"][start:end]
            advantages[start:end] = advantages_of(rewards, values, settings.gamma, settings.gae_lambda)
        returns = advantages + known["old_values"]
        advantages = whitened(advantages) if settings.whiten else advantages
        return {"advantages": advantages.astype(np.float32), "returns": returns.astype(np.float32)}

    def _example(self, prompt: list[int], ids: list[np.ndarray], scores: np.ndarray, ended: np.ndarray) -> Any:
        """What a request teaches: its best and worst answer with online DPO, all else; None where equals teach nothing.

        Ranks are advantages for GRPO, and none for PPO.
        """
        trunk, kinds = np.array(prompt[:-1], np.uint32), [np.full(len(one) - 1, CONTENT, np.uint8) for one in ids]
        for one, whole in zip(kinds, ended, strict=True):
            if whole:
                one[-1] = FORMAT
        deviation = float(scores.std(ddof=1))
        if self.settings.method == "ppo":
            ranked = [(at, NO_RANK) for at in range(len(ids))]
        elif deviation < EQUAL:
            return None
        elif self.settings.method == "dpo":
            ranked = [(int(scores.argmax()), 1.0), (int(scores.argmin()), 0.0)]
        else:
            advantages = (scores - scores.mean()) / (deviation + 1e-4)
            ranked = list(enumerate(advantages.tolist()))
        return Example(trunk, tuple(Answer(ids[at], kinds[at], rank) for at, rank in ranked))

    def _rows(self, examples: list[Example]) -> tuple[AnswerBatches, AnswerBatch]:
        length = max([self.settings.length, *(example.size for example in examples)])
        if examples:
            rows = AnswerBatches(examples, length, 1, self.settings.seed)
            return rows, rows.assemble([rows.row(number) for number in range(rows.table.count)], 0)
        blank = Example(np.zeros(1, np.uint32), (Answer(np.zeros(2, np.uint32), np.zeros(1, np.uint8), NO_RANK),))
        rows = AnswerBatches([blank], length, 1)
        return rows, rows.assemble([[]], 0)

    def _batch(self, rollout: Rollout, prompts: list[list[int]], mine: list[int]) -> DrawnBatch:
        """The rows of some of a rollout's requests."""
        all_of_it = list(map(self._example, prompts, rollout.ids, rollout.rewards, rollout.ended))
        sizes = [sum(len(answer.kinds) for answer in one.answers) if one else 0 for one in all_of_it]
        ends = np.cumsum(sizes)
        spans = [np.arange(ends[at] - sizes[at], ends[at]) for at in mine if all_of_it[at]]
        batches, plain = self._rows([all_of_it[at] for at in mine if all_of_it[at]])
        scored = {"rewards": torch.from_numpy(rollout.rewards), "ended": torch.from_numpy(rollout.ended)}
        made = DrawnBatch(**vars(plain), **scored)
        learnt = made.kinds > 0
        whole = np.concatenate(spans)[targets_of(batches, plain)] if spans else np.empty(0, np.int64)
        for name in rollout.known or KNOWN:  # of a rollout that teaches nothing no token is known
            laid = torch.zeros(learnt.shape)
            laid[learnt] = torch.from_numpy(rollout.known.get(name, np.empty(0, np.float32))[whole])
            setattr(made, name, laid)
        if self.settings.method == "dpo":
            made.reference = sums_of(made)
        return made

    def _keep(self, rollout: Rollout, folder: Path) -> None:
        """Write a rollout, and forget those that lie before every checkpoint."""
        kept = folder / "rollouts"
        kept.mkdir(parents=True, exist_ok=True)
        rollout.save(kept / f"{rollout.number:08d}.npz")
        steps = [int(one.name.removeprefix("step-")) for one in (folder / "checkpoints").glob("step-????????")]
        oldest = min(steps, default=0) // self.settings.steps_per_rollout
        for file in kept.iterdir():  # drafts of a run that was killed too
            if int(file.name.partition(".")[0]) < oldest:
                file.unlink()

    def _kept(self, number: int) -> Rollout:
        file = (self.folder or Path()) / "rollouts" / f"{number:08d}.npz"
        if self.folder is None or not file.is_file():
            raise UserError(
                f"{file} is gone, the answers that this run was learning from when it stopped; remove its checkpoints "
                "to begin it anew"
            )
        return Rollout.load(file, number)


def targets_of(batches: AnswerBatches, batch: AnswerBatch) -> np.ndarray:
    """(N,) of each target of a batch, row after row, its place among those of all `batches`' answers, in their order.

    Every token of a drawn answer but the first is a target.
    """
    sizes = np.array([len(answer.kinds) for example in batches.examples for answer in example.answers])
    ends = np.cumsum(sizes)
    numbers = batch.numbers[batch.groups >= 0].cpu().numpy()
    spans = [np.arange(ends[one] - sizes[one], ends[one]) for one in numbers]
    return np.concatenate(spans) if spans else np.empty(0, np.int64)


def sums_of(batch: DrawnBatch) -> Tensor:  # (B, A, 2)
    """Log-probability of each answer's format and content under the reference, as `AnswerBatch.reference`."""
    assert batch.reference_nats is not None
    documents, most = Documents.from_ids(batch.document_ids), batch.groups.shape[1]
    numbers = documents.branch_numbers.clamp(min=0)
    found = torch.zeros(*batch.groups.shape, 2)
    for place, kind in enumerate((FORMAT, CONTENT)):
        found[..., place].scatter_add_(1, numbers.clamp(max=most - 1), -batch.reference_nats * (batch.kinds == kind))
    return found
