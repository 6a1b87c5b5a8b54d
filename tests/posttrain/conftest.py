"""A tiny model that has a chat tokenizer, and dialogs on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.model.huggingface import save_model
from herdbook.tokens.tokenizer import Tokenizer
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer

ROLE_WORDS = ("assistant", "user", "system", "ipython", " the ", " sheep")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept between runs lies apart for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "herdbook"


@pytest.fixture(scope="session")
def chat_tokenizer() -> Tokenizer:
    return byte_tokenizer(ROLE_WORDS)


def write_base(folder: Path, tokenizer: Tokenizer, seed: int = 0, **changes: Any) -> Path:
    """A model entry of a tiny random model."""
    shape: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "max_length": 128, **changes}
    model = tiny_model(seed, **shape)
    with torch.no_grad():  # tame logits: what is compared is not the noise of extreme ones
        model.head.weight.div_(10)
    save_model(model, folder / "model", bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    tokenizer.save(folder / "model")
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Tokenizer) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), chat_tokenizer)


def sums(first: int, count: int) -> list[dict[str, Any]]:
    """Dialogs that ask for sums, some with a system prompt, some with a second turn."""
    rows = []
    for number in range(first, first + count):
        messages = [
            {"role": "user", "content": f"{number} + {number % 7}?"},
            {"role": "assistant", "content": f"{number + number % 7}."},
        ]
        if number % 3 == 0:
            messages.insert(0, {"role": "system", "content": "Be brief."})
        if number % 4 == 0:
            messages += [
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": "Yes, the sheep agree."},
            ]
        rows.append({"id": str(number), "task": "sum", "source": "test", "messages": messages})
    return rows


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an entry of dialogs (or of what `below` says) and returns its folder."""

    def written(name: str, rows: list[Any], below: str = "dialogs") -> Path:
        folder = tmp_path / name / below
        folder.mkdir(parents=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
        return tmp_path / name

    return written
