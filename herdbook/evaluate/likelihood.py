"""What the counted tokens of documents cost a model, document by document: held-out answers, chosen answers.

`bits.py` does it for whole texts, longer than a model's context too; here documents fit, and only some tokens count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from herdbook.model.transformer import Transformer
    from herdbook.tokens.shards import TokenSet

TOKENS_AT_ONCE = 8192


def counted_nats(
    model: Transformer,
    documents: TokenSet,
    at_once: int = TOKENS_AT_ONCE,  # tokens read together
) -> np.ndarray:  # (documents,) float64
    """Summed negative log-likelihood, in nats, of each document's counted ids (all but its first where none are named).

    Documents lie side by side in one row and do not see each other.
    """
    import torch

    from herdbook.model.documents import Documents
    from herdbook.train.nats import token_nats

    device = next(model.parameters()).device
    nats = np.zeros(len(documents))
    sizes = np.diff(documents.offsets)
    first = 0
    with torch.inference_mode():
        while first < len(documents):
            last = first + 1
            while last < len(documents) and documents.offsets[last + 1] - documents.offsets[first] <= at_once:
                last += 1
            part = slice(int(documents.offsets[first]), int(documents.offsets[last]))
            ids = torch.from_numpy(documents.tokens[part].astype(np.int64)).to(device)
            targets = torch.full_like(ids, -100)
            targets[:-1] = ids[1:]
            if documents.counted is not None:
                targets[:-1][~torch.from_numpy(documents.counted[part][1:]).to(device)] = -100
            targets[torch.from_numpy(documents.offsets[first + 1 : last + 1] - part.start - 1).to(device)] = -100
            hidden = model.hidden(ids[None], Documents.from_lengths(sizes[first:last].tolist(), device))[0]
            costs = token_nats(hidden, model.head.weight, targets).double().cpu().numpy()
            owners = np.repeat(np.arange(first, last), sizes[first:last])
            nats += np.bincount(owners, costs, minlength=len(documents))
            first = last
    return nats
