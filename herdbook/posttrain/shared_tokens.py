"""Tokens that rival answers have in common, found by aligning them; a preference says nothing about those.

The paper leaves the format out of DPO's loss, since the same tokens in both answers are pushed up and down at once
(§4.1.4). The same can be said of every token that both answers have, also behind the first that differs: `"}}` after
a wrong argument is as right as after the right one. Leaving them out was worth under a point, within chance (LOG.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from herdbook.posttrain.preference_batches import CONTENT, FORMAT, Answer, Example


def without_shared(example: Example) -> Example:
    """The example with what its answers share marked as format, which no preference loss with a mask reads.

    With more than two answers a token is shared when every answer of another rank has it; one that is ranked with none
    (KTO's, to another prompt) is left as it is.
    """
    return dataclasses.replace(example, answers=tuple(_marked(one, example.answers) for one in example.answers))


def _marked(answer: Answer, rivals: Sequence[Answer]) -> Answer:
    apart = [other for other in rivals if abs(other.rank - answer.rank) > 0]  # false where one is NaN
    if not apart:
        return answer
    common = np.logical_and.reduce([shared(answer.ids, other.ids) for other in apart])
    kinds = answer.kinds.copy()
    kinds[(kinds == CONTENT) & common[1:]] = FORMAT
    return dataclasses.replace(answer, kinds=kinds)


def shared(
    ids: np.ndarray,  # (n,)
    others: np.ndarray,  # (m,)
) -> np.ndarray:  # (n,) bool
    """Which tokens a longest-block alignment (Ratcliff and Obershelp) with the others pairs with one of theirs."""
    found = np.zeros(len(ids), np.bool_)
    for block in SequenceMatcher(None, ids.tolist(), others.tolist(), autojunk=False).get_matching_blocks():
        found[block.a : block.a + block.size] = True
    return found
