"""Pre-training from token sets to a Hugging Face folder; bits per byte against a calculation by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from herdbook.model.huggingface import load_model
from herdbook.pretrain.stages import ModelShape, PretrainSettings, pretrain
from herdbook.settings import UserError
from herdbook.tokens.pack import PackSettings, pack
from herdbook.tokens.shards import TokenSets
from herdbook.tokens.train import TokenizerSettings, train_tokenizer
from herdbook.train.metrics import read_metrics

LINE = "Animal {0} of the herd was born in {1}, weighed {2} kg — a good beast; its dam was {3}.\n"
SHAPE = ModelShape(dim=16, layers=2, heads=2, kv_heads=1, ffn_dim=32, max_length=64)


def documents(folder: Path, count: int, offset: int) -> Path:
    texts = [
        "".join(LINE.format(i, 1900 + line, i * line % 97, i - 1) for line in range(1 + i % 4))
        for i in range(offset, offset + count)
    ]
    (folder / "documents").mkdir(parents=True)
    ids = [f"{offset}-{i}" for i in range(count)]
    pq.write_table(pa.table({"id": ids, "url": ids, "text": texts}), folder / "documents" / "all.parquet")
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokens")
    herd, barn = documents(root / "herd", 60, 0), documents(root / "barn", 30, 1000)
    (root / "tokenizer").mkdir()
    train_tokenizer(TokenizerSettings(vocab_size=350, special_tokens=16, heldout=0.2), [herd, barn], root / "tokenizer")
    (root / "packed").mkdir()
    pack(PackSettings(heldout=0.2), {"herd": herd, "barn": barn}, root / "tokenizer", root / "packed")
    return root / "packed"


def settings(**changes: Any) -> PretrainSettings:
    quick: dict[str, Any] = {"model": SHAPE, "steps": 8, "rows": 2, "length": 64, "warmup": 2, "checkpoint_every": 0}
    quick |= {"precision": "fp32", "threads": 1, "tensorboard": False, "peak_flops": 1e10}
    return PretrainSettings(**{**quick, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tokens: Path) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("base")
    return out, pretrain(
        settings(mix={"herd": 0.7, "barn": 0.3}, validate_every=4, validate_tokens=300), tokens, None, out
    )


def bits_by_hand(model: torch.nn.Module, sets: TokenSets, name: str, length: int) -> tuple[float, int]:
    """Every held-out document alone, cut into pieces of `length`, each token after the first coded once."""
    bits, held = 0.0, sets.sets[name]["heldout"]
    for i in range(len(held)):
        ids = torch.from_numpy(np.asarray(held.document(i)).astype(np.int64))
        for start in range(0, len(ids), length):
            piece, wanted = ids[start : start + length], ids[start + 1 : start + length + 1]
            with torch.no_grad():
                logits = model(piece[None])[0, : len(wanted)]
            bits += float(F.cross_entropy(logits.double(), wanted, reduction="sum")) / math.log(2)
    return bits, int(held.bytes.sum())


def test_bits_per_byte_are_what_coding_the_held_out_pages_takes(
    trained: tuple[Path, dict[str, Any]], tokens: Path
) -> None:
    out, metrics = trained
    model, sets = load_model(out / "model"), TokenSets.open(tokens)
    by_hand = {name: bits_by_hand(model, sets, name, 64) for name in ("herd", "barn")}
    for name, (bits, size) in by_hand.items():
        assert metrics["bits_per_byte_of"][name] == pytest.approx(bits / size, rel=1e-4)
    together = sum(bits for bits, _ in by_hand.values()) / sum(size for _, size in by_hand.values())
    assert metrics["bits_per_byte"] == pytest.approx(together, rel=1e-4)
    records = read_metrics(out / "metrics.jsonl")
    assert [record["step"] for record in records if "bits_per_byte" in record] == [3, 7]
    assert records[7]["bits_per_byte"] < records[3]["bits_per_byte"]


def test_the_exported_folder_loads_in_transformers_with_equal_logits_and_ids(
    trained: tuple[Path, dict[str, Any]], tokens: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from herdbook.tokens.tokenizer import Tokenizer

    folder = trained[0] / "model"
    peer, ours = AutoModelForCausalLM.from_pretrained(folder), load_model(folder)
    text = LINE.format(7, 1911, 12, 6)
    ids = Tokenizer.load(tokens / "tokenizer").encode(text, bos=True)
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids
    batch = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(ours(batch), peer(batch).logits, rtol=1e-5, atol=1e-5)
    assert (peer.config.bos_token_id, peer.config.vocab_size) == (ids[0], 350)


def test_figures_say_what_was_done(trained: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = trained
    assert metrics["steps"] == 8
    assert metrics["parameters"] == sum(weight.numel() for weight in load_model(out / "model").parameters())
    assert metrics["tokens"] == sum(record["counted"] for record in read_metrics(out / "metrics.jsonl"))
    assert {"loss", "tokens_per_second", "mfu", "seconds"} <= metrics.keys()


def test_going_on_from_a_model_starts_with_its_weights(
    trained: tuple[Path, dict[str, Any]], tokens: Path, tmp_path: Path
) -> None:
    out, metrics = trained
    first = pretrain(settings(model=None, steps=1, peak_lr=1e-9, embedding_lr=1e-9, head_lr=1e-9, norm_lr=1e-9,
                              mix={"herd": 0.7, "barn": 0.3}, optimizer="adamw"), tokens, out, tmp_path)  # fmt: skip
    assert first["bits_per_byte"] == pytest.approx(metrics["bits_per_byte"], rel=1e-4)
    with pytest.raises(UserError, match="another shape"):
        pretrain(settings(model="tiny"), tokens, out, tmp_path / "other")


def test_a_preset_takes_the_tokenizers_vocabulary_and_can_be_resumed(tokens: Path, tmp_path: Path) -> None:
    once = pretrain(settings(model="tiny", steps=2), tokens, None, tmp_path)
    assert load_model(tmp_path / "model").config.vocab_size == 350
    assert pretrain(settings(model="tiny", steps=2), tokens, None, tmp_path) == once


def test_a_model_without_room_for_the_tokenizer_is_refused(tokens: Path, tmp_path: Path) -> None:
    shape = SHAPE.model_copy(update={"vocab_size": 100})
    with pytest.raises(UserError, match=r"vocab_size=100 is smaller than the tokenizer's vocabulary of 350"):
        pretrain(settings(model=shape), tokens, None, tmp_path)
    with pytest.raises(UserError, match="needs model"):
        pretrain(settings(model=None), tokens, None, tmp_path)


def test_settings_come_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, herdbook.pretrain.stages as s; s.PretrainSettings; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_dense_model_goes_on_as_a_mixture_of_experts(
    tmp_path: Path, tokens: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    from transformers import AutoModelForCausalLM

    figures = pretrain(settings(model=None, upcycle={"experts": 4}, steps=3), tokens, trained[0], tmp_path)
    dense = load_model(trained[0] / "model")
    first = next(iter(read_metrics(tmp_path / "metrics.jsonl")))
    assert figures["parameters"] == dense.config.parameters() + 2 * (3 * 3 * 16 * 32 + 16 * 4)
    assert first["loss"] < 1.2 * trained[1]["loss"]  # as good as where the dense one stopped, not begun anew
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True).eval()
    ids = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        assert type(peer).__name__ == "MixtralForCausalLM"
        assert (load_model(tmp_path / "model")(ids) - peer(ids).logits).abs().max() < 1e-5


def test_upcycling_without_a_dense_model_is_refused(tmp_path: Path, tokens: Path) -> None:
    with pytest.raises(UserError, match="upcycle needs a dense model stage"):
        pretrain(settings(upcycle={"experts": 4}), tokens, None, tmp_path)
