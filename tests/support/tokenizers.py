"""A tokenizer that needs no training: every byte a token, a few words besides, then the special tokens."""

from __future__ import annotations

from herdbook.tokens.tokenizer import Tokenizer


def byte_tokenizer(words: tuple[str, ...] = ()) -> Tokenizer:
    """256 bytes, then `words` (with what merging needs on the way to them), then 11 special tokens."""
    ranks = {bytes([value]): value for value in range(256)}
    for word in words:
        data = word.encode()
        for end in range(2, len(data) + 1):
            ranks.setdefault(data[:end], len(ranks))
    from herdbook.tokens.tokenizer import special_names

    return Tokenizer(ranks, special_names(11))
