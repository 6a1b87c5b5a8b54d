"""Token sets on disk: what goes in comes out, held-out pages apart, damage told, nothing left by a killed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from herdbook.files import read_json, write_json
from herdbook.settings import UserError
from herdbook.tokens.pack import PackSettings, pack
from herdbook.tokens.shards import TokenSets
from herdbook.tokens.tokenizer import Tokenizer
from tests.tokens.conftest import write_documents

TEXTS: dict[str, str | None] = {f"page-{i}": f"Sheep {i} — 羊 <|eot_id|>\n" * (i % 17 + 1) for i in range(400)}


@pytest.fixture
def packed(tmp_path: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    entry = write_documents(tmp_path / "entry", TEXTS | {"none": None, "empty": ""}, rows_a_file=150)
    other = write_documents(tmp_path / "other", {"x": "one page only"})
    out = tmp_path / "out"
    out.mkdir()
    metrics = pack(PackSettings(heldout=0.1, threads=2), {"corpus": entry, "library": other}, folder, out)
    return out, metrics


def test_every_document_with_text_is_stored_whole_and_once(
    packed: tuple[Path, dict[str, Any]], tokenizer: Tokenizer
) -> None:
    sets = TokenSets.open(packed[0])
    assert sets.names == ["corpus", "library"]
    stored = []
    for split in sets.sets["corpus"].values():
        for i in range(len(split)):
            ids = split.document(i).tolist()
            assert ids[0] == tokenizer.bos_id
            assert ids[-1] == tokenizer.eos_id
            text = tokenizer.decode(ids[1:-1])
            assert len(text.encode()) == split.bytes[i]
            assert ids[1:-1] == tokenizer.encode(text)
            stored.append(text)
    assert sorted(stored) == sorted(text for text in TEXTS.values() if text is not None)
    assert sets.sets["corpus"]["train"].tokens.dtype == np.dtype("<u2")
    assert (sets.vocab_size, sets.tokenizer_hash) == (2048, tokenizer.hash)


def test_whole_pages_are_held_out_by_their_id_alone(
    packed: tuple[Path, dict[str, Any]], tmp_path: Path, folder: Path, tokenizer: Tokenizer
) -> None:
    def texts(out: Path, split: str) -> set[str]:
        part = TokenSets.open(out).sets["corpus"][split]
        return {tokenizer.decode(part.document(i)[1:-1]) for i in range(len(part))}

    expected = {
        f"{text}"
        for id, text in TEXTS.items()
        if xxhash.xxh3_64_intdigest(f"heldout\0{id}".encode()) < 0.1 * 2**64 and text is not None
    }
    held, trained = texts(packed[0], "heldout"), texts(packed[0], "train")
    assert held == expected
    assert 20 < len(held) < 70
    assert not held & trained
    half = write_documents(tmp_path / "half", dict(list(TEXTS.items())[200:]))
    (tmp_path / "second").mkdir()
    pack(PackSettings(heldout=0.1), {"corpus": half}, folder, tmp_path / "second")
    assert texts(tmp_path / "second", "heldout") <= held


def test_the_metrics_count_what_is_there(packed: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = packed
    for name, splits in TokenSets.open(out).sets.items():
        for split, part in splits.items():
            counted = {"documents": len(part), "tokens": len(part.tokens), "bytes": int(part.bytes.sum())}
            assert metrics[name][split] == counted
    total = sum(len(text.encode()) for text in TEXTS.values() if text is not None)
    assert sum(part["bytes"] for part in metrics["corpus"].values()) == total


def test_the_tokenizer_lies_beside_the_tokens(packed: tuple[Path, dict[str, Any]], tokenizer: Tokenizer) -> None:
    assert Tokenizer.load(packed[0] / "tokenizer").hash == tokenizer.hash


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from tests.tokens.test_tokenizer import llama3_sized

    big = llama3_sized(tmp_path / "tokenizer.model", tokenizer.ranks)
    entry = write_documents(tmp_path / "entry", {"x": "one page"})
    pack(PackSettings(heldout=0), {"x": entry}, big, tmp_path)
    part = TokenSets.open(tmp_path).sets["x"]["train"]
    assert part.tokens.dtype == np.dtype("<u4")
    assert part.document(0).tolist() == [128000, *tokenizer.encode("one page"), 128001]


@pytest.mark.parametrize("suffix", [".bin", ".offsets.bin", ".bytes.bin"])
def test_damage_is_told_with_the_files_name(packed: tuple[Path, dict[str, Any]], suffix: str) -> None:
    out, _ = packed
    path = out / f"corpus.train{suffix}"
    whole = path.read_bytes()
    for content, says in ((whole[:-1], "bytes, but the index says"), (whole + b"\0", "bytes, but the index says")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=says) as caught:
            TokenSets.open(out, verify=False)
        assert str(path) in str(caught.value)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(UserError, match="damaged") as caught:
        TokenSets.open(out)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="absent"):
        TokenSets.open(out)


def test_a_damaged_index_is_told(packed: tuple[Path, dict[str, Any]]) -> None:
    index = packed[0] / "index.json"
    write_json(index, read_json(index) | {"format": 99})
    with pytest.raises(UserError, match="format 99"):
        TokenSets.open(packed[0])
    index.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        TokenSets.open(packed[0])


def test_a_killed_run_leaves_nothing_that_opens_and_the_next_run_is_whole(tmp_path: Path, folder: Path) -> None:
    entry = write_documents(tmp_path / "entry", {str(i): "Two sheep graze. " * 400 for i in range(4000)})
    out = tmp_path / "out"
    out.mkdir()
    program = (
        "import sys; from pathlib import Path; from herdbook.tokens.pack import PackSettings, pack\n"
        "pack(PackSettings(), {'a': Path(sys.argv[1])}, Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(entry), str(folder), str(out)])
    while not (out / ".a.train.bin.partial").exists() and child.poll() is None:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (out / "index.json").exists()
    with pytest.raises(UserError, match="not a whole token set"):
        TokenSets.open(out)
    metrics = pack(PackSettings(), {"a": entry}, folder, out)
    assert sum(part["documents"] for part in metrics["a"].values()) == 4000
    TokenSets.open(out)
    assert not list(out.glob(".*"))


def test_mistakes_are_named(tmp_path: Path, folder: Path) -> None:
    empty = write_documents(tmp_path / "empty", {})
    with pytest.raises(UserError, match=r"the set a at .* has no documents"):
        pack(PackSettings(), {"a": empty}, folder, tmp_path)
    with pytest.raises(UserError, match="cannot be a file's name"):
        pack(PackSettings(), {"../a": empty}, folder, tmp_path)
    with pytest.raises(UserError, match="no documents to pack"):
        pack(PackSettings(), {}, folder, tmp_path)
    assert not (tmp_path / "index.json").exists()
