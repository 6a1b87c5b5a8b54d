"""What a batch is trained for: an objective turns a batch into a summed loss and a count (DESIGN, idea 2).

The loop knows nothing else of the task. Sums, not means, so that gradients of micro-batches (and later of
ranks) add up to exactly the gradient of the whole batch, however unevenly the counted tokens are spread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from herdbook.model.documents import Documents
from herdbook.model.transformer import Transformer
from herdbook.train.loss import IGNORED, linear_cross_entropy


@dataclass
class Loss:
    """What an objective says of one micro-batch."""

    total: Tensor
    """Scalar: the sum of the losses of what was counted (tokens, pairs, …)."""

    count: int
    """How many were counted; the loop divides by their number in the whole step."""

    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Further sums to log; each is divided by the step's count too."""

    tokens: int = 0
    """Tokens the model worked through, for tokens/s."""

    flops: float = 0.0
    """Floating point operations of forward and backward, attention counted causally within documents."""

    full_flops: float = 0.0
    """The same with attention counted over whole rows, as others print it."""


class Objective(Protocol):
    """A batch to its loss; called under autocast, with gradients on when training."""

    of_documents: bool
    """Whether losses are of whole documents (`document_sums`) and not of tokens: where ranks share the tokens of a row,
    all of them then find the same loss, and it is counted once."""

    def __call__(self, model: Transformer, batch: Any) -> Loss: ...

    def count(self, batch: Any) -> int:
        """What `Loss.count` will be, before the model has run: the routers of a mixture are told it beforehand."""
        ...


class NextToken:
    """Cross-entropy of the next token of the same document (§3.4)."""

    of_documents = False

    def count(self, batch: Any) -> int:
        """Targets that are not ignored."""
        return int((batch.targets != IGNORED).sum())

    def __call__(self, model: Transformer, batch: Any) -> Loss:
        """`batch` is a `tokens.batches.Batch`: tokens, targets and document_ids, each (B, T)."""
        documents = Documents.from_ids(batch.document_ids)
        hidden = model.hidden(batch.tokens, documents)
        total, count = linear_cross_entropy(hidden.flatten(0, 1), model.head.weight, batch.targets.flatten())
        worked = self.worked(batch, count)
        return Loss(
            total,
            count,
            tokens=worked,
            flops=worked * model.config.flops_per_token(documents.mean_attended),
            full_flops=worked * model.config.flops_per_token(batch.document_ids.shape[1]),
        )

    def worked(self, batch: Any, count: int) -> int:
        """Tokens that the model worked through; padding is no work done."""
        return count


class AnswerTokens(NextToken):
    """The same where only some tokens are targets (§4.1.3): what is read and not learnt is work too."""

    def worked(self, batch: Any, count: int) -> int:
        """Tokens of documents; of a row that ranks share, this rank's part of them."""
        ids = batch.document_ids
        return int((ids >= 0).sum()) * batch.tokens.numel() // ids.numel()
