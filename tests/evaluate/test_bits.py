"""Bits per byte against a plain forward pass over each document, and xz against lzma."""

from __future__ import annotations

import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from herdbook.evaluate.bits import cut_windows, document_nats, measure_bits, xz_size
from herdbook.evaluate.settings import EvaluateSettings
from herdbook.tokens.pack import PackSettings, pack
from herdbook.tokens.tokenizer import Tokenizer
from tests.support.models import tiny_model
from tests.tokens.conftest import write_documents

TEXTS = {f"page-{i}": f"Ewe {i} had {i % 5} lambs — 羊.\n" * (i % 13 + 1) for i in range(60)}


@given(st.integers(1, 400), st.integers(2, 64), st.floats(0, 0.99))
def test_every_id_but_the_first_is_counted_once_with_the_context_promised(n: int, context: int, overlap: float) -> None:
    windows = cut_windows(0, n, context, overlap)
    counted = [i for w in windows for i in range(w.counted, w.end + 1)]
    assert counted == list(range(1, n))
    for window in windows:
        assert 0 <= window.start < window.counted <= window.end < n and window.end - window.start <= context
    for window in windows[1:]:
        assert window.end - window.start == context  # never less context than the model can have
        seen = window.counted - window.start
        assert seen >= min(context, round(context * overlap))


def plain_nats(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    with torch.no_grad():
        return F.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:], reduction="none").double().numpy()


def test_nats_of_whole_documents_equal_a_plain_pass() -> None:
    model = tiny_model(max_length=128)
    generator = np.random.default_rng(0)
    documents = [generator.integers(0, 97, size).astype(np.uint16) for size in (2, 128, 17, 64, 1, 33)]
    nats = document_nats(model, documents, 128, 0.5, at_once=200)
    assert nats == pytest.approx([plain_nats(model, ids).sum() if len(ids) > 1 else 0.0 for ids in documents], rel=1e-5)


def test_nats_of_long_documents_equal_a_pass_per_window() -> None:
    model = tiny_model(max_length=16)
    ids = np.random.default_rng(1).integers(0, 97, 50)
    [nats] = document_nats(model, [ids], 16, 0.5, at_once=50)
    expected = 0.0
    for position in range(1, 50):
        end = 16 if position <= 16 else min(49, 16 + 8 * math.ceil((position - 16) / 8))
        window = ids[max(0, end - 16) : end + 1]
        expected += plain_nats(model, window)[position - 1 - max(0, end - 16)]
    assert nats == pytest.approx(expected, rel=1e-5)


def test_xz_is_what_xz_9e_makes_of_it() -> None:
    text = Path(lzma.__file__).read_bytes() * 3 + np.random.default_rng(0).bytes(5000)
    assert xz_size(text) == len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    Tokenizer({bytes([i]): i for i in range(256)}).save(folder / "tokenizer")
    entry = write_documents(folder / "entry", dict(TEXTS))
    library = write_documents(folder / "library", {f"l{i}": "def f(): return 1\n" * 9 for i in range(20)})
    out = folder / "out"
    out.mkdir()
    pack(PackSettings(heldout=0.4, threads=1), {"corpus": entry, "library": library}, folder / "tokenizer", out)
    return out


def test_bits_and_xz_of_the_heldout_text(packed: Path) -> None:
    tokenizer = Tokenizer.load(packed / "tokenizer")
    model = tiny_model(vocab_size=tokenizer.vocab_size, max_length=64)
    settings = EvaluateSettings(bits_tokens=None)
    metrics, samples = measure_bits(model, tokenizer, packed, settings)
    corpus = [sample for sample in samples if sample["set"] == "corpus"]
    texts = [text.encode() for text in TEXTS.values()]
    sizes = sum(sample["bytes"] for sample in samples)
    assert 10 < len(corpus) < 40
    assert all(any(len(text) == sample["bytes"] == sample["tokens"] - 2 for text in texts) for sample in corpus)
    assert metrics["bits"]["bits_per_byte"]["value"] == pytest.approx(sum(s["bits"] for s in samples) / sizes)
    assert metrics["bits"]["bits_per_byte"]["n"] == len(samples)
    assert set(metrics) == {"bits", "bits_corpus", "bits_library"}
    assert metrics["bits"]["xz_after_training_text"] < metrics["bits"]["xz"] < 8
    library = b"\n".join([b"def f(): return 1\n" * 9] * (len(samples) - len(corpus)))
    packed_size = len(lzma.compress(library, preset=9 | lzma.PRESET_EXTREME))
    assert metrics["bits_library"]["xz"] == pytest.approx(8 * packed_size / metrics["bits_library"]["bytes"])


def test_a_model_with_its_own_tokenizer_reads_the_same_text(packed: Path) -> None:
    ranks = {bytes([i]): i for i in range(256)}
    pair = Tokenizer({**ranks, b"Ew": 256, b"Ewe": 257})
    model = tiny_model(vocab_size=pair.vocab_size, max_length=64)
    _, samples = measure_bits(model, pair, packed, EvaluateSettings(bits_tokens=None, xz=False))
    assert any(sample["tokens"] < sample["bytes"] for sample in samples if sample["set"] == "corpus")


def test_a_limit_takes_whole_documents_and_drops_the_dear_xz(packed: Path) -> None:
    tokenizer = Tokenizer.load(packed / "tokenizer")
    model = tiny_model(vocab_size=tokenizer.vocab_size, max_length=64)
    settings = EvaluateSettings(bits_tokens=500, xz_train_mb=0)
    metrics, samples = measure_bits(model, tokenizer, packed, settings)
    held = sum(sample["tokens"] for sample in samples if sample["set"] == "corpus")
    assert 500 <= held < 1200
    assert "xz_after_training_text" not in metrics["bits"] and "xz" in metrics["bits"]
    assert measure_bits(model, tokenizer, packed, settings)[1] == samples
