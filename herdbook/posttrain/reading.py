"""How the score of an answer is read from a reward model: from its last token's state, or from how likely it is.

A head of one number at the last token is the paper's (§4.1.2). A small model gets little from it: whether a token is
one that the model itself would have said is known only in the logits, and no layer is left to add that up. So a score
may be the answer's log-probability per token, the implicit reward of SimPO, under the language head that the model then
keeps. It stays a language model; how to read it lies beside it in `reward.json`.
Letters: B rows, T tokens, A answers of a row at most.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from herdbook.files import read_json, write_json
from herdbook.model.documents import Documents
from herdbook.posttrain.preference_batches import CONTENT, AnswerBatch
from herdbook.settings import UserError
from herdbook.train.nats import branch_sums, scores, token_nats

FILE = "reward.json"


@dataclass(frozen=True)
class Reading:
    """Model and batch to scores; a reward model is trained and used with the same one."""

    likelihood: float = 0.0
    """What an answer's log-probability per token is multiplied by; 0: the model has a head of one number instead."""

    @classmethod
    def load(cls, folder: Path) -> Reading:
        """That of a reward model's folder; UserError when its file says something else."""
        file = folder / FILE
        if not file.is_file():
            return cls()
        found = read_json(file)
        if not isinstance(found, dict) or not isinstance(found.get("likelihood"), int | float):
            raise UserError(f"{file} must say by what likelihood is multiplied, a number, and has {found!r:.80}")
        return cls(float(found["likelihood"]))

    def save(self, folder: Path) -> None:
        """Beside the model's weights, where they alone do not say it."""
        if self.likelihood:
            write_json(folder / FILE, asdict(self))

    def __call__(self, model: Any, batch: AnswerBatch, documents: Documents | None = None) -> Tensor:  # (B, A)
        """The score of each answer; 0 where a row has fewer answers."""
        documents = documents or Documents.from_ids(batch.document_ids)
        hidden, most = model.hidden(batch.tokens, documents), batch.groups.shape[1]
        if not self.likelihood:
            each = scores(hidden.flatten(0, 1), model.head.weight)[:, 0].view(batch.last.shape)
            return branch_sums(model, each * batch.last, documents, most)
        nats = token_nats(hidden.flatten(0, 1), model.head.weight, batch.targets.flatten()).view(batch.targets.shape)
        said = branch_sums(model, nats * (batch.kinds == CONTENT), documents, most)
        return -self.likelihood * said / batch.lengths[..., 1].to(said.dtype).clamp(min=1)


AT_THE_END = Reading()
"""The paper's."""
