"""Adapters against peft: the same logits, gradients and files; trained alone, kept in 8 or 4 bits, merged, on ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM

from herdbook.model.adapters import load_adapter, save_adapter
from herdbook.model.huggingface import load_model
from herdbook.model.lora import LoraLinear, add_lora, merge, plain, trained
from herdbook.model.lora_settings import LoraSettings
from herdbook.model.rounded import RoundedLinear
from herdbook.posttrain.merge import merge_adapters
from herdbook.posttrain.settings import MergeSettings
from herdbook.posttrain.sft import sft
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.metrics import read_metrics
from herdbook.train.optimizer import kinds_of_weights
from herdbook.train.tuning import chat_ids
from tests.posttrain.conftest import Write, sums, write_base
from tests.posttrain.test_sft import options
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

IDS = torch.arange(3, 43).view(2, 20)
LORA = LoraSettings(rank=3, alpha=5.0)


def stirred(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters of a model with numbers in them, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained(model).values():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return {name: weight.detach().clone() for name, weight in trained(model).items()}


def test_adapters_begin_with_the_model_itself_and_alone_are_trained(base: Path) -> None:
    plain, model = load_model(base / "model"), load_model(base / "model")
    add_lora(model, LoraSettings(rank=2, targets=("query", "value")))
    torch.testing.assert_close(model(IDS), plain(IDS), rtol=0, atol=0)
    model(IDS).sum().backward()
    learning = {name for name, weight in model.named_parameters() if weight.grad is not None}
    wanted = {f"blocks.{i}.attention.{m}.lora_{p}" for i in range(2) for m in ("query", "value") for p in "ab"}
    assert learning == wanted == set(trained(model))


def test_peft_has_the_logits_and_the_gradients(base: Path, tmp_path: Path) -> None:
    model = load_model(base / "model")
    add_lora(model, LORA)
    weights = stirred(model)
    save_adapter(weights, LORA, base / "model", tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(base / "model", local_files_only=True)
    peer = PeftModel.from_pretrained(peer, tmp_path, is_trainable=True).eval()
    ours, peers = model(IDS), peer(IDS).logits
    assert (ours - load_model(base / "model")(IDS)).abs().max() > 0.1  # the adapters do something
    torch.testing.assert_close(ours, peers, rtol=1e-4, atol=1e-4)
    ours.square().sum().backward()
    peers.square().sum().backward()
    theirs = {name: weight.grad for name, weight in peer.named_parameters() if weight.grad is not None}
    assert len(theirs) == len(weights)
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.default.weight"
    torch.testing.assert_close(
        model.get_parameter("blocks.1.feed_forward.down.lora_b").grad, theirs[name], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_of_pefts_is_merged_as_peft_merges_it(base: Path, tmp_path: Path, rslora: bool) -> None:
    peer = AutoModelForCausalLM.from_pretrained(base / "model", local_files_only=True)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], use_rslora=rslora)
    peer = get_peft_model(peer, config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    peer.save_pretrained(tmp_path / "adapter")
    figures = merge_adapters(MergeSettings(adapters=(tmp_path / "adapter",)), base, tmp_path / "out")
    assert figures == {"matrices": 4}
    with torch.no_grad():
        found, wanted = load_model(tmp_path / "out" / "model")(IDS), peer.merge_and_unload()(IDS).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert {file.name for file in (tmp_path / "out" / "model").iterdir()} == {
        file.name for file in (base / "model").iterdir()
    }


@pytest.mark.parametrize("tied", [False, True])
def test_trained_tokens_are_pefts(chat_tokenizer: Tokenizer, tmp_path: Path, tied: bool) -> None:
    folder = write_base(tmp_path, chat_tokenizer, tied_embeddings=tied) / "model"
    model, tokens = load_model(folder), [3, 7, 19]
    add_lora(model, LORA, tokens=tokens)
    torch.testing.assert_close(model(IDS), load_model(folder)(IDS), rtol=0, atol=0)
    weights = stirred(model)
    assert {name for name in weights if "lora" not in name} == {"embedding.rows"} | (set() if tied else {"head.rows"})
    save_adapter(weights, LORA, folder, tmp_path / "adapter", tokens=tokens)
    peer = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    peer = PeftModel.from_pretrained(peer, tmp_path / "adapter", is_trainable=True).eval()
    ours, peers = model(IDS), peer(IDS).logits
    assert (ours - load_model(folder)(IDS)).abs().max() > 0.1
    torch.testing.assert_close(ours, peers, rtol=1e-4, atol=1e-4)
    ours.square().sum().backward()
    peers.square().sum().backward()
    theirs = {name: weight.grad for name, weight in peer.named_parameters() if weight.grad is not None}
    for module, ours_name in {"embed_tokens": "embedding", **({} if tied else {"lm_head": "head"})}.items():
        grad = next(grad for name, grad in theirs.items() if f"{module}.token_adapter" in name)
        torch.testing.assert_close(model.get_parameter(f"{ours_name}.rows").grad, grad, rtol=1e-3, atol=1e-3)
    merge_adapters(MergeSettings(adapters=(tmp_path / "adapter",)), tmp_path, tmp_path / "out")
    merged = load_model(tmp_path / "out" / "model")
    torch.testing.assert_close(merged(IDS), peers, rtol=1e-4, atol=1e-4)
    untouched = [row for row in range(len(merged.embedding.weight)) if row not in tokens]
    assert torch.equal(merged.embedding.weight[untouched], load_model(folder).embedding.weight[untouched])


@pytest.mark.parametrize("tied", [False, True])
def test_trained_tokens_are_rows_of_embedding_and_head_to_the_optimizer(tied: bool) -> None:
    model = tiny_model(tied_embeddings=tied)
    add_lora(model, LORA, tokens=[3, 7])
    kinds = {kind: {name for name, _ in named} for kind, named in kinds_of_weights(model).items()}
    assert kinds["head"] == ({"embedding.rows"} if tied else {"head.rows"})
    assert kinds["embedding"] == (set() if tied else {"embedding.rows"})
    assert kinds["matrix"] == {name for name in trained(model) if "lora" in name} and not kinds["norm"]


@pytest.mark.parametrize("bits", [None, "int8"])
def test_the_plain_twin_gives_the_logits_and_shares_the_rest(base: Path, bits: Any) -> None:
    model = load_model(base / "model")
    add_lora(model, LoraSettings(rank=2, targets=("query", "down"), quantised=bits), tokens=[3, 7])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    stirred(model)
    twin = plain(model)
    assert not any(isinstance(part, LoraLinear) for part in twin.modules())
    assert {name for name, _ in twin.named_parameters()} == {
        n for n, _ in load_model(base / "model").named_parameters()
    }
    torch.testing.assert_close(twin(IDS), model(IDS), rtol=1e-4, atol=1e-4)
    assert twin.get_parameter("norm.weight") is model.get_parameter("norm.weight")
    assert plain(twin) is twin
    assert {name for name, _ in model.named_parameters()} == before.keys()  # the model itself keeps its adapters
    assert torch.equal(model.embedding.base.weight, before["embedding.base.weight"])


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_rounded_base_has_the_gradients_of_its_dense_twin(bits: Any) -> None:
    settings = LoraSettings(rank=2, quantised=bits)
    model, dense = tiny_model(dim=64, ffn_dim=96), tiny_model(dim=64, ffn_dim=96)
    add_lora(model, settings)
    weights = stirred(model)
    merge(dense, {}, settings)  # no adapter: rounded and turned back
    rounded = [module for module in model.modules() if isinstance(module, RoundedLinear)]
    assert len(rounded) == 2 * 7
    torch.testing.assert_close(rounded[0].dense(torch.float32), dense.blocks[0].attention.query.weight)
    add_lora(dense, LoraSettings(rank=2))
    with torch.no_grad():
        for name, weight in trained(dense).items():
            weight.copy_(weights[name])
    found = []
    for one in (model, dense):
        logits = one(IDS)
        logits.square().sum().backward()
        found.append((logits, [weight.grad for weight in trained(one).values()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
    for name, mine, other in zip(weights, found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-2, msg=name)


def test_rounding_comes_as_close_as_its_bits_allow() -> None:
    errors = {}
    for bits in ("int8", "int4"):
        model = tiny_model(dim=64, ffn_dim=96)
        wanted = model.blocks[0].feed_forward.up.weight.detach().clone()
        add_lora(model, LoraSettings(quantised=bits))
        up = model.blocks[0].feed_forward.up
        assert isinstance(up, LoraLinear) and isinstance(up.base, RoundedLinear)
        errors[bits] = float((up.base.dense(torch.float32) - wanted).std() / wanted.std())
    assert errors["int8"] < 0.01
    assert 0.05 < errors["int4"] < 0.12  # a uniform 4-bit step over ± 2.5 deviations


def test_between_the_passes_no_dense_copy_of_a_rounded_matrix_is_kept() -> None:
    model = tiny_model(dim=64, ffn_dim=96)
    add_lora(model, LoraSettings(rank=2, quantised="int8"))
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        model(IDS)
    assert kept
    assert torch.Size([96, 64]) not in kept and torch.Size([64, 96]) not in kept


def test_what_is_no_plain_adapter_of_the_model_is_told(base: Path, tmp_path: Path) -> None:
    model = load_model(base / "model")
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        load_adapter(tmp_path, model)
    config = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    peer = AutoModelForCausalLM.from_pretrained(base / "model", local_files_only=True)
    get_peft_model(peer, config).save_pretrained(tmp_path / "dora")
    with pytest.raises(UserError, match="use_dora asks for DoRA"):
        load_adapter(tmp_path / "dora", model)
    other = tiny_model(layers=1)
    add_lora(model, LORA)
    save_adapter(stirred(model), LORA, base, tmp_path / "deep")
    with pytest.raises(UserError, match=r"layers\.1.* is of no matrix that this model has"):
        load_adapter(tmp_path / "deep", other)
    wide = tiny_model(dim=64)
    weights, settings, _ = load_adapter(tmp_path / "deep", wide)
    with pytest.raises(UserError, match=r"adapter of blocks\.0\.attention\.key is .* but the model has a matrix of"):
        merge(wide, weights, settings)
    with pytest.raises(ValueError, match="name some matrices, each once"):
        LoraSettings(targets=())
    with pytest.raises(ValueError, match="lora lies whole on each rank"):
        options(lora={}, parallel={"tensor": 2})
    with pytest.raises(ValueError, match="which one process does"):
        options(lora={"chat_tokens": True}, parallel={"shard": 2})


@pytest.mark.parametrize(("bits", "tokens"), [(None, False), (None, True), ("int4", False)])
def test_fine_tuning_by_adapters(write: Write, base: Path, tmp_path: Path, bits: Any, tokens: bool) -> None:
    (tmp_path / "out").mkdir()
    lora = {"rank": 2, "alpha": 8.0, "quantised": bits, "dropout": 0.05, "chat_tokens": tokens}
    settings = options(steps=30, peak_lr=2e-2, lora=lora)
    figures = sft(settings, {"a": write("a", sums(0, 40))}, base, tmp_path / "out")
    records = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert figures["loss"] < records[0]["loss"] - 0.3  # little: the head of a random model is frozen
    untuned = AutoModelForCausalLM.from_pretrained(base / "model", local_files_only=True)
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", local_files_only=True).eval()
    adapters = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    count = sum(weight.numel() for weight in adapters.values())
    assert figures["trained_parameters"] == count
    assert figures["trained_share"] == count / sum(weight.numel() for weight in untuned.parameters())
    moved = (untuned.lm_head.weight != tuned.lm_head.weight).any(1).nonzero().flatten().tolist()
    assert moved == (sorted(chat_ids(Tokenizer.load(base / "model"))) if tokens else [])  # the others are frozen
    if bits is None:
        with torch.no_grad():
            wanted = PeftModel.from_pretrained(untuned, tmp_path / "out" / "adapter").eval()(IDS).logits
            torch.testing.assert_close(tuned(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    kept = FileSystemReader(tmp_path / "out" / "checkpoints" / "step-00000030").read_metadata().state_dict_metadata
    weights = [name for name in kept if name.startswith(("model", "optimizer"))]
    assert weights and all("lora_" in name or ".rows" in name for name in weights)  # a checkpoint holds what is trained


def test_adapters_on_two_ranks_are_those_of_one(write: Write, base: Path, tmp_path: Path) -> None:
    folder = write("a", sums(0, 60))
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        out.mkdir()
    lora = {"rank": 2, "quantised": "int8"}
    sft(options(steps=4, lora=lora), {"a": folder}, base, outs[0])
    run_ranks(2, sft, options(steps=4, lora=lora, parallel={"shard": 2}), {"a": folder}, base, outs[1])
    losses = [[record["loss"] for record in read_metrics(out / "metrics.jsonl")] for out in outs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    one, two = (load_file(out / "adapter" / "adapter_model.safetensors") for out in outs)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_a_killed_run_goes_on_with_its_adapters(write: Write, base: Path, tmp_path: Path) -> None:
    folder = write("a", sums(0, 60))
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    settings = options(steps=6, lora={"rank": 2, "dropout": 0.2}, checkpoint_every=3)
    sft(settings, {"a": folder}, base, tmp_path / "whole")
    sft(settings, {"a": folder}, base, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000006")
    shutil.rmtree(tmp_path / "parts" / "model")
    sft(settings, {"a": folder}, base, tmp_path / "parts")
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
