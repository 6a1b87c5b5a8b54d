"""Bits per byte on held-out documents, and what xz makes of the same text.

Bits per byte compare models whatever their tokenizers, and a compressor needs no training at all: a model that does
not beat `xz -9e` has learnt little of the language. xz learns while it reads, as the model did in training, so beside
it stands, for honesty, what the held-out text costs an xz that has read the training text first.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from herdbook.console import progress
from herdbook.evaluate.intervals import ratio
from herdbook.tokens.shards import TokenSet, TokenSets
from herdbook.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from herdbook.evaluate.settings import EvaluateSettings
    from herdbook.model.transformer import Transformer

PRESET = 9 | lzma.PRESET_EXTREME
DICTIONARY = 64 << 20  # of xz -9
LOGITS_AT_ONCE = 1 << 21  # 8 MiB: more falls out of cache
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class Window:
    """Inputs `start … end - 1` of one document; the tokens from `counted` on to `end` are its counted targets."""

    document: int
    start: int
    counted: int
    end: int


def cut_windows(document: int, length: int, context: int, overlap: float) -> list[Window]:
    """Windows of at most `context` inputs over a document of `length` ids that count every id but the first once."""
    windows, counted = [], 1
    fresh = max(1, round(context * (1 - overlap)))
    while counted < length:
        end = min(length - 1, counted - 1 + (context if counted == 1 else fresh))
        windows.append(Window(document, max(0, end - context), counted, end))
        counted = end + 1
    return windows


def batches(windows: Sequence[Window], at_once: int) -> Iterator[list[Window]]:
    """Windows, which come in order of length, in batches of about `at_once` tokens when padded to the longest."""
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * (window.end - window.start) > at_once:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def document_nats(
    model: Transformer,
    documents: Sequence[np.ndarray],  # ids of each, the token that begins a text first
    context: int,
    overlap: float,
    label: str = "bits",
    at_once: int = TOKENS_AT_ONCE,  # tokens read together, padding included
) -> np.ndarray:  # (documents,) float64: nats of all ids but the first
    """What each document costs the model: the summed negative log-likelihood of its ids."""
    import torch
    import torch.nn.functional as F

    windows = [w for i, ids in enumerate(documents) for w in cut_windows(i, len(ids), context, overlap)]
    windows.sort(key=lambda window: window.end - window.start)
    nats = np.zeros(len(documents))
    device = model.embedding.weight.device
    with torch.inference_mode(), progress(label, sum(w.end + 1 - w.counted for w in windows), "tokens") as tracker:
        for part in batches(windows, at_once):
            tokens = torch.zeros(len(part), part[-1].end - part[-1].start, dtype=torch.int64)
            owners, wanted, places = [], [], []
            for row, window in enumerate(part):
                ids = documents[window.document]
                tokens[row, : window.end - window.start] = torch.from_numpy(
                    ids[window.start : window.end].astype(np.int64)
                )
                columns = np.arange(window.counted - 1 - window.start, window.end - window.start)
                places.append(row * tokens.shape[1] + columns)
                wanted.append(ids[window.counted : window.end + 1].astype(np.int64))
                owners.append(np.full(len(columns), window.document))
            hidden = model.hidden(tokens.to(device)).flatten(0, 1)
            targets = torch.from_numpy(np.concatenate(wanted)).to(device)
            hidden = hidden[torch.from_numpy(np.concatenate(places)).to(device)]
            step = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
            losses = [
                F.cross_entropy(model.head(hidden[at : at + step]).float(), targets[at : at + step], reduction="none")
                for at in range(0, len(targets), step)
            ]
            np.add.at(nats, np.concatenate(owners), torch.cat(losses).double().cpu().numpy())
            tracker.advance(len(targets))
    return nats


def choose_documents(split: TokenSet, limit: int | None, seed: int) -> list[int]:
    """Documents drawn by the seed until they hold `limit` tokens, in their order; all of them without a limit."""
    if limit is None or limit >= len(split.tokens):
        return list(range(len(split)))
    drawn = np.random.default_rng(seed).permutation(len(split))
    held = np.cumsum(np.diff(split.offsets)[drawn])
    return sorted(int(i) for i in drawn[: int(np.searchsorted(held, limit)) + 1])


class Texts:
    """The bytes of stored documents, without the tokens that begin and end them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.pieces = [b""] * tokenizer.vocab_size
        for piece, rank in tokenizer.ranks.items():
            self.pieces[rank] = piece

    def of(self, split: TokenSet, chosen: Sequence[int]) -> list[bytes]:
        """The text of each chosen document, UTF-8."""
        return [b"".join(map(self.pieces.__getitem__, split.document(i).tolist())) for i in chosen]


def xz_size(data: bytes) -> int:
    """Bytes of `data` after `xz -9e`; the dictionary is cut to the data, which saves 600 MB and changes nothing."""
    size = min(DICTIONARY, max(4096, len(data)))
    return len(lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": PRESET, "dict_size": size}]))


def measure_bits(
    model: Transformer, tokenizer: Tokenizer, tokens: Path, settings: EvaluateSettings
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Figures of all held-out text and of each set (`bits`, `bits_<set>`), and one sample per document.

    A model with another tokenizer than the tokens were made with reads the same text in tokens of its own.
    """
    sets = TokenSets.open(tokens, verify=False)
    packer = Tokenizer.load(tokens / "tokenizer")
    texts, own = Texts(packer), tokenizer.hash == sets.tokenizer_hash
    context = min(settings.bits_context or model.config.max_length, model.config.max_length)
    heldout = {name: splits["heldout"] for name, splits in sets.sets.items() if len(splits["heldout"])}
    chosen = {name: choose_documents(split, settings.bits_tokens, settings.seed) for name, split in heldout.items()}
    written = {name: texts.of(split, chosen[name]) for name, split in heldout.items()}
    samples: list[dict[str, Any]] = []
    with ThreadPoolExecutor(2) as pool:
        compressed = start_xz(pool, sets, texts, written, settings) if settings.xz else {}
        for name, split in heldout.items():
            documents = [split.document(i) for i in chosen[name]]
            if not own:
                documents = [np.array(tokenizer.encode(t.decode(), bos=True, eos=True)) for t in written[name]]
            nats = document_nats(model, documents, context, settings.bits_overlap, f"bits {name}")
            samples += [
                {
                    "id": f"{name}/{i}",
                    "set": name,
                    "bits": float(cost) / math.log(2),
                    "bytes": len(text),
                    "tokens": len(ids),
                }
                for i, cost, text, ids in zip(chosen[name], nats, written[name], documents)
            ]
        return figures(samples, {name: future.result() for name, future in compressed.items()}, settings.seed), samples


def start_xz(
    pool: ThreadPoolExecutor,
    sets: TokenSets,
    texts: Texts,
    written: dict[str, list[bytes]],
    settings: EvaluateSettings,
) -> dict[str, Future[int]]:
    """Compressions under way beside the model (xz frees the interpreter): per set, all, after the training text."""
    joined = {name: b"\n".join(documents) for name, documents in written.items()}
    together = b"\n".join(joined.values())
    jobs = {name: pool.submit(xz_size, text) for name, text in joined.items()} if len(joined) > 1 else {}
    jobs[""] = pool.submit(xz_size, together)
    train = [splits["train"] for splits in sets.sets.values()]
    if 0 < sum(int(split.bytes.sum()) for split in train) <= settings.xz_train_mb * 1e6:
        read = b"\n".join(text for split in train for text in texts.of(split, range(len(split))))
        jobs["train"] = pool.submit(xz_size, read)
        jobs["train and heldout"] = pool.submit(xz_size, read + b"\n" + together)
    return jobs


def figures(samples: list[dict[str, Any]], compressed: dict[str, int], seed: int) -> dict[str, dict[str, Any]]:
    """Bits per byte of all samples and of each set, with what xz needed of the same text."""
    found: dict[str, dict[str, Any]] = {}
    names = list(dict.fromkeys(sample["set"] for sample in samples))
    for name in ["", *names] if len(names) > 1 else [""]:
        own = [sample for sample in samples if name in ("", sample["set"])]
        size = sum(sample["bytes"] for sample in own)
        figure: dict[str, Any] = {
            "bits_per_byte": ratio([s["bits"] for s in own], [float(s["bytes"]) for s in own], seed)
        }
        if size and name in compressed:
            figure["xz"] = 8 * compressed[name] / size
        if size and not name and "train" in compressed:
            figure["xz_after_training_text"] = 8 * (compressed["train and heldout"] - compressed["train"]) / size
        figure["bytes"] = size
        found[f"bits_{name}" if name else "bits"] = figure
    return found
