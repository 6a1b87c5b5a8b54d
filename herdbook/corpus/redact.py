"""Personal data replaced by placeholders in the documents written; measurements keep what was found (§3.1.1)."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from herdbook.corpus.personal import NAMES, find_personal

PLACEHOLDERS = {
    "emails": "<EMAIL>",
    "phones": "<PHONE>",
    "cards": "<CARD>",
    "ibans": "<IBAN>",
    "ids": "<ID>",
    "ips": "<IP>",
    "addresses": "<ADDRESS>",
    "secrets": "<SECRET>",
}
assert set(PLACEHOLDERS) == set(NAMES)


def redact(text: str, kinds: Iterable[str]) -> str:
    """A text with each item of the kinds replaced by its placeholder."""
    pieces, last = [], 0
    for name, start, end in sorted(find_personal(text, kinds), key=lambda item: item[1]):
        pieces += [text[last:start], PLACEHOLDERS[name]]
        last = end
    return "".join([*pieces, text[last:]])


def redact_column(texts: pa.ChunkedArray, counts: Iterable[int], kinds: tuple[str, ...]) -> pa.ChunkedArray:
    """Redacted texts; those whose `counts` of the kinds are 0 are not looked at."""
    values = [redact(text, kinds) if count else text for text, count in zip(texts.to_pylist(), counts)]
    return pa.chunked_array([pa.array(values, texts.type)])
