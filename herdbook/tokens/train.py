"""Training a tokenizer (§3.2): byte-level BPE by rustbpe, on documents in which none of the held-out are.

Llama 3 measures a vocabulary by compression, so we do: characters and bytes per token on held-out documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from herdbook.console import log, progress
from herdbook.settings import InputPath, Settings, UserError
from herdbook.tokens.texts import count_documents, draw, is_heldout, read_texts
from herdbook.tokens.tokenizer import LLAMA3_SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer, cut_blanks, special_names

MEASURED_BYTES = 4_000_000


class TokenizerSettings(Settings):
    """How a tokenizer is trained, or which one is taken."""

    vocab_size: int = Field(32_768, ge=300)
    """Size of the vocabulary: 256 bytes, merges and special tokens together."""

    special_tokens: int = Field(LLAMA3_SPECIAL_TOKENS, ge=11)
    """How many special tokens there are, named and reserved; Llama 3 has 256, a small vocabulary may have 32."""

    max_bytes: int = Field(2_000_000_000, ge=1)
    """Most bytes of text to train on; of more text a sample of documents is drawn by their ids."""

    heldout: float = Field(0.01, ge=0, lt=1)
    """Fraction of documents kept out and measured; the same documents as a pack stage of this fraction keeps out."""

    from_file: InputPath | None = None
    """Take this tokenizer (a folder, or a tiktoken file such as Llama 3's tokenizer.model) instead of training."""

    @model_validator(mode="after")
    def check_room(self) -> TokenizerSettings:
        """A vocabulary has to hold the bytes and the special tokens."""
        if self.vocab_size <= 256 + self.special_tokens:
            raise ValueError(
                f"vocab_size {self.vocab_size} leaves no room for merges beside 256 bytes and {self.special_tokens} "
                "special tokens; raise it, or lower special_tokens"
            )
        return self


def train_tokenizer(settings: TokenizerSettings, documents: list[Path], out: Path) -> dict[str, Any]:
    """Train on the entries' documents (or take `from_file`) and write the tokenizer's folder to `out`.

    Returns the vocabulary's size and its compression. Raises `UserError` where there is no text to train on.
    """
    if settings.from_file is not None:
        tokenizer = Tokenizer.load(settings.from_file)
        trained = 0
    else:
        tokenizer, trained = train(settings, documents)
    tokenizer.save(out)
    metrics = {
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_tokens),
        "trained_bytes": trained,
        **compression(tokenizer, sample(documents, settings.heldout)),
    }
    log("tokenizer", **metrics)
    return metrics


def train(settings: TokenizerSettings, documents: list[Path]) -> tuple[Tokenizer, int]:
    """A tokenizer trained on a sample of the documents, and how many bytes it has seen."""
    import rustbpe

    total = sum(
        size
        for entry in documents
        for batch in read_texts(entry)
        for id, size in zip(batch.ids, batch.bytes)
        if not is_heldout(id, settings.heldout)
    )
    if not total:
        raise UserError(f"no text to train a tokenizer on in {', '.join(map(str, documents)) or 'no documents'}")
    share = settings.max_bytes / total
    seen = [0]
    merges = settings.vocab_size - settings.special_tokens
    bpe = rustbpe.Tokenizer()
    bpe.train_from_iterator(training_texts(documents, settings.heldout, share, seen), merges, pattern=SPLIT_PATTERN)
    ranks = {bytes(token): rank for token, rank in bpe.get_mergeable_ranks()}
    if len(ranks) < merges:
        log("small_vocabulary", asked=settings.vocab_size, got=len(ranks) + settings.special_tokens, text_bytes=seen[0])
    return Tokenizer(ranks, special_names(settings.special_tokens)), seen[0]


def training_texts(documents: list[Path], heldout: float, share: float, seen: list[int]) -> Iterator[str]:
    """The texts to train on, cut where blanks run on for too long; `seen[0]` counts their bytes."""
    with progress("read text", sum(map(count_documents, documents)), "documents") as tracker:
        for entry in documents:
            for batch in read_texts(entry):
                for id, text, size in zip(batch.ids, batch.texts, batch.bytes):
                    if not is_heldout(id, heldout) and (share >= 1 or draw(id, "tokenizer") < share):
                        seen[0] += size
                        yield from cut_blanks(text)
                tracker.advance(len(batch.ids))


def sample(documents: list[Path], heldout: float) -> list[str]:
    """Held-out texts up to 4 MB, taken from each entry alike; where none are held out, the first texts."""
    taken: list[str] = []
    for only_heldout in (True, False):
        for entry in documents:
            room = MEASURED_BYTES // len(documents)
            for batch in read_texts(entry):
                for id, text, size in zip(batch.ids, batch.texts, batch.bytes):
                    if room > 0 and (is_heldout(id, heldout) or not only_heldout):
                        taken.append(text)
                        room -= size
                if room <= 0:
                    break
        if taken:
            return taken
    return taken


def compression(tokenizer: Tokenizer, texts: list[str]) -> dict[str, float]:
    """Characters and bytes of UTF-8 that a token stands for on the mean, and the bytes measured."""
    tokens = sum(len(tokenizer.encode_array(text)) for text in texts)
    if not tokens:
        return {"measured_bytes": 0}
    size = sum(len(text.encode()) for text in texts)
    return {
        "characters_per_token": sum(map(len, texts)) / tokens,
        "bytes_per_token": size / tokens,
        "measured_bytes": size,
    }
