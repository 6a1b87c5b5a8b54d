"""Our decoder and transformers' LlamaForCausalLM are the same function, through files, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from herdbook.model.huggingface import load_model, read_config, save_model
from herdbook.settings import UserError
from tests.support.models import SHAPES, tiny_config, tiny_model, tiny_peer

TOKENS = torch.randint(0, 97, (3, 100), generator=torch.Generator().manual_seed(7))


def from_pretrained(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_their_model_gives_the_same_logits_here(shape: str, tmp_path: Path) -> None:
    peer = tiny_peer(**SHAPES[shape])
    peer.save_pretrained(tmp_path)
    with torch.no_grad():
        ours, theirs = load_model(tmp_path)(TOKENS), peer(TOKENS).logits
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_our_model_gives_the_same_logits_there(shape: str, tmp_path: Path) -> None:
    model = tiny_model(**SHAPES[shape])
    save_model(model, tmp_path, bos_id=1, eos_ids=[2, 3])
    peer = from_pretrained(tmp_path)
    with torch.no_grad():
        ours, theirs = model(TOKENS), peer(TOKENS).logits
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() < 1e-5
    assert peer.generation_config.eos_token_id == [2, 3]
    assert peer.config.num_key_value_heads == model.config.kv_heads


@pytest.mark.parametrize("shape", ["grouped", "grouped tied"])
def test_gradients_equal_theirs(shape: str, tmp_path: Path) -> None:
    model = tiny_model(**SHAPES[shape])
    save_model(model, tmp_path, bos_id=1, eos_ids=[2])
    peer = from_pretrained(tmp_path)
    logits = model(TOKENS[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    peer(TOKENS, labels=TOKENS).loss.backward()
    from herdbook.model.huggingface import theirs

    named = dict(peer.named_parameters())
    for name, weight in model.named_parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all()
        assert (weight.grad - named[theirs(name)].grad).abs().max() < 1e-5, name


@pytest.mark.parametrize("shape", SHAPES)
def test_saving_and_loading_changes_nothing(shape: str, tmp_path: Path) -> None:
    model = tiny_model(**SHAPES[shape])
    save_model(model, tmp_path, bos_id=1, eos_ids=[2], shard_bytes=20_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again = load_model(tmp_path)
    assert again.config == model.config
    for (name, old), (_, new) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(old, new) and new.requires_grad, name
    assert (again.head.weight is again.embedding.weight) == model.config.tied_embeddings
    with torch.no_grad():
        assert torch.equal(from_pretrained(tmp_path)(TOKENS).logits, from_pretrained(tmp_path)(TOKENS).logits)
        assert (from_pretrained(tmp_path)(TOKENS).logits - model(TOKENS)).abs().max() < 1e-5


def test_their_shards_are_read(tmp_path: Path) -> None:
    peer = tiny_peer()
    peer.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    with torch.no_grad():
        assert (load_model(tmp_path)(TOKENS) - peer(TOKENS).logits).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_or_takes_the_asked_one(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, tmp_path, dtype=dtype, bos_id=1, eos_ids=[2])
    assert {weight.dtype for weight in load_model(tmp_path).parameters()} == {dtype}
    full = load_model(tmp_path, dtype=torch.float32)
    peer = from_pretrained(tmp_path).float()
    with torch.no_grad():
        assert (full(TOKENS) - peer(TOKENS).logits).abs().max() < 1e-5


def test_the_older_spelling_of_rope_is_read(tmp_path: Path) -> None:
    config = tiny_config(**SHAPES["stretched"])
    save_model(tiny_model(**SHAPES["stretched"]), tmp_path, bos_id=1, eos_ids=[2])
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert read_config(tmp_path) == config
    del raw["rope_scaling"], raw["rope_theta"], raw["num_key_value_heads"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    bare = read_config(tmp_path)
    assert (bare.rope_theta, bare.rope_scaling, bare.kv_heads) == (10_000.0, None, config.heads)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_key_value_heads": 3}, "kv_heads=3"),
        ({"hidden_size": 64}, r"weight has shape \(97, 32\), but config.json asks for \(97, 64\)"),
        ({"num_hidden_layers": 3}, "lacks 9 weights: model.layers.2"),
        ({"num_hidden_layers": 1}, "does not have: model.layers.1"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path, bos_id=1, eos_ids=[2])
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, **change}))
    with pytest.raises(UserError, match=words):
        load_model(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path)
    save_model(tiny_model(), tmp_path, bos_id=1, eos_ids=[2])
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 weights: lm_head\.weight"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="damaged"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_model(tmp_path)


def test_a_save_replaces_shards_whole_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    save_model(tiny_model(1), tmp_path, bos_id=1, eos_ids=[2], shard_bytes=20_000)
    save_model(tiny_model(2), tmp_path, bos_id=1, eos_ids=[2])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tokenizer.json", "model.safetensors", "config.json", "generation_config.json"}
    assert torch.equal(load_model(tmp_path).embedding.weight, tiny_model(2).embedding.weight)


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tiny_model(1), tmp_path, bos_id=1, eos_ids=[2])

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("herdbook.model.stored.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(tiny_model(2), tmp_path, bos_id=1, eos_ids=[2])
    assert torch.equal(load_model(tmp_path).embedding.weight, tiny_model(1).embedding.weight)
    assert not list(tmp_path.glob(".*"))
