"""Quantised folders: what is in them, what others make of them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.quantize import choose_matrices, quantize_folder
from herdbook.model.huggingface import load_model, save_model, their_module
from herdbook.model.quantized import SCHEMES, dequantize, quantize
from herdbook.model.rounded import RoundedLinear
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer

SHAPE: dict[str, Any] = {"dim": 64, "ffn_dim": 128, "layers": 3, "heads": 4, "kv_heads": 2}
TOKENS = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(7))
SMALL = {name: replace(scheme, group=32) if scheme.group else scheme for name, scheme in SCHEMES.items()}
BOTH = ("attention", "feed_forward")


def source_folder(folder: Path, **changes: Any) -> Transformer:
    model = tiny_model(**{**SHAPE, **changes})
    save_model(model, folder, bos_id=1, eos_ids=[2, 3])
    (folder / "tokenizer.json").write_text("{}")
    return model


def from_pretrained(folder: Path, **options: Any) -> Any:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", SCHEMES)
def test_transformers_finds_the_same_logits(name: str, tied: bool, tmp_path: Path) -> None:
    model = source_folder(tmp_path / "a", tied_embeddings=tied)
    quantize_folder(tmp_path / "a", tmp_path / "b", SMALL[name], parts=BOTH)
    peer = from_pretrained(tmp_path / "b", dtype=torch.float32)
    with torch.no_grad():
        ours, theirs = load_model(tmp_path / "b", rounded=True)(TOKENS), peer(TOKENS).logits
        before = model(TOKENS)
    moved = (before - theirs).abs().mean()
    assert moved > 0.005  # the rounding shows
    apart = (ours - theirs).abs()
    if name == "int8_dynamic":
        # A token's largest activation, when negative, lies at a tie (-127.5), and falls to either side with the last
        # bit of a sum; the test below compares layer by layer.
        assert apart.mean() < moved / 2
    else:
        assert apart.quantile(0.98) < 2e-4 and apart.mean() < moved / 50
    assert peer.generation_config.eos_token_id == [2, 3]


@pytest.mark.parametrize("name", SCHEMES)
def test_each_layer_gives_what_transformers_gives_for_the_same_input(name: str, tmp_path: Path) -> None:
    source_folder(tmp_path / "a")
    quantize_folder(tmp_path / "a", tmp_path / "b", SMALL[name], parts=BOTH)
    peer = from_pretrained(tmp_path / "b", dtype=torch.float32)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for label, module in peer.named_modules():
        if label.endswith("_proj"):
            module.register_forward_hook(lambda _, given, out, label=label: seen.update({label: (given[0], out)}))
    ours = load_model(tmp_path / "b", rounded=True)
    compared = 0
    with torch.no_grad():
        peer(TOKENS)
        for label, layer in ours.named_modules():
            if isinstance(layer, RoundedLinear):
                given, out = seen[their_module(label)]
                assert (layer(given) - out).abs().max() < 2e-5 * out.abs().max(), label
                compared += 1
    assert compared == 21


def test_transformers_finds_the_same_logits_with_a_rounded_head(tmp_path: Path) -> None:
    source_folder(tmp_path / "a", tied_embeddings=True)
    quantize_folder(tmp_path / "a", tmp_path / "b", SMALL["int8"], parts=(*BOTH, "head"))
    with torch.no_grad():
        model = load_model(tmp_path / "b", rounded=True)
        theirs = from_pretrained(tmp_path / "b", dtype=torch.float32)(TOKENS).logits
        assert isinstance(model.head, RoundedLinear) and not model.config.tied_embeddings
        assert (model(TOKENS) - theirs).abs().max() < 2e-4


@pytest.mark.parametrize("name", SCHEMES)
def test_dense_loading_gives_what_the_rounded_numbers_mean(name: str, tmp_path: Path) -> None:
    model = source_folder(tmp_path / "a")
    quantize_folder(tmp_path / "a", tmp_path / "b", SMALL[name], parts=BOTH)
    found = load_model(tmp_path / "b")
    for (label, old), (_, new) in zip(model.named_parameters(), found.named_parameters(), strict=True):
        rounded = ".attention." in label or ".feed_forward." in label
        wanted = dequantize(*quantize(old, SMALL[name])) if rounded else old
        assert torch.equal(new, wanted) and new.requires_grad, label


def test_the_paper_leaves_attention_and_the_ends_alone(tmp_path: Path) -> None:
    model = source_folder(tmp_path / "a", layers=4)
    assert choose_matrices(model, ["feed_forward"], 1) == [
        f"blocks.{layer}.feed_forward.{part}" for layer in (1, 2) for part in ("gate", "up", "down")
    ]
    report = quantize_folder(tmp_path / "a", tmp_path / "b", SCHEMES["fp8"], parts=["feed_forward"], ends=1)
    stored = load_file(tmp_path / "b" / "model.safetensors")
    small = {name for name, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn}
    assert small == {
        f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in (1, 2) for part in ("gate", "up", "down")
    }
    config = json.loads((tmp_path / "b" / "config.json").read_text())["quantization_config"]
    assert config["activation_scale_ub"] == 1200 and "model.layers.0.mlp.up_proj" in config["ignore"]
    weights = 6 * 64 * 128
    assert (report.matrices, report.weights) == (6, weights)
    assert report.share == pytest.approx(weights / model.config.parameters())
    assert report.bytes_after == sum(tensor.nbytes for tensor in stored.values())
    assert report.bytes_before == 4 * model.config.parameters()


def test_a_bound_changes_only_what_goes_beyond_it(tmp_path: Path) -> None:
    source_folder(tmp_path / "a")
    logits = []
    for bound in (1200.0, 600.0, 1.0):
        quantize_folder(tmp_path / "a", tmp_path / f"{bound}", replace(SCHEMES["fp8"], bound=bound), parts=BOTH)
        with torch.no_grad():
            logits.append(load_model(tmp_path / f"{bound}", rounded=True)(TOKENS))
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2], atol=1e-2)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_engine_writes_as_the_rounded_model_does(name: str, tmp_path: Path) -> None:
    model = tiny_model(**SHAPE, vocab_size=267)
    save_model(model, tmp_path / "a", bos_id=256, eos_ids=[257])
    byte_tokenizer().save(tmp_path / "a")
    quantize_folder(tmp_path / "a", tmp_path / "b", SMALL[name], parts=BOTH)
    engine = Engine.load(tmp_path / "b", device="cpu", dtype=torch.float32)
    assert sum(isinstance(module, RoundedLinear) for module in engine.model.modules()) == 21
    prompts = [[256, 65 + i, 66 + i, 70] for i in range(5)]
    answers = engine.generate(prompts, Sampling(max_tokens=8))
    for prompt, answer in zip(prompts, answers, strict=True):  # each alone, without a cache
        ids = list(prompt)
        for token in answer.token_ids:
            with torch.no_grad():
                logits = engine.model(torch.tensor([ids]))[0, -1]
            assert logits.max() - logits[token] < 1e-3
            ids.append(token)
    assert torch.isfinite(torch.tensor([s.logprob for s in engine.score(prompts, [[65, 66]] * 5)])).all()


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_mixture_keeps_its_router(name: str, tmp_path: Path) -> None:
    model = source_folder(tmp_path / "a", layers=2, experts=3)
    report = quantize_folder(tmp_path / "a", tmp_path / "b", SMALL[name], parts=BOTH)
    assert report.matrices == 2 * (4 + 3 * 3)
    rounded, dense = load_model(tmp_path / "b", rounded=True), load_model(tmp_path / "b")
    with torch.no_grad():
        assert (rounded(TOKENS) - dense(TOKENS)).abs().max() < 2e-4
        assert (model(TOKENS) - dense(TOKENS)).abs().mean() > 0.005
    assert torch.equal(
        rounded.get_parameter("blocks.0.feed_forward.router.weight"),
        model.get_parameter("blocks.0.feed_forward.router.weight"),
    )


def test_shards_hold_whole_matrices_and_other_files_come_along(tmp_path: Path) -> None:
    source_folder(tmp_path / "a")
    (tmp_path / "a" / "chat_template.jinja").write_text("hello")
    quantize_folder(tmp_path / "a", tmp_path / "one", SMALL["int4"])
    quantize_folder(tmp_path / "a", tmp_path / "b", SMALL["int4"], shard_bytes=20_000)
    files = sorted((tmp_path / "b").glob("model-*.safetensors"))
    assert len(files) > 2 and not list((tmp_path / "b").glob(".*"))
    for file in files:
        names = set(load_file(file))
        for name in names:
            if name.endswith("weight_packed"):
                assert name.replace("packed", "scale") in names and name.replace("packed", "shape") in names
    with torch.no_grad():
        one, many = (load_model(tmp_path / name, rounded=True)(TOKENS) for name in ("one", "b"))
    assert torch.equal(one, many)
    assert (tmp_path / "b" / "chat_template.jinja").read_text() == "hello"
    assert json.loads((tmp_path / "b" / "generation_config.json").read_text())["eos_token_id"] == [2, 3]


def test_bfloat16_is_kept_or_chosen(tmp_path: Path) -> None:
    save_model(tiny_model(**SHAPE), tmp_path / "a", dtype=torch.bfloat16, bos_id=1, eos_ids=[2])
    quantize_folder(tmp_path / "a", tmp_path / "kept", SMALL["int4"])
    quantize_folder(tmp_path / "a", tmp_path / "wide", SMALL["int4"], dtype=torch.float32)
    for name, dtype in {"kept": torch.bfloat16, "wide": torch.float32}.items():
        stored = load_file(tmp_path / name / "model.safetensors")
        kinds = {tensor.dtype for label, tensor in stored.items() if label.endswith(("weight", "scale"))}
        assert kinds == {dtype}
        model = load_model(tmp_path / name, rounded=True)
        assert model.embedding.weight.dtype == dtype
        with torch.no_grad():
            assert model(TOKENS).dtype == dtype
    assert from_pretrained(tmp_path / "kept")(TOKENS).logits.dtype == torch.bfloat16


def test_mistakes_are_told_before_any_work(tmp_path: Path) -> None:
    source_folder(tmp_path / "a")
    with pytest.raises(UserError, match=r"model\.layers\.0\..* has 64 inputs, which groups of 128 don't divide"):
        quantize_folder(tmp_path / "a", tmp_path / "b", SCHEMES["int4"], parts=BOTH)
    with pytest.raises(UserError, match=r"of 3 layers the 2 first and the 2 last are left out; lower `ends`"):
        quantize_folder(tmp_path / "a", tmp_path / "b", SCHEMES["fp8"], ends=2)
    assert not (tmp_path / "b").exists()
    quantize_folder(tmp_path / "a", tmp_path / "b", SCHEMES["int8"])
    with pytest.raises(UserError, match="is quantised already"):
        quantize_folder(tmp_path / "b", tmp_path / "c", SCHEMES["int8"])
    with pytest.raises(UserError, match="the model to save is quantised"):
        save_model(load_model(tmp_path / "b", rounded=True), tmp_path / "c", bos_id=1, eos_ids=[2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quant_method": "gptq"}, "quantised by 'gptq'"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "its cache is quantised"),
        ({"weights": {"symmetric": False}}, "weights.symmetric is False"),
        ({"weights": {"strategy": "tensor"}}, "weights.strategy is 'tensor'"),
        ({"weights": {"num_bits": 3}}, "weights.num_bits is 3"),
        ({"format": "marlin-24"}, "format is 'marlin-24'"),
    ],
)
def test_schemes_of_others_that_we_have_no_products_for_are_told(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source_folder(tmp_path / "a")
    quantize_folder(tmp_path / "a", tmp_path / "b", SMALL["int4"])
    path = tmp_path / "b" / "config.json"
    config = json.loads(path.read_text())
    group = config["quantization_config"]["config_groups"]["group_0"]
    if "weights" in change:
        group["weights"] |= change["weights"]
    else:
        config["quantization_config"] |= change
        group |= {key: value for key, value in change.items() if key == "format"}
    path.write_text(json.dumps(config))
    for rounded in (False, True):
        with pytest.raises(UserError, match=words):
            load_model(tmp_path / "b", rounded=rounded)
