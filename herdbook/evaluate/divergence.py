"""How far one model's predictions are from another's on held-out text: what a change of precision does to each token.

Bits per byte average over gains and losses, so a changed model may look unchanged; the Kullback-Leibler divergence
of the next-token distributions does not cancel, and says how often another token would have been written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from herdbook.evaluate.bits import LOGITS_AT_ONCE, batches, choose_documents, cut_windows
from herdbook.evaluate.intervals import ratio
from herdbook.tokens.shards import TokenSets

if TYPE_CHECKING:
    from herdbook.model.transformer import Transformer

TOKENS_AT_ONCE = 2048


def measure_divergence(
    before: Transformer, after: Transformer, tokens: Path, limit: int | None, seed: int
) -> dict[str, Any]:
    """Divergence over about `limit` held-out tokens per set, whole documents, with 95 % intervals over documents.

    `nats` is the mean of KL(before | after) per token, `nats_p99` what 99 % of the tokens stay below, `same_token`
    the share of tokens where both models find the same token likeliest.
    """
    sets = TokenSets.open(tokens, verify=False)
    heldout = [splits["heldout"] for splits in sets.sets.values() if len(splits["heldout"])]
    documents = [split.document(i) for split in heldout for i in choose_documents(split, limit, seed)]
    owners, nats, same = token_divergence(before, after, documents)
    counts = np.bincount(owners, minlength=len(documents)).astype(float)
    sums = [np.bincount(owners, weights=values, minlength=len(documents)) for values in (nats, same)]
    kept = counts > 0
    figures: dict[str, Any] = {
        name: ratio(list(total[kept]), list(counts[kept]), seed) for name, total in zip(("nats", "same_token"), sums)
    }
    return {**figures, "nats_p99": float(np.quantile(nats, 0.99)) if len(nats) else 0.0, "tokens": len(nats)}


def token_divergence(
    before: Transformer,
    after: Transformer,
    documents: Sequence[np.ndarray],  # ids of each
    at_once: int = TOKENS_AT_ONCE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # per predicted token: its document, KL in nats, 1 where both agree
    """Both models read the same windows; every token but a document's first is predicted once."""
    import torch

    context = min(before.config.max_length, after.config.max_length)
    windows = [w for i, ids in enumerate(documents) for w in cut_windows(i, len(ids), context, 0.5)]
    windows.sort(key=lambda window: window.end - window.start)
    owners: list[np.ndarray] = []
    nats: list[np.ndarray] = []
    same: list[np.ndarray] = []
    with torch.inference_mode():
        for part in batches(windows, at_once):
            width = part[-1].end - part[-1].start
            rows = torch.zeros(len(part), width, dtype=torch.int64)
            places = []
            for row, window in enumerate(part):
                ids = documents[window.document][window.start : window.end]
                rows[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
                places.append(row * width + np.arange(window.counted - 1 - window.start, window.end - window.start))
                owners.append(np.full(len(places[-1]), window.document))
            chosen = torch.from_numpy(np.concatenate(places))
            hidden = [
                model.hidden(rows.to(model.embedding.weight.device)).flatten(0, 1)[
                    chosen.to(model.embedding.weight.device)
                ]
                for model in (before, after)
            ]
            step = max(1, LOGITS_AT_ONCE // before.config.vocab_size)
            for at in range(0, len(chosen), step):
                first, second = (
                    model.head(found[at : at + step]).float().log_softmax(-1).cpu()
                    for model, found in zip((before, after), hidden)
                )
                nats.append((first.exp() * (first - second)).sum(-1).clamp(0).double().numpy())
                same.append((first.argmax(-1) == second.argmax(-1)).double().numpy())
    empty = np.zeros(0)
    return (
        np.concatenate(owners) if owners else empty.astype(int),
        np.concatenate(nats) if nats else empty,
        np.concatenate(same) if same else empty,
    )
