"""Byte-level BPE as Llama 3 has it (§3.2): trained or loaded merges, run by tiktoken, special tokens after them.

A tokenizer is a table of byte strings, each with its rank (which is its id), the split pattern, and a list of
special tokens whose ids follow the last rank. Meta's `tokenizer.model` is such a table; so is what we train.
Text never turns into a special token unless the caller asks for it: a page may quote `<|eot_id|>`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.files import write_text
from herdbook.settings import UserError

if TYPE_CHECKING:
    import numpy as np
    import tiktoken

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BEGIN, END, END_OF_TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
START_HEADER, END_HEADER = "<|start_header_id|>", "<|end_header_id|>"
END_OF_MESSAGE, PYTHON, PAD = "<|eom_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>"
LLAMA3_SPECIAL_TOKENS = 256
NAMED = (
    BEGIN,
    END,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    PAD,
    "<|reserved_special_token_2|>",
    START_HEADER,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TURN,
    PYTHON,
)
# The splitter backtracks over a run of blanks and gives up near 300,000 of them.
BLANKS = 25_000
LONG_BLANKS = re.compile(rf"\s{{{BLANKS + 1},}}")


def special_names(count: int = LLAMA3_SPECIAL_TOKENS) -> list[str]:
    """The names of `count` special tokens in the order of Llama 3.1, the named ones first, then reserved ones."""
    if count < len(NAMED):
        raise UserError(f"special_tokens is {count}, but the chat format alone needs {len(NAMED)}; give at least that")
    return [*NAMED, *(f"<|reserved_special_token_{i + 3}|>" for i in range(count - len(NAMED)))]


def cut_blanks(text: str) -> Iterator[str]:
    """The text in parts that the splitter can take: whole, except within runs of more than 25,000 blanks."""
    start = 0
    if len(text) > BLANKS:
        for run in LONG_BLANKS.finditer(text):
            for cut in range(run.start() + BLANKS, run.end(), BLANKS):
                yield text[start:cut]
                start = cut
    yield text[start:]


class Tokenizer:
    """Text to ids and back; ids are ranks of `ranks` (0 … N-1), then the special tokens (N, N+1, …)."""

    def __init__(self, ranks: dict[bytes, int], specials: Sequence[str] | None = None) -> None:
        self.ranks = ranks
        names = list(specials) if specials is not None else special_names()
        check_table(ranks, names)
        self.special_tokens = {name: len(ranks) + i for i, name in enumerate(names)}
        self.vocab_size = len(ranks) + len(names)
        self.bos_id, self.eos_id = self.special_tokens[BEGIN], self.special_tokens[END]
        self.eot_id = self.special_tokens[END_OF_TURN]

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """From a folder of ours or of Hugging Face's, or a bare tiktoken file such as Meta's `tokenizer.model`.

        A bare file says nothing of special tokens, so it gets Llama 3's 256.
        """
        from herdbook.tokens import huggingface

        path = Path(path)
        if path.is_file():
            return huggingface.read_folder_json(path) if path.suffix == ".json" else cls(read_ranks(path))
        if (path / "tokenizer.model").is_file():
            return cls(read_ranks(path / "tokenizer.model"), huggingface.read_special_names(path))
        if (path / "tokenizer.json").is_file():
            return huggingface.read_folder_json(path / "tokenizer.json")
        raise UserError(f"{path}: no tokenizer.model or tokenizer.json here; give a tokenizer's folder or file")

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.model` (tiktoken's format) and all that Hugging Face's AutoTokenizer reads."""
        from herdbook.tokens import huggingface

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        huggingface.write_folder(self, folder)
        ordered = sorted(self.ranks.items(), key=lambda item: item[1])
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ordered)
        write_text(folder / "tokenizer.model", "".join(lines))

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        """The tiktoken encoding that does the work."""
        import tiktoken

        return tiktoken.Encoding(
            name="herdbook", pat_str=SPLIT_PATTERN, mergeable_ranks=self.ranks, special_tokens=self.special_tokens
        )

    @cached_property
    def hash(self) -> str:
        """A hash of all that decides the ids; token sets keep it to know their tokenizer again."""
        digest = hashlib.sha256(SPLIT_PATTERN.encode())
        for token, rank in sorted(self.ranks.items(), key=lambda item: item[1]):
            digest.update(b"%d %s\n" % (rank, base64.b64encode(token)))
        digest.update(json.dumps(self.special_tokens, sort_keys=True).encode())
        return digest.hexdigest()[:32]

    def encode(self, text: str, bos: bool = False, eos: bool = False, allow_special: bool = False) -> list[int]:
        """The ids of `text`; with `allow_special`, names of special tokens in it become those tokens."""
        ids = [self.bos_id] if bos else []
        for part in cut_blanks(text):
            if allow_special:
                ids += self.encoding.encode(part, allowed_special="all")
            else:
                ids += self.encoding.encode_ordinary(part)
        return [*ids, self.eos_id] if eos else ids

    def encode_batch(self, texts: Iterable[str], threads: int = 1) -> list[list[int]]:
        """The ids of each text, special names being ordinary text; tiktoken frees the interpreter for `threads`."""
        if threads == 1:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode, texts))

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `text` as uint32, special names being ordinary text; no list of integers is made."""
        import numpy as np

        parts = [self.encoding.encode_to_numpy(part, disallowed_special=()) for part in cut_blanks(text)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens by their names; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; an id outside the vocabulary is a `ValueError`."""
        ids = [int(i) for i in ids]
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise ValueError(f"id {wrong} is outside this vocabulary of {self.vocab_size}")
        return self.encoding.decode_bytes(ids)

    def chat(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None = None) -> list[int]:
        """The prompt for the assistant's next turn, in Llama 3's chat format, `tools` told (see `dialog`)."""
        from herdbook.tokens.dialog import encode_dialog

        return encode_dialog(self, messages, generation_prompt=True, tools=tools).ids


def check_table(ranks: dict[bytes, int], specials: list[str]) -> None:
    """Raise `UserError` unless ranks are 0 … N-1, every byte has a token, and the special tokens suffice."""
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise UserError(f"the ranks of this tokenizer are not 0 to {len(ranks) - 1}, each once; is the file whole?")
    absent = [value for value in range(256) if bytes([value]) not in ranks]
    if absent:
        raise UserError(f"this tokenizer lacks {len(absent)} of the 256 single bytes (first: {absent[0]:#04x})")
    lacking = [name for name in (BEGIN, END, END_OF_TURN, START_HEADER, END_HEADER) if name not in specials]
    if lacking:
        raise UserError(f"this tokenizer lacks the special tokens {', '.join(lacking)} of Llama 3")
    if len(set(specials)) != len(specials):
        raise UserError("this tokenizer names a special token twice")


def read_ranks(path: Path) -> dict[bytes, int]:
    """The table of a tiktoken file: on each line a token in base64, a blank, its rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            hint = "; a sentencepiece model (Llama 2) is another format" if not ranks else ""
            raise UserError(
                f"{path} line {number}: {line[:40]!r} is not a token in base64 and a rank, as tiktoken has it{hint}"
            ) from None
    if not ranks:
        raise UserError(f"{path}: empty; a tiktoken file has a token and its rank on each line")
    return ranks
