"""A small tokenizer trained on this Python's own library, and documents entries made of given texts."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.tokens.tokenizer import Tokenizer
from herdbook.tokens.train import TokenizerSettings, train_tokenizer

WORDS = (
    "Ein Schaf — deux brebis; 三只羊, \u0442\u0440\u0438 \u043e\u0432\u0446\u044b. 12345 l'été don't  \r\n\t x\u00a0y "
)


def write_documents(entry: Path, texts: dict[str, str | None], rows_a_file: int = 1000) -> Path:
    """A documents entry with these texts by id."""
    folder = entry / "documents"
    folder.mkdir(parents=True)
    items = list(texts.items())
    for start in range(0, max(len(items), 1), rows_a_file):
        part = items[start : start + rows_a_file]
        table = pa.table(
            {
                "id": pa.array([id for id, _ in part], pa.string()),
                "url": pa.array([f"https://a.example/{id}" for id, _ in part], pa.string()),
                "text": pa.array([text for _, text in part], pa.large_string() if start else pa.string()),
            }
        )
        pq.write_table(table, folder / f"{start:08d}.parquet")
    return entry


def library_texts(count: int) -> dict[str, str]:
    """Real code and prose: files of this Python's library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:count]
    return {file.name: file.read_text(encoding="utf-8", errors="replace") for file in files}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = library_texts(40)
    texts["several languages"] = WORDS * 200
    return write_documents(tmp_path_factory.mktemp("library"), texts)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    """A tokenizer's folder: 2,048 ids, 32 of them special."""
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TokenizerSettings(vocab_size=2048, special_tokens=32, heldout=0.1), [library], out)
    return out


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)
