"""How far a document's words are from those of the corpus: Kullback-Leibler divergence, per language (§3.1.1).

A document is held against the distribution of all *other* documents of its language, so that a heap of noise does
not vouch for itself. Short documents diverge by nature; the rule reads how far a document lies from others of its
length, in robust standard deviations.
"""

from __future__ import annotations

import numpy as np

from herdbook.corpus.measure import BUCKETS

LEAST_DOCUMENTS = 30
"""Languages with fewer documents have no distribution worth comparing with."""
LEAST_SPREAD = 0.25
"""Bits: pages made from one mould differ so little that any page of another would stand out."""
LEAST_TOKENS = 30
"""Documents with fewer words are not judged."""


def divergence(
    tokens: list[np.ndarray],  # N arrays of word buckets, uint16
    languages: np.ndarray,  # (N,) str
) -> tuple[np.ndarray, np.ndarray]:
    """KL divergence in bits (N,) and its excess over documents of equal length (N,); NaN where not judged."""
    bits = np.full(len(tokens), np.nan)
    excess = np.full(len(tokens), np.nan)
    for language in np.unique(languages):
        rows = np.flatnonzero(languages == language)
        if language in ("", "code") or len(rows) < LEAST_DOCUMENTS:
            continue
        rows = np.array([row for row in rows if len(tokens[row]) >= LEAST_TOKENS], dtype=np.int64)
        if len(rows) < LEAST_DOCUMENTS:
            continue
        totals = np.zeros(BUCKETS, dtype=np.float64)
        for row in rows:
            totals += np.bincount(tokens[row], minlength=BUCKETS)
        bits[rows] = [kl_bits(tokens[row], totals) for row in rows]
        lengths = np.log2([len(tokens[row]) for row in rows])
        excess[rows] = standard_excess(bits[rows], lengths)
    return bits, excess


def kl_bits(tokens: np.ndarray, totals: np.ndarray) -> float:
    """Divergence in bits of one document's buckets from the corpus counts without it, one added to each bucket."""
    found, counts = np.unique(tokens, return_counts=True)
    share = counts / len(tokens)
    rest = (totals[found] - counts + 1.0) / (totals.sum() - len(tokens) + BUCKETS)
    return float((share * np.log2(share / rest)).sum())


def standard_excess(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How far each value lies above those of documents with the most similar lengths, in robust standard deviations."""
    order = np.argsort(lengths, kind="stable")
    result = np.empty(len(values))
    window = max(LEAST_DOCUMENTS, min(400, len(values) // 4))
    ordered = values[order]
    for start in range(0, len(values), max(window // 4, 1)):
        stop = min(start + max(window // 4, 1), len(values))
        middle = (start + stop) // 2
        low = max(0, min(middle - window // 2, len(values) - window))
        around = ordered[low : low + window]
        center = np.median(around)
        spread = 1.4826 * np.median(np.abs(around - center))
        result[order[start:stop]] = (ordered[start:stop] - center) / max(spread, LEAST_SPREAD)
    return result


def language_evidence(probability: np.ndarray, languages: np.ndarray) -> np.ndarray:
    """Probability (N,) of each document's language; a third of it where the corpus has few documents in it.

    Noise is named after some rare language as often as not; a rare language has to show itself more clearly.
    """
    names, inverse, counts = np.unique(languages, return_inverse=True, return_counts=True)
    rare = (counts < LEAST_DOCUMENTS) & (names != "code")
    return np.where(rare[inverse], probability / 3, probability)
