"""Token sets that lie in memory: dialogs and other small sets, whose documents say which of their tokens count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from herdbook.tokens.shards import TokenSet, TokenSets
from herdbook.tokens.tokenizer import Tokenizer


def token_set(
    documents: Sequence[Sequence[int]],  # D of them, each the ids of one document
    counted: Sequence[Sequence[bool]] | None = None,  # of each id whether it is to be learnt; None: all are
    sizes: Sequence[int] | None = None,  # (D,) bytes of the text that counts; None: the ids' number stands in
) -> TokenSet:
    """The documents as one split of a set."""
    lengths = np.array([len(ids) for ids in documents], np.int64)
    total = int(lengths.sum())
    if counted is not None and [len(flags) for flags in counted] != lengths.tolist():
        raise ValueError("each document needs one flag for each of its ids")
    return TokenSet(
        tokens=np.fromiter(chain.from_iterable(documents), np.uint32, total),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        bytes=lengths if sizes is None else np.array(sizes, np.int64),
        counted=None if counted is None else np.fromiter(chain.from_iterable(counted), np.bool_, total),
    )


def token_sets(folder: Path, sets: dict[str, dict[str, TokenSet]], tokenizer: Tokenizer) -> TokenSets:
    """Sets by name and split, made with `tokenizer`; `folder` is what errors name."""
    return TokenSets(folder, sets, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.hash)
