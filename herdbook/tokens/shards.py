"""Token sets on disk: little-endian ids of whole documents, memory-mapped, with an index that tells damage.

A folder holds `<set>.<split>.bin` (ids), `.offsets.bin` (where each document starts, and the end; int64) and
`.bytes.bin` (each document's text in bytes, int64; the measure under bits per byte). `index.json` is written
last and knows every file's length and checksum: a folder without it is not a token set, only what is left of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from herdbook.files import read_json
from herdbook.settings import UserError

SPLITS = ("train", "heldout")
FORMAT = 1
READ = 16 << 20


@dataclass(frozen=True)
class TokenSet:
    """One split of one set: D documents, N tokens."""

    tokens: np.ndarray  # (N,) uint16 or uint32, memory-mapped
    offsets: np.ndarray  # (D + 1,) int64: document i is tokens[offsets[i]:offsets[i + 1]]
    bytes: np.ndarray  # (D,) int64: the length of the document's text in UTF-8
    counted: np.ndarray | None = None  # (N,) bool: ids that are to be learnt, where not all are (answers of dialogs)

    def __len__(self) -> int:
        return len(self.bytes)

    def document(self, i: int) -> np.ndarray:
        """The ids of document `i`, begin and end of text included."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]


@dataclass(frozen=True)
class TokenSets:
    """All sets of a folder and the tokenizer they were made with."""

    folder: Path
    sets: dict[str, dict[str, TokenSet]]
    vocab_size: int
    bos_id: int
    eos_id: int
    tokenizer_hash: str

    @property
    def names(self) -> list[str]:
        """The sets' names."""
        return list(self.sets)

    @classmethod
    def open(cls, folder: Path | str, verify: bool = True) -> TokenSets:
        """Map the sets of a folder; `UserError` names the file that is absent, short or changed.

        `verify` reads everything once for its checksum; without it only lengths are checked, which is for sets
        that are too large to be read by every process.
        """
        folder = Path(folder)
        index = read_index(folder)
        dtype = np.dtype(index["dtype"])
        sets = {
            name: {split: map_set(folder, f"{name}.{split}", dtype, entry, verify) for split, entry in splits.items()}
            for name, splits in index["sets"].items()
        }
        for name, splits in sets.items() if verify else ():
            for split, found in splits.items():
                check_ids(found.tokens, index["vocab_size"], folder / f"{name}.{split}.bin")
        return cls(folder, sets, index["vocab_size"], index["bos_id"], index["eos_id"], index["tokenizer"])


def check_ids(tokens: np.ndarray, vocab_size: int, source: Path) -> None:
    """`UserError` when one of the ids is none of the vocabulary's."""
    if len(tokens) and int(tokens.max()) >= vocab_size:
        at = int(tokens.argmax())
        raise UserError(
            f"{source}: token {at:,} is {int(tokens[at])}, beyond the vocabulary of {vocab_size}; "
            "the index is of another tokenizer, or the file was damaged before it was counted: pack the documents again"
        )


def read_index(folder: Path) -> dict[str, Any]:
    """The content of `index.json`."""
    path = folder / "index.json"
    if not path.is_file():
        raise UserError(f"{folder}: no index.json, so this is not a whole token set; pack the documents again")
    try:
        index: dict[str, Any] = read_json(path)
        version = index["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); pack the documents again") from None
    if version != FORMAT:
        raise UserError(f"{path}: format {version}, but this program reads {FORMAT}; pack the documents again")
    return index


def map_set(folder: Path, stem: str, dtype: np.dtype, entry: dict[str, Any], verify: bool) -> TokenSet:
    """One split as its three arrays, each checked against the index."""
    documents, tokens = entry["documents"], entry["tokens"]
    arrays = [
        map_array(folder / f"{stem}{suffix}", kind, length, entry["checksums"][suffix], verify)
        for suffix, kind, length in (
            (".bin", dtype, tokens),
            (".offsets.bin", np.dtype("<i8"), documents + 1),
            (".bytes.bin", np.dtype("<i8"), documents),
        )
    ]
    offsets = arrays[1]
    if offsets[0] != 0 or offsets[-1] != tokens or (np.diff(offsets) <= 0).any():
        raise UserError(f"{folder / stem}.offsets.bin: damaged (offsets do not rise from 0 to {tokens}); pack again")
    return TokenSet(*arrays)


def map_array(path: Path, dtype: np.dtype, length: int, checksum: str, verify: bool) -> np.ndarray:
    """A file as a read-only array of `length` numbers."""
    try:
        size = path.stat().st_size
    except OSError:
        raise UserError(f"{path}: absent, though the index names it; pack the documents again") from None
    if size != length * dtype.itemsize:
        raise UserError(
            f"{path}: {size:,} bytes, but the index says {length * dtype.itemsize:,}; it was cut or written over: "
            "pack the documents again"
        )
    if verify and checksum_of(path) != checksum:
        raise UserError(f"{path}: damaged, its checksum is not the one in the index; pack the documents again")
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if length else np.empty(0, dtype)


def checksum_of(path: Path) -> str:
    """The XXH3 checksum of a file's content."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(READ):
            digest.update(block)
    return digest.hexdigest()
