"""The exported folder, judged by transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer, special_names
from tests.support.shared import shared
from tests.tokens.conftest import WORDS, library_texts

# Whatever the splitter treats apart: contractions, digits, all kinds of blanks, marks, letters of other scripts.
PIECES = st.sampled_from(
    [
        "'s",
        "'RE",
        "'\u017f",
        "don't",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u3000",
        "\u2028",
        "\x85",
        "\x1c",
        "\x0b",
        "12345",
        "\u0661\u0662",
        "½",
        "é",
        "e\u0301",
        "三只",
        "\u0e01\u0e33",
        "🐑",
        "👩‍🌾",
        "_",
        "==",
        "x",
        "The",
        "\ufeff",
        "\u200b",
        "\u180e",
    ]
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=30).map("".join))


@pytest.fixture(scope="module")
def peer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_transformers_has_the_same_ids_for_any_text(tokenizer: Tokenizer, peer: Any, text: str) -> None:
    assert peer.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert peer.decode(tokenizer.encode(text)) == text


def test_transformers_has_the_same_ids_for_real_text(tokenizer: Tokenizer, peer: Any) -> None:
    for text in [WORDS * 5, *library_texts(60).values()]:
        assert peer.encode(text, add_special_tokens=False) == tokenizer.encode(text)


def test_transformers_has_the_same_ids_for_real_pages(tokenizer: Tokenizer, peer: Any) -> None:
    import gzip

    for path in sorted(shared("data/extraction/html").iterdir())[:20]:
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")[:100_000]
        assert peer.encode(text, add_special_tokens=False) == tokenizer.encode(text)


def test_transformers_puts_begin_of_text_first_and_knows_the_special_tokens(tokenizer: Tokenizer, peer: Any) -> None:
    text = "two sheep"
    assert peer(text)["input_ids"] == tokenizer.encode(text, bos=True)
    assert peer(text, text)["input_ids"] == tokenizer.encode(text, bos=True) * 2
    assert len(peer) == tokenizer.vocab_size
    assert (peer.bos_token_id, peer.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert peer.pad_token_id == tokenizer.special_tokens["<|finetune_right_pad_id|>"]
    assert peer.convert_tokens_to_ids(list(tokenizer.special_tokens)) == list(tokenizer.special_tokens.values())
    assert peer.encode("a<|eot_id|>b") == tokenizer.encode("a<|eot_id|>b", bos=True, allow_special=True)
    assert peer.decode(tokenizer.encode("a , b !")) == "a , b !"


@pytest.mark.parametrize("seed", range(8))
def test_a_vocabulary_that_no_training_made_has_the_same_ids(tmp_path: Path, seed: int) -> None:
    """Tokens at random ranks, some of which no merge reaches: the hard case for rebuilding merges from ranks."""
    draw = random.Random(seed)
    tokens = [bytes([value]) for value in range(256)]
    while len(tokens) < 330:
        token = b"".join(draw.choice([b"a", b"b", b"c", *tokens[256:]]) for _ in range(2))
        if draw.random() < 0.1:
            token = bytes(draw.choice(b"abc") for _ in range(5))
        if token not in tokens and len(token) < 12:
            tokens.append(token)
    ours = Tokenizer({token: rank for rank, token in enumerate(tokens)}, special_names(16))
    ours.save(tmp_path)
    peer = AutoTokenizer.from_pretrained(tmp_path)
    for _ in range(300):
        text = "".join(draw.choice("abc") for _ in range(draw.randint(1, 20)))
        assert peer.encode(text, add_special_tokens=False) == ours.encode(text), text


def test_a_folder_with_tokenizer_json_alone_loads(tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    loaded = Tokenizer.load(tmp_path)
    assert loaded.hash == tokenizer.hash
    assert loaded.encode(WORDS) == tokenizer.encode(WORDS)


def test_a_tokenizer_json_of_another_kind_is_refused(tmp_path: Path, folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    path = tmp_path / "tokenizer.json"
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="split pattern"):
        Tokenizer.load(tmp_path)
    path.write_text((folder / "tokenizer.json").read_text()[:1000])
    with pytest.raises(UserError, match=r"not a whole tokenizer\.json"):
        Tokenizer.load(tmp_path)
