"""Objectives as later stages will have them, and batches for them: weighted answers, preferences, rewards."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from herdbook.model.documents import Documents
from herdbook.train.loss import IGNORED
from herdbook.train.nats import document_sums, scores, token_nats
from herdbook.train.objective import Loss
from tests.train.parity import Case


@dataclass
class Pairs:
    """Each row holds one pair: a chosen answer, then a rejected one, behind prompts that are not counted."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    document_ids: Tensor  # (B, T)
    weights: Tensor  # (B, T) of each target
    last: Tensor  # (B, T) 1 at the last token of a document
    reference: Tensor  # (B, 2) log-probability of each answer under another model

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> Pairs:
        return replace(self, **{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})

    def to(self, device: Any) -> Pairs:
        return self


class PairBatches:
    """Pairs that are a pure function of their number; answers differ in length and rows in what is counted."""

    def __init__(self, rows: int, length: int, split: int) -> None:
        self.rows, self.length, self.split = rows, length, split

    def batch(self, step: int) -> Pairs:
        number, part = divmod(step, self.split)
        generator = torch.Generator().manual_seed(number)
        shape = (self.rows, self.length)
        tokens = torch.randint(0, 97, shape, generator=generator)
        second = torch.randint(5, self.length - 4, (self.rows, 1), generator=generator)
        place = torch.arange(self.length).unsqueeze(0)
        ids = (place >= second).int()
        last = ((place == second - 1) | (place == self.length - 1)).float()
        prompt = (place < 2 + number % 2) | ((place >= second) & (place < second + 2 + number % 2))
        targets = tokens.roll(-1, 1).masked_fill((last > 0) | prompt, IGNORED)
        weights = torch.rand(shape, generator=generator)
        reference = -20 * torch.rand(self.rows, 2, generator=generator)
        each = self.rows // self.split
        return Pairs(tokens, targets, ids, weights, last, reference).rows(part * each, (part + 1) * each)


class WeightedAnswers:
    """Each target's cost times its weight, as instructions of uneven worth would have; prompts are not counted."""

    of_documents = False

    def count(self, batch: Pairs) -> int:
        return int((batch.targets != IGNORED).sum())

    def __call__(self, model: Any, batch: Pairs) -> Loss:
        hidden = model.hidden(batch.tokens, Documents.from_ids(batch.document_ids))
        nats = token_nats(hidden.flatten(0, 1), model.head.weight, batch.targets.flatten())
        return Loss((nats * batch.weights.flatten()).sum(), self.count(batch), tokens=self.count(batch))


class Preference:
    """Of a pair the chosen answer is to gain on the rejected one (DPO), and to stay likely by itself (§4.1.4)."""

    of_documents = True

    def count(self, batch: Pairs) -> int:
        return len(batch)

    def __call__(self, model: Any, batch: Pairs) -> Loss:
        documents = Documents.from_ids(batch.document_ids)
        hidden = model.hidden(batch.tokens, documents)
        nats = token_nats(hidden.flatten(0, 1), model.head.weight, batch.targets.flatten())
        sums = document_sums(model, nats.view(batch.targets.shape), documents).view(-1, 2)
        lengths = document_sums(model, (batch.targets != IGNORED).float(), documents).view(-1, 2)
        gain = -sums - batch.reference
        margin = 0.1 * (gain[:, 0] - gain[:, 1])
        losses = -F.logsigmoid(margin) + 0.2 * sums[:, 0] / lengths[:, 0]
        return Loss(losses.sum(), len(batch), {"accuracy": (margin > 0).sum()}, tokens=self.count(batch))


class Reward:
    """The chosen answer's score, read at its last token, is to be above the rejected one's."""

    of_documents = True

    def count(self, batch: Pairs) -> int:
        return len(batch)

    def __call__(self, model: Any, batch: Pairs) -> Loss:
        documents = Documents.from_ids(batch.document_ids)
        hidden = model.hidden(batch.tokens, documents)
        each = scores(hidden.flatten(0, 1), model.head.weight)[:, 0].view(batch.tokens.shape)
        score = document_sums(model, each * batch.last, documents).view(-1, 2)
        losses = -F.logsigmoid(score[:, 0] - score[:, 1])
        return Loss(losses.sum(), len(batch), tokens=self.count(batch))


class PairCase(Case):
    """A case of the parity table with another objective."""

    def __init__(self, objective: Any, *args: Any, **changes: Any) -> None:
        super().__init__(*args, **changes)
        self.objective = objective

    def batches(self) -> PairBatches:
        return PairBatches(4 * self.accumulate, 32, self.accumulate)
