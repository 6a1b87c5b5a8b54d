"""A pretrain stage with a topology starts torchrun itself and raises the model that one process raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.model.huggingface import load_model
from herdbook.pretrain.anneal import anneal
from herdbook.pretrain.settings import AnnealSettings
from herdbook.pretrain.stages import PretrainSettings, pretrain
from herdbook.settings import UserError
from herdbook.train.metrics import read_metrics
from tests.pretrain.test_stages import settings, tokens  # noqa: F401  (a fixture)
from tests.support.ranks import run_ranks


def changed(**changes: Any) -> PretrainSettings:
    return settings(rows=4, accumulate=2, validate_every=2, validate_tokens=300, **changes)


def test_a_topology_in_the_settings_is_launched_and_gives_the_same_model(tmp_path: Path, tokens: Path) -> None:  # noqa: F811
    alone, spread = tmp_path / "one", tmp_path / "two"
    for out in (alone, spread):
        out.mkdir()
    one = pretrain(changed(steps=4), tokens, None, alone)
    two = pretrain(changed(steps=4, parallel={"shard": 2}), tokens, None, spread)
    assert two["bits_per_byte"] == pytest.approx(one["bits_per_byte"], rel=1e-5)
    assert two["bits_per_byte_of"] == pytest.approx(one["bits_per_byte_of"], rel=1e-5)
    assert one.keys() == two.keys()
    records = [read_metrics(out / "metrics.jsonl") for out in (alone, spread)]
    assert [record["counted"] for record in records[0]] == [record["counted"] for record in records[1]]
    models = [load_model(out / "model") for out in (alone, spread)]
    for (name, weight), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=1e-4, msg=name)


def test_a_topology_that_does_not_fit_is_told_when_the_recipe_is_read() -> None:
    with pytest.raises(ValueError, match=r"parallel\.tensor=4 does not divide the model's heads=2; 1, 2 would"):
        changed(steps=4, parallel={"tensor": 4})


def test_a_mistake_that_a_rank_finds_is_told_once(tmp_path: Path, tokens: Path) -> None:  # noqa: F811
    with pytest.raises(UserError, match="pretrain needs model"):
        pretrain(changed(steps=4, model=None, parallel={"shard": 2}), tokens, None, tmp_path)


def test_annealing_over_ranks_averages_the_same_checkpoints(tmp_path: Path, tokens: Path) -> None:  # noqa: F811
    (tmp_path / "base").mkdir()
    pretrain(changed(steps=2), tokens, None, tmp_path / "base")
    figures = []
    for name, topology in (("one", {}), ("two", {"shard": 2})):
        given = changed(steps=4, model=None, parallel=topology, schedule="linear").model_dump(exclude_unset=True)
        options = AnnealSettings(**given, members=2, average_over=1.0)
        (tmp_path / name).mkdir()
        figures.append(anneal(options, tokens, tmp_path / "base", tmp_path / name))
    one, two = figures
    assert two["bits_per_byte"] == pytest.approx(one["bits_per_byte"], rel=1e-5)
    assert two["members"] == pytest.approx(one["members"], rel=1e-5)


def test_an_upcycled_model_trains_with_its_experts_shared_out_and_is_a_mixtral(tmp_path: Path, tokens: Path) -> None:  # noqa: F811
    from transformers import AutoModelForCausalLM

    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
    pretrain(changed(steps=2), tokens, None, tmp_path / "base")
    mixture = {"steps": 3, "model": None, "upcycle": {"experts": 4}}
    one = pretrain(changed(**mixture), tokens, tmp_path / "base", tmp_path / "one")
    spread = changed(**mixture, parallel={"shard": 2, "expert": 2})
    two = run_ranks(2, pretrain, spread, tokens, tmp_path / "base", tmp_path / "two")[0]
    assert two["bits_per_byte"] == pytest.approx(one["bits_per_byte"], rel=1e-5)
    assert two["parameters"] == one["parameters"]
    records = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for key in ("loss", "task_loss", "imbalance", "gradient_norm"):
        assert [record[key] for record in records[0]] == pytest.approx([record[key] for record in records[1]], rel=1e-5)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "two" / "model", local_files_only=True).eval()
    assert type(peer).__name__ == "MixtralForCausalLM"
    ids = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        assert (load_model(tmp_path / "two" / "model")(ids) - peer(ids).logits).abs().max() < 1e-5
