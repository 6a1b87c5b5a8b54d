"""Checkpoints of many ranks: whole or not there, loaded on other topologies, the newest whole one taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from herdbook.train.metrics import read_metrics
from tests.support.ranks import run_ranks
from tests.train.parity import Case

WHOLE = 6
FOUR = {"FSDP PP": {"shard": 2, "pipeline": 2}, "TP CP": {"tensor": 2, "context": 2}}
TWO: dict[str, dict[str, Any]] = {"FSDP": {"shard": 2}, "TP": {"tensor": 2}}


def case(steps: int, optimizer: str, **changes: Any) -> Case:
    return Case(2, 2, steps=steps, optimizer=optimizer, schedule="constant", **changes)


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
def test_a_run_goes_on_with_the_same_losses_on_any_other_topology(tmp_path: Path, optimizer: str) -> None:
    case(WHOLE, optimizer).alone(tmp_path / "one")
    wanted = losses(tmp_path / "one")
    folder = tmp_path / "run"
    run_ranks(4, case(2, optimizer).spread, folder, FOUR["FSDP PP"])
    run_ranks(4, case(3, optimizer).spread, folder, FOUR["TP CP"])
    run_ranks(2, case(5, optimizer).spread, folder, TWO["TP"])
    case(WHOLE, optimizer).alone(folder)
    assert losses(folder) == pytest.approx(wanted, rel=1e-5)


def test_experts_and_tied_weights_go_on_where_others_had_them(tmp_path: Path) -> None:
    def mixture(steps: int) -> Case:
        shape = {
            "experts": 4,
            "router_loss": 0.5,
            "tied_embeddings": True,
            "ffn_dim": 32,
        }  # experts shaped as attention
        return Case(2, 2, shape, steps=steps, optimizer="muon", schedule="constant")

    mixture(WHOLE).alone(tmp_path / "one")
    folder = tmp_path / "run"
    run_ranks(4, mixture(2).spread, folder, {"shard": 2, "tensor": 2, "expert": 2})
    run_ranks(2, mixture(4).spread, folder, {"pipeline": 2})
    mixture(WHOLE).alone(folder)
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def damaged(folder: Path) -> None:
    case(5, "adamw").spread(folder, TWO["FSDP"])


def test_the_newest_whole_checkpoint_of_many_ranks_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_ranks(2, case(4, "adamw", checkpoint_every=1).spread, folder, TWO["FSDP"])
    found = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert found == ["step-00000003", "step-00000004"]
    listed = json.loads((folder / "checkpoints" / found[1] / "checksums.json").read_text())
    assert set(listed) == {".metadata", "run.json", "__0_0.distcp", "__1_0.distcp"}
    part = folder / "checkpoints" / found[1] / "__1_0.distcp"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    before = losses(folder)
    run_ranks(2, damaged, folder)
    assert (folder / "checkpoints" / "damaged-step-00000004").exists()
    assert losses(folder)[:4] == before
    assert len(losses(folder)) == 5
