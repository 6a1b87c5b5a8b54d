"""The quantize stage through a recipe: what it leaves in the book, and that its figures are what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from herdbook.book import Book
from herdbook.evaluate.divergence import token_divergence
from herdbook.evaluate.quantize import QuantizeSettings, quantize
from herdbook.evaluate.settings import EvaluateSettings
from herdbook.files import read_json
from herdbook.inference.engine import Engine
from herdbook.model.huggingface import load_model, save_model
from herdbook.models import find_model
from herdbook.recipe import read_recipe
from herdbook.run import run_recipe
from herdbook.settings import InputPath, Settings, UserError
from herdbook.stages import KINDS, StageKind
from herdbook.tokens.pack import PackSettings, pack
from herdbook.tokens.tokenizer import Tokenizer
from tests.evaluate.test_run import write_questions
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer
from tests.tokens.conftest import write_documents

EXAM = EvaluateSettings(tasks=("facts", "gsm8k", "bits"), xz=False, max_tokens=4, shots=0)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model entry with lively logits, questions, and tokens with held-out documents."""
    folder = tmp_path_factory.mktemp("given")
    tokenizer = byte_tokenizer(("the", " ewe"))
    tokenizer.save(folder / "tokenizer")
    model = tiny_model(vocab_size=tokenizer.vocab_size, dim=64, ffn_dim=128, layers=3, max_length=64)
    save_model(model, folder / "base" / "model", bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    tokenizer.save(folder / "base" / "model")
    texts: dict[str, str | None] = {f"d{i}": f"the ewe number {i} and the lamb, " * 4 for i in range(40)}
    entry = write_documents(folder / "documents", texts)
    (folder / "tokens").mkdir()
    pack(PackSettings(heldout=0.3, threads=1), {"corpus": entry}, folder / "tokenizer", folder / "tokens")
    write_questions(folder / "questions")
    return {name: folder / name for name in ("base", "questions", "tokens")}


def staged(given: dict[str, Path], out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    chosen = QuantizeSettings(**{"group": 32, "exam": EXAM, "divergence_tokens": None, **settings})
    return quantize(chosen, given["base"], given["questions"], given["tokens"], out)


def test_the_stage_leaves_a_model_and_judges_it(given: dict[str, Path], tmp_path: Path) -> None:
    metrics = staged(given, tmp_path / "out", scheme="int4")
    json.dumps(metrics)
    model = Engine.load(tmp_path / "out").model
    assert metrics["size"]["bytes"] == sum(tensor.nbytes for tensor in _stored(tmp_path / "out" / "model").values())
    assert metrics["rounded"]["matrices"] == 21 and 0.03 < metrics["rounded"]["error"] < 0.12
    assert metrics["memory"]["after"] == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert metrics["memory"]["after"] < metrics["memory"]["before"]
    for task in ("facts", "gsm8k"):
        own = metrics["after"][task]["accuracy"]["value"] - metrics["before"][task]["accuracy"]["value"]
        assert metrics["change"][task]["accuracy"]["value"] == pytest.approx(own)
    bits = [metrics[when]["bits"]["bits_per_byte"] for when in ("before", "after")]
    change = metrics["change"]["bits"]["bits_per_byte"]
    assert change["value"] == pytest.approx(bits[1]["value"] - bits[0]["value"])
    assert change["value"] != 0 and change["low"] < change["value"] < change["high"]
    assert 0 < metrics["divergence"]["nats"]["value"] < metrics["divergence"]["nats_p99"]
    assert read_json(tmp_path / "out" / "after" / "results.json")["model"].endswith("model")
    assert Tokenizer.load(tmp_path / "out" / "model").hash == Tokenizer.load(given["base"] / "model").hash


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_fewer_bits_cost_more(given: dict[str, Path], tmp_path: Path) -> None:
    exam = EvaluateSettings(tasks=("bits",), xz=False)
    found = {
        name: staged(given, tmp_path / name, scheme=name, exam=exam, matrices=("attention", "feed_forward"), ends=0)
        for name in ("int8", "int8_dynamic", "fp8", "int4")
    }
    nats = {name: metrics["divergence"]["nats"]["value"] for name, metrics in found.items()}
    assert nats["int8"] < nats["int8_dynamic"] < nats["fp8"] < nats["int4"]
    same = {name: metrics["divergence"]["same_token"]["value"] for name, metrics in found.items()}
    assert same["int8"] > same["int4"]


def test_the_papers_choice_is_the_default(given: dict[str, Path], tmp_path: Path) -> None:
    settings = QuantizeSettings()
    assert (settings.scheme, settings.parts(), settings.left_out()) == ("fp8", ("feed_forward",), 1)
    assert QuantizeSettings(scheme="int8").left_out() == 0
    metrics = staged(given, tmp_path / "out", exam=EvaluateSettings(tasks=("bits",), xz=False))
    assert metrics["rounded"]["matrices"] == 3  # the middle one of three layers


def test_without_anything_to_judge_by_it_only_rounds(given: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    metrics = quantize(QuantizeSettings(scheme="int8"), given["base"], None, None, tmp_path / "out")
    assert set(metrics) == {"rounded", "size", "memory"}
    load_model(tmp_path / "out" / "model", rounded=True)


def test_divergence_is_its_definition() -> None:
    first, second = (tiny_model(seed, max_length=16) for seed in (0, 1))
    documents = [np.arange(1, 40) % 97, np.array([5, 6]), np.array([7])]
    owners, nats, same = token_divergence(first, second, documents, at_once=48)
    assert np.bincount(owners, minlength=3).tolist() == [38, 1, 0]
    ids = torch.from_numpy(documents[1][:1]).view(1, 1)
    with torch.no_grad():
        p, q = (model(ids)[0, 0].double().softmax(-1).numpy() for model in (first, second))
    own = nats[owners == 1]
    assert own == pytest.approx((p * np.log(p / q)).sum(), rel=1e-4)
    assert same[owners == 1] == (p.argmax() == q.argmax())
    assert (
        token_divergence(first, first, documents)[1].max() < 1e-6 and token_divergence(first, first, documents)[2].all()
    )


class GivenSettings(Settings):
    path: InputPath
    """Folder of an entry whose model is handed on."""


def give(settings: GivenSettings, out: Path) -> dict[str, Any]:
    """A stage that gives a model made elsewhere."""
    shutil.copytree(settings.path / "model", out / "model")
    return {}


@pytest.fixture
def given_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    here = "tests.evaluate.test_quantize"
    kind = StageKind("given", "A model.", f"{here}:GivenSettings", function=f"{here}:give", gives="model")
    monkeypatch.setitem(KINDS, "given", kind)


def test_a_recipe_leaves_a_quantised_model_that_is_found_by_name(
    given: dict[str, Path], given_kind: None, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"stages:\n  base: {{kind: given, path: {given['base']}}}\n"
        "  small: {kind: quantize, from: {model: base}, scheme: int4, group: 32}\n"
    )
    book = Book(tmp_path / "book")
    entries = run_recipe(read_recipe(recipe, []), book)
    assert entries["small"].metrics["rounded"]["matrices"] == 21
    folder, entry = find_model("small", book)
    assert entry is not None and [parent.stage for parent in entry.inputs["model"]] == ["base"]
    assert len(Engine.load(folder).generate(["the ewe"])[0].token_ids) > 0
    with pytest.raises(UserError, match=r"group.*32, 64 or 128"):
        read_recipe(recipe, ["small.group=100"])


def test_mistakes_are_told(given: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 64 inputs, which groups of 128 don't divide; take group=64"):
        (tmp_path / "a").mkdir()
        quantize(QuantizeSettings(scheme="int4"), given["base"], None, None, tmp_path / "a")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "params.json").write_text("{}")
    with pytest.raises(UserError, match="is not in Hugging Face's layout"):
        quantize(QuantizeSettings(), tmp_path / "meta", None, None, tmp_path)
