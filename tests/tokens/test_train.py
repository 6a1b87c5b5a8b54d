"""Trained vocabularies, against a brute-force trainer and against `tokenizers`' own."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Peer

from herdbook.settings import UserError
from herdbook.tokens.texts import is_heldout
from herdbook.tokens.tokenizer import SPLIT_PATTERN, Tokenizer
from herdbook.tokens.train import TokenizerSettings, train_tokenizer
from tests.tokens.conftest import library_texts, write_documents


def pair_counts(words: Counter[tuple[bytes, ...]]) -> Counter[tuple[bytes, bytes]]:
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for word, times in words.items():
        for pair in pairwise(word):
            counts[pair] += times
    return counts


def merged(word: tuple[bytes, ...], token: bytes, pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    parts: list[bytes] = []
    place = 0
    while place < len(word):
        if word[place : place + 2] == pair:
            parts.append(token)
            place += 2
        else:
            parts.append(word[place])
            place += 1
    return tuple(parts)


def test_every_merge_is_of_a_most_frequent_pair(tmp_path: Path) -> None:
    """Brute force: whatever the order among equals, each token must be a pair that no other outnumbers."""
    text = (library_texts(1).popitem()[1] + "naïve 三只羊三只羊 don't  \n") * 2
    documents = write_documents(tmp_path / "documents", {"one": text})
    train_tokenizer(TokenizerSettings(vocab_size=420, special_tokens=16, heldout=0), [documents], tmp_path)
    ranks = Tokenizer.load(tmp_path).ranks
    words = Counter(tuple(bytes([b]) for b in piece.encode()) for piece in regex.findall(SPLIT_PATTERN, text))
    for token in sorted(ranks, key=lambda token: ranks[token])[256:]:
        counts = pair_counts(words)
        most = max(counts.values())
        pairs = [pair for pair in counts if pair[0] + pair[1] == token and counts[pair] == most]
        assert pairs, token
        after: Counter[tuple[bytes, ...]] = Counter()
        for word, times in words.items():
            after[merged(word, token, pairs[0])] += times
        words = after


def test_compression_is_that_of_tokenizers_own_trainer(tmp_path: Path) -> None:
    texts = {id: text for id, text in library_texts(40).items() if not is_heldout(id, 0.2)}
    kept_out = "".join(text for id, text in library_texts(40).items() if is_heldout(id, 0.2))
    documents = write_documents(tmp_path / "documents", texts)
    train_tokenizer(TokenizerSettings(vocab_size=1024, special_tokens=16, heldout=0), [documents], tmp_path)
    peer = Peer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1008, initial_alphabet=alphabet, show_progress=False)
    peer.train_from_iterator(texts.values(), trainer)
    ours, theirs = len(Tokenizer.load(tmp_path).encode(kept_out)), len(peer.encode(kept_out).ids)
    assert abs(ours / theirs - 1) < 0.003


def test_training_again_or_from_files_cut_otherwise_gives_the_same_vocabulary(tmp_path: Path) -> None:
    texts = library_texts(12)
    settings = TokenizerSettings(vocab_size=600, special_tokens=16, max_bytes=150_000)
    for name, rows in (("a", 1000), ("b", 1000), ("c", 5)):
        documents = write_documents(tmp_path / f"documents-{name}", texts, rows)
        metrics = train_tokenizer(settings, [documents], tmp_path / name)
        assert 0 < metrics["trained_bytes"] < sum(len(text.encode()) for text in texts.values())
    assert len({(tmp_path / name / "tokenizer.model").read_bytes() for name in "abc"}) == 1


def test_heldout_documents_are_measured_and_not_trained_on(tmp_path: Path) -> None:
    ids = [str(i) for i in range(300)]
    texts = {id: ("zqx" if is_heldout(id, 0.1) else "sheep") * 50 for id in ids}
    documents = write_documents(tmp_path / "documents", texts)
    metrics = train_tokenizer(TokenizerSettings(vocab_size=300, special_tokens=16, heldout=0.1), [documents], tmp_path)
    tokens = Tokenizer.load(tmp_path).ranks
    assert b"sheep" in tokens
    assert b"zq" not in tokens
    assert metrics["measured_bytes"] == 150 * sum(is_heldout(id, 0.1) for id in ids)
    assert metrics["characters_per_token"] == metrics["bytes_per_token"] == 1.0


def test_little_text_makes_a_smaller_vocabulary(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", {"one": "ab ab", "two": None})
    metrics = train_tokenizer(TokenizerSettings(vocab_size=5000, special_tokens=32, heldout=0), [documents], tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert metrics["vocab_size"] == tokenizer.vocab_size == len(tokenizer.ranks) + 32 < 300
    assert tokenizer.bos_id == len(tokenizer.ranks)


def test_blanks_without_end_are_trained_on(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", {"one": "a" + " " * 1_000_000 + "b"})
    metrics = train_tokenizer(TokenizerSettings(vocab_size=300, special_tokens=16, heldout=0), [documents], tmp_path)
    assert metrics["characters_per_token"] > 100


def test_a_given_tokenizer_is_taken(tmp_path: Path, folder: Path, library: Path, tokenizer: Tokenizer) -> None:
    for source in (folder, folder / "tokenizer.json"):
        metrics = train_tokenizer(TokenizerSettings(from_file=source), [library], tmp_path)
        assert Tokenizer.load(tmp_path).hash == tokenizer.hash
        assert metrics["vocab_size"] == 2048
        assert metrics["trained_bytes"] == 0
        assert metrics["bytes_per_token"] > 2


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        TokenizerSettings(vocab_size=400)
    with pytest.raises(UserError, match=r"no \*\.parquet here"):
        train_tokenizer(TokenizerSettings(), [tmp_path], tmp_path)
    empty = write_documents(tmp_path / "empty", {})
    with pytest.raises(UserError, match="no text to train"):
        train_tokenizer(TokenizerSettings(), [empty], tmp_path)
    (empty / "documents" / "00000000.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(UserError, match=r"00000000\.parquet: not a whole"):
        train_tokenizer(TokenizerSettings(), [empty], tmp_path)
