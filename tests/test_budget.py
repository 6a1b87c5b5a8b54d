"""What `herdbook run --check` reckons for training stages: shapes followed through a recipe, fit, savings, time."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from herdbook.budget import Budget, budget, budgets, check_memory, savings, shape
from herdbook.cli import app
from herdbook.model.config import preset
from herdbook.pretrain.settings import PretrainSettings
from herdbook.recipe import RecipeError, read_recipe
from herdbook.report.budget import amount
from herdbook.settings import UserError
from herdbook.train import devices
from herdbook.train.devices import GIB, MachineSettings
from tests.support.shared import shared

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
CLUSTERS = ("cluster-405b", "cluster-8b", "one-gpu")
CHAIN = """
machine: {device: h100, mfu: 0.4}
stages:
  pages: {kind: curate, sources: [{path: ., format: text}]}
  tokenizer: {kind: tokenizer, from: {documents: pages}, vocab_size: 5000}
  tokens: {kind: pack, from: {documents: pages, tokenizer: tokenizer}}
  world: {kind: world}
  base: {kind: pretrain, from: {tokens: tokens}, model: llama3.2-1b, length: 8192, rows: 8, steps: 100}
  longer: {kind: extend, from: {tokens: tokens, model: base, world: world}, length: 200000, rows: 1, steps: 10}
  mixture: {kind: pretrain, from: {tokens: tokens, model: base}, upcycle: {experts: 4}, steps: 10}
  final: {kind: anneal, from: {tokens: tokens, model: longer}, length: 131072, rows: 1, steps: 10}
"""


def written(folder: Path, text: str = CHAIN) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def of(machine: dict[str, Any] | None = None, **settings: Any) -> Budget:
    given: dict[str, Any] = {"model": "llama3-8b", "length": 8192, "rows": 1, "steps": 10, "optimizer": "adamw"}
    read = PretrainSettings.model_validate({**given, **settings})
    return budget("base", read, preset("llama3-8b"), MachineSettings.model_validate(machine or {"device": "h100"}))


def test_a_shape_is_followed_through_the_stages_that_feed_it(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path))
    base = shape(recipe, "base")
    assert base == preset("llama3.2-1b").model_copy(update={"vocab_size": 5000})
    mixture, final = shape(recipe, "mixture"), shape(recipe, "final")
    assert mixture is not None and (mixture.experts, mixture.dim) == (4, base.dim)
    assert final is not None and (final.max_length, final.layers) == (200_000, base.layers)
    assert [item.stage for item in budgets(recipe)] == ["base", "longer", "mixture", "final"]
    assert [item.stage for item in budgets(recipe, ["pages", "base"])] == ["base"]


def test_too_little_memory_is_told_with_what_would_do_and_that_does(tmp_path: Path) -> None:
    path = written(tmp_path)
    recipe = read_recipe(path)
    with pytest.raises(UserError) as told:
        check_memory(budgets(recipe, ["base"]))
    found = budgets(recipe, ["base"])[0]
    lines = str(told.value).splitlines()
    assert lines[0].startswith(
        f"base: {found.fullest.need.total / GIB:.1f} GiB are needed on each device from step 0 on"
    )
    assert "h100 has 79.6 GiB, 4.0 of them kept" in lines[0]
    change, rest = lines[1].strip().split(": ")
    assert "it fits then" in rest
    changed = budgets(read_recipe(path, change.split()), ["base"])
    check_memory(changed)
    saved = found.fullest.need.total - changed[0].fullest.need.total
    assert rest.startswith(f"{saved / GIB:.1f} GiB")


def test_savings_are_those_that_fit_first_and_none_makes_it_worse() -> None:
    found = savings(of(rows=16, parallel={"shard": 8}))
    assert found and all(saving.saved > 0 for saving in found)
    assert [saving.fits for saving in found] == sorted((saving.fits for saving in found), reverse=True)
    assert any(saving.change == "base.parallel.recompute=full" and saving.devices == 8 for saving in found)


def test_one_80_gb_device_is_too_small_for_8b_and_sixteen_are_not() -> None:
    alone = of(parallel={"recompute": "full"})
    assert alone.free < 0 and alone.fullest.need.parts["weights"] == 4 * preset("llama3-8b").parameters()
    many = of(rows=16, parallel={"recompute": "full", "shard": 16})
    assert many.free > 0
    with pytest.raises(UserError, match="base: 1"):
        check_memory([alone])
    check_memory([many])


def test_what_this_machine_has_is_no_mistake_of_the_recipe() -> None:
    found = of({"mfu": 0.4}, model="llama3-8b")
    if found.device.name == "cpu":
        assert found.free < 0 or found.device.memory > 128
        check_memory([found])


def test_days_are_operations_over_what_the_devices_do() -> None:
    found = of({"device": "h100", "mfu": 0.4}, steps=1000, rows=128, parallel={"shard": 64, "recompute": "full"})
    tokens = 1000 * 128 * 8192
    config = preset("llama3-8b")
    flops = tokens * (6 * config.matmul_parameters() + 12 * 32 * 32 * 128 * (8192 + 1) / 2)
    assert found.flops == pytest.approx(flops)
    assert found.days == pytest.approx(flops / (64 * 989e12 * 0.4) / 86_400)
    assert of({"device": "h100"}).days is None


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_recipes_for_larger_machines_pass_their_check_here(name: str, tmp_path: Path) -> None:
    for path in re.findall(r"\.\./shared/([^,}\s]+)", (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")):
        shared(path)
    ran = CliRunner().invoke(app, ["run", str(RECIPES / f"{name}.yaml"), "--check", "--book", str(tmp_path / "book")])
    assert ran.exit_code == 0, ran.output
    for words in ("memory at the fullest moment", "optimizer state", "free", "% MFU", "tokens a step"):
        assert words in ran.output
    assert "too much" not in ran.output


def test_the_papers_405b_has_its_tokens_and_batches() -> None:
    found = {item.stage: item for item in budgets(read_recipe(RECIPES / "cluster-405b.yaml"))}["base"]
    assert found.settings.parallel.size == 16_384
    assert sum(phase.tokens for phase in found.phases) == pytest.approx(15.6e12, rel=1e-5)
    assert [phase.part.step_tokens for phase in found.phases] == [1 << 22, 1 << 23, 1 << 24]
    assert found.flops == pytest.approx(3.8e25, rel=0.04)  # the paper's count


def test_the_papers_longest_rows_have_its_topology_and_batch() -> None:
    found = {item.stage: item for item in budgets(read_recipe(RECIPES / "cluster-405b.yaml"))}["longer"]
    parallel = found.settings.parallel
    assert (parallel.tensor, parallel.context, parallel.pipeline, parallel.row_ranks) == (8, 16, 16, 8)
    assert (parallel.size, found.fullest.part.step_tokens, found.config.max_length) == (16_384, 1 << 24, 131_072)
    # What the paper's 380 TFLOPs and 38 % come to: attention counted causally, not in full.
    assert found.fullest.flops_per_token == pytest.approx(6 * 405e9 + 12 * 126 * 16_384 * 131_073 / 2, rel=0.01)


def test_a_machine_is_checked_as_a_stage_is_and_may_be_changed_on_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert read_recipe(path, ["machine.device=b200", "machine.reserve=2"]).machine.device == "b200"
    for change, said in (
        ("machine.device=h1000", "no device 'h1000' in the list; it has a100-40gb"),
        ("machine.devices=h100", "machine has no such setting; did you mean 'device'?"),
        ("machine.mfu=40", "must be less than 1, not 40"),
    ):
        with pytest.raises(RecipeError, match=said):
            read_recipe(path, [change])


def test_a_topology_that_does_not_divide_an_inherited_model_is_told(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path), ["final.parallel.tensor=3"])
    with pytest.raises(UserError, match=r"final: parallel\.tensor=3 does not divide the model's heads=32; 1, 2, 4"):
        budgets(recipe)


def test_amounts_read_well() -> None:
    assert [amount(number) for number in (15.6e12, 405_853_388_800, 512, 1_100_929)] == [
        "15.6T",
        "405.9B",
        "512",
        "1.101M",
    ]


def test_this_machines_own_gpu_counts_where_the_recipe_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"  # the driver's tool, as it answers for two GPUs
    tool.write_text('#!/bin/sh\necho "NVIDIA A100-SXM4-40GB, 40960"\necho "NVIDIA A100-SXM4-40GB, 40960"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    devices._asked.cache_clear()
    try:
        found = of({"mfu": 0.4}, parallel={"shard": 2}, rows=2)
        assert (found.device.memory, found.device.peak) == (40.0, 312e12)
        assert found.free < 0
        with pytest.raises(UserError, match=r"NVIDIA A100-SXM4-40GB has 40\.0 GiB"):
            check_memory([found])
    finally:
        devices._asked.cache_clear()
