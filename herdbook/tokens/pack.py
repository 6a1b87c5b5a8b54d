"""Texts to token sets: every document once through the tokenizer, as begin of text, its ids, end of text.

Files are written under hidden names and renamed when they are whole, the index last, so a killed run leaves
nothing that opens. Held-out documents are whole pages, chosen by a hash of their id (see `texts`).
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from pydantic import Field

from herdbook.console import log, progress
from herdbook.files import sync_folder, write_json
from herdbook.settings import Settings, UserError
from herdbook.tokens.shards import FORMAT, SPLITS
from herdbook.tokens.texts import Texts, count_documents, is_heldout, read_texts
from herdbook.tokens.tokenizer import Tokenizer

GROUP = 32
SET_NAME = re.compile(r"[\w-]+")


class PackSettings(Settings):
    """How documents become token sets."""

    heldout: float = Field(0.01, ge=0, lt=1)
    """Fraction of documents held out of training, chosen by a hash of their id."""

    threads: int | None = Field(None, ge=1)
    """Threads that tokenise; without a number, one for each free core."""


class SplitWriter:
    """Writes the three files of one split; nothing has its final name before `publish`."""

    def __init__(self, folder: Path, stem: str, dtype: np.dtype) -> None:
        self.folder, self.stem, self.dtype = folder, stem, dtype
        self.lengths: list[int] = []
        self.bytes: list[int] = []
        self.digest = xxhash.xxh3_128()
        self.file: BinaryIO = open(self.hidden(".bin"), "wb")  # noqa: SIM115

    def hidden(self, suffix: str) -> Path:
        """The name of a file that is not whole yet."""
        return self.folder / f".{self.stem}{suffix}.partial"

    def add(self, ids: np.ndarray, size: int) -> None:
        """Append one document of `size` bytes of text."""
        block = ids.astype(self.dtype).tobytes()
        self.file.write(block)
        self.digest.update(block)
        self.lengths.append(len(ids))
        self.bytes.append(size)

    def publish(self) -> dict[str, Any]:
        """Give the files their names; returns the split's entry in the index."""
        flush(self.file)
        checksums = {".bin": self.digest.hexdigest()}
        offsets = np.zeros(len(self.lengths) + 1, "<i8")
        np.cumsum(self.lengths, out=offsets[1:])
        for suffix, array in ((".offsets.bin", offsets), (".bytes.bin", np.array(self.bytes, "<i8"))):
            with open(self.hidden(suffix), "wb") as file:
                file.write(array.tobytes())
                flush(file)
            checksums[suffix] = xxhash.xxh3_128_hexdigest(array.tobytes())
        for suffix in checksums:
            self.hidden(suffix).replace(self.folder / f"{self.stem}{suffix}")
        tokens = int(offsets[-1])
        return {"documents": len(self.lengths), "tokens": tokens, "bytes": sum(self.bytes), "checksums": checksums}

    def close(self) -> None:
        """Close and remove what was not published."""
        self.file.close()
        for suffix in (".bin", ".offsets.bin", ".bytes.bin"):
            self.hidden(suffix).unlink(missing_ok=True)


def flush(file: BinaryIO) -> None:
    """Bring a file's content onto the disk."""
    file.flush()
    os.fsync(file.fileno())


def pack(settings: PackSettings, documents: dict[str, Path], tokenizer: Path, out: Path) -> dict[str, Any]:
    """Tokenise each set of documents into `out`; returns documents, tokens and text bytes per set and split.

    Raises `UserError` for a set without documents, a damaged document file, or a name no file can bear.
    """
    for name in documents:
        if not SET_NAME.fullmatch(name):
            raise UserError(f"the set name {name!r} cannot be a file's name; use letters, digits, _ and -")
    if not documents:
        raise UserError("there are no documents to pack; name at least one documents stage under `from`")
    words = Tokenizer.load(tokenizer)
    dtype = np.dtype("<u2" if words.vocab_size <= 1 << 16 else "<u4")
    (out / "index.json").unlink(missing_ok=True)
    words.save(out / "tokenizer")
    sets = {}
    with ThreadPoolExecutor(settings.threads or free_cores()) as pool:
        for name, entry in documents.items():
            sets[name] = pack_set(settings, name, entry, words, dtype, pool, out)
    sync_folder(out)
    index = {
        "format": FORMAT,
        "dtype": dtype.str,
        "vocab_size": words.vocab_size,
        "bos_id": words.bos_id,
        "eos_id": words.eos_id,
        "tokenizer": words.hash,
        "heldout": settings.heldout,
        "sets": sets,
    }
    write_json(out / "index.json", index)
    return {name: {split: measured(entry) for split, entry in splits.items()} for name, splits in sets.items()}


def pack_set(
    settings: PackSettings,
    name: str,
    entry: Path,
    tokenizer: Tokenizer,
    dtype: np.dtype,
    pool: ThreadPoolExecutor,
    out: Path,
) -> dict[str, dict[str, Any]]:
    """Tokenise one set; returns its splits as the index has them."""
    writers = {split: SplitWriter(out, f"{name}.{split}", dtype) for split in SPLITS}
    bos, eos = np.array([tokenizer.bos_id], "<u4"), np.array([tokenizer.eos_id], "<u4")
    try:
        with progress(f"pack {name}", count_documents(entry), "documents") as tracker:
            for batch in read_texts(entry):
                for id, ids, size in zip(batch.ids, encode(batch, tokenizer, pool), batch.bytes):
                    split = "heldout" if is_heldout(id, settings.heldout) else "train"
                    writers[split].add(np.concatenate([bos, ids, eos]), size)
                tracker.advance(len(batch.ids))
        if not any(writer.lengths for writer in writers.values()):
            raise UserError(f"the set {name} at {entry} has no documents; see what its curate stage dropped, and why")
        published = {split: writer.publish() for split, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.close()
    for split, values in published.items():
        log("packed", set=name, split=split, **measured(values))
    return published


def encode(batch: Texts, tokenizer: Tokenizer, pool: ThreadPoolExecutor) -> list[np.ndarray]:
    """The ids of each text of a batch."""
    # Handing texts to a thread one by one costs a quarter of the time.
    groups = [batch.texts[start : start + GROUP] for start in range(0, len(batch.texts), GROUP)]
    encoded = pool.map(lambda texts: [tokenizer.encode_array(text) for text in texts], groups)
    return [ids for group in encoded for ids in group]


def measured(entry: dict[str, Any]) -> dict[str, int]:
    """The figures of a split without its checksums."""
    return {key: entry[key] for key in ("documents", "tokens", "bytes")}


def free_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
