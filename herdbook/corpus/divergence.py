"""How far a document's words are from those of the corpus, per language: KL divergence and cross-entropy (§3.1.1).

A document is held against the distribution of all *other* documents of its language, so that a heap of noise does
not vouch for itself. The rule reads the cross-entropy, whose mean does not depend on the length: how far it lies above
the upper quarter of the language's documents, and of those about as long, whichever says less. A mould that most
pages come from lies below that quarter, so it makes no others stand out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from herdbook.corpus.measure import BUCKETS

LEAST_DOCUMENTS = 30
"""Languages with fewer documents have no distribution worth comparing with."""
LEAST_SPREAD = 0.25
"""Bits: pages made from one mould differ so little that any page of another would stand out."""
LEAST_TOKENS = 50
"""Documents with fewer words are not judged."""
CLEAR = 0.5
"""Probability of its language from which a document shows that the corpus has this language."""
DOUBT = 100
"""Documents at which half of an excess is believed: the fewer a language has, the more sound words it never saw."""
NEIGHBOURS = (200, 800)
"""Least and most documents of similar length that one is held against; too few could be noise for the most part."""

Parts = Callable[[], Iterable[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]]
"""Gives the documents anew at each call, part by part: their rows, all their distinct word buckets (V,) uint16 one
document after the other, how many words each bucket has (V,), and where each document's begin (n + 1,)."""


def divergence(
    parts: Parts,
    alive: np.ndarray,  # (N,) bool: documents that count
    names: list[str],  # of L languages
    codes: np.ndarray,  # (N,) which of them each document has
) -> tuple[np.ndarray, np.ndarray]:
    """KL divergence in bits (N,) and the excess of the cross-entropy (N,); NaN where not judged."""
    if not names:
        return np.full(len(alive), np.nan), np.full(len(alive), np.nan)
    enough = np.bincount(codes[alive], minlength=len(names)) >= LEAST_DOCUMENTS
    judged = alive & (enough & ~np.isin(names, ["", "code"]))[codes]
    lengths = np.zeros(len(alive), dtype=np.int32)
    totals = np.zeros((len(names), BUCKETS))
    for rows, tokens, counts, offsets in parts():
        lengths[rows] = _sums(counts, offsets)
        judged[rows] &= lengths[rows] >= LEAST_TOKENS
        language = np.repeat(np.where(judged[rows], codes[rows], -1), np.diff(offsets))
        for code in np.unique(codes[rows][judged[rows]]):
            inside = language == code
            totals[code] += np.bincount(tokens[inside], weights=counts[inside], minlength=BUCKETS)
    judged &= (np.bincount(codes[judged], minlength=len(names)) >= LEAST_DOCUMENTS)[codes]
    bits, cross, excess = (np.full(len(alive), np.nan) for _ in range(3))
    sums = totals.sum(axis=1)
    for rows, tokens, counts, offsets in parts():
        chosen = judged[rows]
        across, own = bits_of(tokens, counts, offsets, codes[rows], totals, sums)
        cross[rows][chosen], bits[rows][chosen] = across[chosen], (across - own)[chosen]
    for code in np.unique(codes[judged]):
        inside = np.flatnonzero(judged & (codes == code))
        believed = len(inside) / (len(inside) + DOUBT)
        excess[inside] = standard_excess(cross[inside], lengths[inside]) * believed
    return bits, excess


def bits_of(
    tokens: np.ndarray,  # (V,) distinct word buckets of n documents, one after the other
    counts: np.ndarray,  # (V,) how many words of its document each has
    offsets: np.ndarray,  # (n + 1,) where each document's begin
    languages: np.ndarray,  # (n,) number of each document's language
    totals: np.ndarray,  # (L, BUCKETS) counts of each language's documents, these among them
    sums: np.ndarray,  # (L,) of these counts
) -> tuple[np.ndarray, np.ndarray]:  # (n,) each
    """Documents' cross-entropy under the corpus without them, and their own entropy, in bits a word.

    One is added to the count of each bucket. The difference of the two is the Kullback-Leibler divergence. Without
    meaning for documents that are not among those counted.
    """
    owner = np.repeat(np.arange(len(languages)), np.diff(offsets))
    lengths = _sums(counts, offsets)[owner]
    language = languages[owner]
    rest = np.maximum(totals[language, tokens] - counts + 1.0, 1.0) / np.maximum(
        sums[language] - lengths + BUCKETS, 1.0
    )
    share = counts / lengths
    return _sums(-share * np.log2(rest), offsets), _sums(-share * np.log2(share), offsets)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums (n,) of the values (V,) that lie between one offset and the next."""
    return np.bincount(
        np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)), weights=values, minlength=len(offsets) - 1
    )


def standard_excess(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How far each value (N,) lies above the upper quarter of all, and of those of similar length: the smaller."""
    result = above_quarter(values, values)
    order = np.argsort(lengths, kind="stable")
    ordered = values[order]
    least, most = NEIGHBOURS
    window = min(len(values), max(least, min(most, len(values) // 4)))
    step = max(window // 4, 1)
    for start in range(0, len(values), step):
        stop = min(start + step, len(values))
        low = max(0, min((start + stop - window) // 2, len(values) - window))
        near = above_quarter(ordered[start:stop], ordered[low : low + window])
        result[order[start:stop]] = np.minimum(result[order[start:stop]], near)
    return result


def above_quarter(values: np.ndarray, around: np.ndarray) -> np.ndarray:
    """How far values lie above the upper quarter of those around, in mean excesses of an exponential tail.

    The tail's mean is had from the quantiles .5 to .75 and .75 to .9, the smaller, so that neither a mould which most
    pages come from nor a tenth of noise widens it.
    """
    half, quarter, tenth = np.quantile(around, (0.5, 0.75, 0.9))
    spread = min((quarter - half) / np.log(2), (tenth - quarter) / np.log(2.5))
    return (values - quarter) / max(spread, LEAST_SPREAD)


def language_evidence(probability: np.ndarray, names: list[str], codes: np.ndarray) -> np.ndarray:
    """Probability (N,) of each document's language; a third of it where the corpus has few that are clearly in it.

    Noise is named after some rare language as often as not; a rare language has to show itself more clearly, and a
    heap of noise named alike makes no language.
    `codes` (N,) says by number which of `names` each document has.
    """
    counts = np.bincount(codes[probability >= CLEAR], minlength=len(names))
    rare = (counts < LEAST_DOCUMENTS) & (np.array(names, dtype=object) != "code")
    return np.where(rare[codes], probability / 3, probability)
