"""Dialogs that say the same in other words (§4.2.3): of each cluster the best and hardest stays first, others near go.

The vectors, the clusters and the greedy pass are curation's (`corpus/semantic.py`); what is compared are dialogs.
Letters: N dialogs, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from herdbook.corpus.measure import BUCKETS, bucket_counts
from herdbook.corpus.semantic import LARGEST, SAMPLE, Encoder, HashedWords, greedy, k_means, nearest
from herdbook.corpus.words import TOKENS, hash_words
from herdbook.posttrain.select_settings import LikenessSettings
from herdbook.posttrain.shown import Row, words_of


def set_duplicates(rows: Sequence[Row], settings: LikenessSettings) -> dict[str, Any]:
    """Give rows that say another's again its id as `duplicate_of`, and `duplicate_similarity`; returns counts.

    Rows are ordered by `quality_score` times `difficulty_score`, what is not known counting as one half.
    """
    for row in rows:
        row["duplicate_of"], row["duplicate_similarity"] = None, None
    if len(rows) < 2 or settings.threshold >= 1:
        return {"found": 0}
    vectors = vectors_of(rows, settings)
    order = np.array([-worth(row) for row in rows])
    clusters = max(1, len(rows) // settings.cluster_documents)
    draw = np.random.default_rng(len(rows))
    sample = np.sort(draw.permutation(len(rows))[: clusters * SAMPLE])
    label = nearest(vectors, k_means(vectors[sample], clusters))[0]
    found = 0
    for cluster in np.unique(label):
        members = np.flatnonzero(label == cluster)
        members = members[np.argsort(order[members], kind="stable")]
        for start in range(0, len(members), LARGEST):
            some = members[start : start + LARGEST]
            keeper, alike = greedy(vectors[some], settings.threshold)
            for place in np.flatnonzero(keeper >= 0):
                row = rows[some[place]]
                row["duplicate_of"] = rows[some[keeper[place]]]["id"]
                row["duplicate_similarity"] = round(float(alike[place]), 4)
                found += 1
    return {"found": found, "clusters": clusters}


def worth(row: Row) -> float:
    """Quality times difficulty."""
    quality, difficulty = row.get("quality_score"), row.get("difficulty_score")
    return (0.5 if quality is None else quality) * (0.5 if difficulty is None else difficulty)


def vectors_of(rows: Sequence[Row], settings: LikenessSettings) -> np.ndarray:
    """Vectors (N, D) of length one of what is said: an encoder's, or words weighted by rarity."""
    texts = [words_of(row) for row in rows]
    if settings.encoder is not None:
        return Encoder(settings.encoder).embed(pa.table({"text": pa.array(texts, pa.string())}))
    counted = [bucket_counts(hash_words(TOKENS.findall(text.lower()))) for text in texts]
    frequency = np.zeros(BUCKETS)
    for buckets, _ in counted:
        frequency[buckets] += 1
    table = pa.table(
        {
            "divergence_tokens": pa.array([one for one, _ in counted], pa.list_(pa.uint16())),
            "divergence_counts": pa.array([one for _, one in counted], pa.list_(pa.int32())),
        }
    )
    return HashedWords(frequency, len(rows), settings.dimensions).embed(table)
