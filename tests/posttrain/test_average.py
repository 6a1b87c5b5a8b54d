"""Averages of models against arithmetic on transformers' weights, and their figures against transformers' losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from herdbook.posttrain.average import average
from herdbook.posttrain.dialogs import encode, read_dialogs
from herdbook.posttrain.settings import AverageSettings
from herdbook.settings import UserError
from herdbook.tokens.texts import is_heldout
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.average import average_folders
from tests.posttrain.conftest import Write, sums, write_base
from tests.support.tokenizers import byte_tokenizer


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Tokenizer) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("members")
    return {name: write_base(root / name, chat_tokenizer, seed) for seed, name in enumerate(("one", "two", "three"))}


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True).eval()


def test_the_average_is_the_weighted_mean_of_every_weight(members: dict[str, Path], tmp_path: Path) -> None:
    average(AverageSettings(weights={"two": 2.0}), members, tmp_path)
    mean, *peers = (loaded(folder) for folder in (tmp_path, *members.values()))
    parts = [dict(peer.named_parameters()) for peer in peers]
    for name, weight in mean.named_parameters():
        wanted = sum(share * part[name].double() for share, part in zip((0.25, 0.5, 0.25), parts))
        torch.testing.assert_close(weight.double(), wanted, rtol=1e-6, atol=1e-7)
    files = {file.name for file in (members["one"] / "model").iterdir()}
    assert {file.name for file in (tmp_path / "model").iterdir()} == files
    assert mean.generation_config.eos_token_id == peers[0].generation_config.eos_token_id


def test_a_reward_model_in_shards_and_bf16_is_averaged_too(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    shape = LlamaConfig(
        vocab_size=chat_tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_labels=1,
    )  # fmt: skip
    found = {}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(shape).to(torch.bfloat16)
        model.save_pretrained(tmp_path / name / "model", max_shard_size="20KB")
        chat_tokenizer.save(tmp_path / name / "model")
        found[name] = model
    average_folders([tmp_path / name / "model" for name in found], [0.5, 0.5], tmp_path / "mean", shard_bytes=20_000)
    assert len(list((tmp_path / "mean").glob("*.safetensors"))) > 2
    mean = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mean", local_files_only=True)
    assert mean.score.weight.dtype == torch.bfloat16
    for (name, weight), one, two in zip(
        mean.named_parameters(), found["one"].parameters(), found["two"].parameters(), strict=True
    ):
        torch.testing.assert_close(weight, ((one.float() + two.float()) / 2).to(torch.bfloat16), msg=name)


def test_the_figures_are_what_transformers_finds(
    members: dict[str, Path], tmp_path: Path, write: Write, chat_tokenizer: Tokenizer
) -> None:
    dialogs = write("talk", sums(0, 30))
    figures = average(AverageSettings(heldout=0.4), members, tmp_path, {"talk": dialogs})
    bits = {}
    for name, folder in {**members, "mean": tmp_path}.items():
        peer, nats, size = loaded(folder), 0.0, 0
        for dialog in read_dialogs(dialogs):
            if not is_heldout(dialog.key, 0.4):
                continue
            tokens = encode(chat_tokenizer, dialog)
            ids = torch.tensor([tokens.ids])
            labels = torch.where(torch.tensor([tokens.answer]), ids, -100)
            with torch.no_grad():
                nats += float(peer(ids, labels=labels).loss) * sum(tokens.answer)
            size += sum(len(m["content"].encode()) for m in dialog.messages if m["role"] == "assistant")
        bits[name] = nats / math.log(2) / size
    assert figures["bits_per_byte"] == pytest.approx(bits.pop("mean"), rel=1e-5)
    assert figures["members"] == pytest.approx(bits, rel=1e-5)
    assert figures["best_member"] == min(figures["members"].values())
    assert figures["average_minus_mean"]["value"] == pytest.approx(
        figures["bits_per_byte"] - sum(bits.values()) / 3, rel=1e-4
    )
    low, value, high = (figures["average_minus_best"][key] for key in ("low", "value", "high"))
    assert low < value < high


def test_models_that_have_no_average_are_told_apart(
    members: dict[str, Path], tmp_path: Path, chat_tokenizer: Tokenizer, write: Write
) -> None:
    deeper = write_base(tmp_path / "deeper", chat_tokenizer, layers=3)
    with pytest.raises(UserError, match="num_hidden_layers=3"):
        average(AverageSettings(), {**members, "deeper": deeper}, tmp_path / "out")
    wider = write_base(tmp_path / "wider", chat_tokenizer, ffn_dim=64)
    with pytest.raises(UserError, match=r"mlp.* is \(.*64.*\) in .* and \(.*48.*\) in"):
        average(AverageSettings(), {**members, "wider": wider}, tmp_path / "out")
    other = write_base(tmp_path / "other", byte_tokenizer(("assistant",)))
    with pytest.raises(UserError, match="another tokenizer"):
        average(AverageSettings(), {**members, "other": other}, tmp_path / "out")
    with pytest.raises(UserError, match="weights: 'four' has 1"):
        average(AverageSettings(weights={"four": 1}), members, tmp_path / "out")
    with pytest.raises(UserError, match="have none held out"):
        average(AverageSettings(heldout=1e-9), members, tmp_path / "out", {"a": write("a", sums(0, 3))})
