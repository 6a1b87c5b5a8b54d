"""Ids, formats and special tokens of the tokenizer, against tiktoken and against what is known of Llama 3's."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.settings import UserError
from herdbook.tokens.tokenizer import BLANKS, SPLIT_PATTERN, Tokenizer, special_names
from tests.tokens.conftest import WORDS

# What transformers' folder of Llama 3.1 8B has in its tokenizer_config.json.
LLAMA_31 = {
    "<|begin_of_text|>": 128000,
    "<|end_of_text|>": 128001,
    "<|reserved_special_token_0|>": 128002,
    "<|reserved_special_token_1|>": 128003,
    "<|finetune_right_pad_id|>": 128004,
    "<|reserved_special_token_2|>": 128005,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eom_id|>": 128008,
    "<|eot_id|>": 128009,
    "<|python_tag|>": 128010,
    "<|reserved_special_token_3|>": 128011,
    "<|reserved_special_token_247|>": 128255,
}


def llama3_sized(path: Path, ranks: dict[bytes, int]) -> Path:
    """A file in the layout of Llama 3's: real merges, then fillers that no text holds, 128,000 in all."""
    table = dict(ranks)
    filler = 0
    while len(table) < 128_000:
        table[b"\xff\xfe" + filler.to_bytes(3, "big")] = len(table)
        filler += 1
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in table.items()))
    return path


def test_a_file_of_llama3s_layout_has_llama3s_special_ids_and_encodes_as_tiktoken(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = llama3_sized(tmp_path / "tokenizer.model", tokenizer.ranks)
    loaded = Tokenizer.load(path)
    assert loaded.vocab_size == 128_256
    assert {name: loaded.special_tokens[name] for name in LLAMA_31} == LLAMA_31
    assert (loaded.bos_id, loaded.eos_id, loaded.eot_id) == (128000, 128001, 128009)
    ranks = {}
    for line in path.read_text().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    independent = tiktoken.Encoding("x", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=LLAMA_31)
    text = WORDS + "<|begin_of_text|>"
    assert loaded.encode(text) == independent.encode(text, disallowed_special=())
    assert loaded.encode(text, bos=True, allow_special=True) == [
        128000,
        *independent.encode(text, allowed_special="all"),
    ]


def test_the_tiktoken_format_goes_round(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.ranks == tokenizer.ranks
    assert again.special_tokens == tokenizer.special_tokens
    assert again.hash == tokenizer.hash
    written = (tmp_path / "tokenizer.model").read_bytes()
    again.save(tmp_path / "second")
    assert (tmp_path / "second" / "tokenizer.model").read_bytes() == written
    from tiktoken.load import load_tiktoken_bpe

    assert load_tiktoken_bpe(str(tmp_path / "tokenizer.model")) == tokenizer.ranks


def test_special_tokens_follow_the_merges_and_all_named_ones_are_there(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 2048
    assert len(tokenizer.ranks) == 2048 - 32
    assert list(tokenizer.special_tokens.values()) == list(range(2016, 2048))
    assert list(tokenizer.special_tokens)[:11] == list(LLAMA_31)[:11]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert list(tokenizer.encode_array(text)) == ids
    assert tokenizer.encode(text, bos=True, eos=True) == [tokenizer.bos_id, *ids, tokenizer.eos_id]


def test_special_names_in_text_are_text_unless_asked_for(tokenizer: Tokenizer) -> None:
    for name, id in tokenizer.special_tokens.items():
        text = f"a {name}{name} b"
        plain = tokenizer.encode(text)
        assert max(plain) < len(tokenizer.ranks)
        assert list(tokenizer.encode_array(text)) == plain
        assert tokenizer.encode_batch([text, text], threads=2) == [plain, plain]
        assert tokenizer.decode(plain) == text
        assert tokenizer.encode(text, allow_special=True).count(id) == 2
        assert tokenizer.decode([id]) == name


def test_runs_of_blanks_that_stop_the_splitter_are_encoded(tokenizer: Tokenizer) -> None:
    for text in (" " * 1_000_000 + "x", "\n" * 30_000 + "x", "a" + "\u3000 " * 200_000, "x" * 400_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    short = "x" + " " * BLANKS + "x"
    assert tokenizer.encode(short) == tokenizer.encoding.encode_ordinary(short)


def test_reserved_names_count_on_as_llama3s_do() -> None:
    names = special_names(256)
    assert len(set(names)) == 256
    assert {name: 128000 + names.index(name) for name in LLAMA_31} == LLAMA_31
    with pytest.raises(UserError, match="special_tokens is 5"):
        special_names(5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x0a\x0e\x0a\x05<unk>\x15\x00", "sentencepiece"),
        (b"IQ== 0\nnot base64! 1\n", "line 2"),
        (b"IQ== 0\nIg== 5\n", "ranks"),
        (b"IQ== 0\nIg== 1\n", "254 of the 256 single bytes"),
    ],
)
def test_a_damaged_tiktoken_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Tokenizer.load(path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.model"):
        Tokenizer.load(tmp_path)


def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="2048"):
        tokenizer.decode([5, 2048])
