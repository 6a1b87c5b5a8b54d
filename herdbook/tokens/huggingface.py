"""A tokenizer as Hugging Face's libraries read it: `tokenizer.json`, its configuration, and the chat template.

tiktoken merges any two neighbours whose joined bytes are a token, lowest rank first; `tokenizers` merges listed
pairs, first listed first. So every split of a token into two tokens is listed, in the order of the token's rank,
and both libraries walk the same way. A piece that is a token as it stands is never split (`ignore_merges`).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.files import read_json, write_json, write_text
from herdbook.settings import UserError
from herdbook.tokens.dialog import CHAT_TEMPLATE
from herdbook.tokens.tokenizer import BEGIN, END, PAD, SPLIT_PATTERN, Tokenizer, special_names

if TYPE_CHECKING:
    from collections.abc import Iterable


@lru_cache(maxsize=1)
def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in `tokenizer.json` (GPT-2's table): itself where it is printable."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in set(printable)]
    return {value: chr(value) for value in printable} | {value: chr(256 + i) for i, value in enumerate(others)}


def spell(token: bytes) -> str:
    """A token's bytes in the letters of `tokenizer.json`."""
    letters = byte_letters()
    return "".join(letters[value] for value in token)


def unspell(word: str) -> bytes:
    """The bytes that `spell` wrote; `KeyError` for a letter that stands for none."""
    values = {letter: value for value, letter in byte_letters().items()}
    return bytes(values[letter] for letter in word)


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that joins to a token, by the joined token's rank, then by the parts' ranks."""
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in splits if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of `tokenizer.json`."""
    bos = {"id": BEGIN, "type_id": 0}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id} | added_token(name) for name, id in tokenizer.special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "Sequence",
            "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": bos}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [
                        {"SpecialToken": bos},
                        {"Sequence": {"id": "A", "type_id": 0}},
                        {"SpecialToken": {"id": BEGIN, "type_id": 1}},
                        {"Sequence": {"id": "B", "type_id": 1}},
                    ],
                    "special_tokens": {BEGIN: {"id": BEGIN, "ids": [tokenizer.bos_id], "tokens": [BEGIN]}},
                },
            ],
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spell(token): rank for token, rank in sorted(tokenizer.ranks.items(), key=lambda item: item[1])},
            "merges": [[spell(left), spell(right)] for left, right in merges_of(tokenizer.ranks)],
        },
    }


def added_token(name: str) -> dict[str, Any]:
    """A special token as both of Hugging Face's files describe it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": name, **flags}


def write_folder(tokenizer: Tokenizer, folder: Path) -> None:
    """Write all that AutoTokenizer reads."""
    specials = {"bos_token": BEGIN, "eos_token": END}
    if PAD in tokenizer.special_tokens:
        specials["pad_token"] = PAD
    write_text(folder / "tokenizer.json", json.dumps(tokenizer_json(tokenizer), ensure_ascii=False) + "\n")
    write_json(folder / "special_tokens_map.json", specials)
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    # The template stands in both places: older readers know only the configuration, newer ones prefer the file.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(id): added_token(name) for name, id in tokenizer.special_tokens.items()},
        **specials,
        "chat_template": CHAT_TEMPLATE,
        # Llama 3's own folder has True here, and its decoding then loses blanks before punctuation.
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(folder / "tokenizer_config.json", config)


def read_special_names(folder: Path) -> list[str]:
    """The special tokens that a folder's `tokenizer_config.json` names, by id; Llama 3's 256 where it is absent."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return special_names()
    try:
        added = read_json(path).get("added_tokens_decoder") or {}
        return [added[id]["content"] for id in sorted(added, key=int)] or special_names()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a tokenizer's configuration ({error}); write the tokenizer again") from None


def read_folder_json(path: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` that splits as Llama 3 does; `UserError` for any other kind."""
    try:
        content = read_json(path)
        model = content["model"]
        if model["type"] != "BPE" or SPLIT_PATTERN not in find_patterns(content.get("pre_tokenizer")):
            raise UserError(f"{path}: not a byte-level BPE with Llama 3's split pattern, which is the kind run here")
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
        ranks = {unspell(word): rank for word, rank in model["vocab"].items() if word not in added}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a whole tokenizer.json ({type(error).__name__}: {error})") from None
    names = sorted(added, key=lambda name: added[name])
    if [added[name] for name in names] != list(range(len(ranks), len(ranks) + len(names))):
        raise UserError(f"{path}: its special tokens do not follow its {len(ranks)} merges; Llama 3's do")
    return Tokenizer(ranks, names)


def find_patterns(part: Any) -> Iterable[str]:
    """Every regular expression that a pre-tokenizer splits by."""
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), dict):
            yield part["pattern"].get("Regex", "")
        for nested in part.get("pretokenizers", ()):
            yield from find_patterns(nested)
