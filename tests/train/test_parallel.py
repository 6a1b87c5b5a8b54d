"""Every topology trains as one process does: loss, gradient norm and each tensor's gradient within 1e-5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.tokens.batches import Batch
from herdbook.train.topology import ParallelSettings
from tests.support.ranks import run_ranks
from tests.train.parity import LENGTH, LIMIT, ROWS, STEPS, TABLE, Case, errors
from tests.train.support import RandomBatches


class Branching(Case):
    """Rows in which documents go on from others: of random ones every third or so is a branch."""

    def batches(self) -> Any:
        return BranchingBatches(rows=ROWS * self.accumulate, length=LENGTH, split=self.accumulate)


class BranchingBatches(RandomBatches):
    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        return replace(batch, document_ids=torch.where(batch.document_ids % 3 > 0, -batch.document_ids, 0))


DEEP, FLAT, BRANCHING = Case(4, 4), Case(2, 2), Branching(2, 2)
MUON = Case(2, 2, optimizer="muon")
MIXTURE = {"experts": 4, "experts_per_token": 2, "router_loss": 0.5}
MIXED, DEEP_MIXED = Case(2, 2, MIXTURE), Case(4, 4, MIXTURE)
TIED = Case(4, 4, {"tied_embeddings": True}, optimizer="muon")
MIXED_MUON = Case(2, 2, MIXTURE, optimizer="muon")
TWO = {"FSDP": {"shard": 2}, "TP": {"tensor": 2}, "CP": {"context": 2}}
SCHEDULES = {
    "PP 1F1B": {"pipeline": 2},
    "PP interleaved": {"pipeline": 2, "schedule": "interleaved"},
    "PP ZBV": {"pipeline": 2, "schedule": "zbv"},
}
PAIRS = {
    "HSDP": {"data": 2, "shard": 2},
    "FSDP TP": {"shard": 2, "tensor": 2},
    "FSDP CP": {"shard": 2, "context": 2},
    "FSDP PP": {"shard": 2, "pipeline": 2},
    "TP CP": {"tensor": 2, "context": 2},
    "TP PP": {"tensor": 2, "pipeline": 2},
    "CP PP": {"context": 2, "pipeline": 2},
}
MIXED_TWO = {"MoE TP": {"tensor": 2}, "MoE PP": {"pipeline": 2}, "EP": {"shard": 2, "expert": 2}}
MIXED_FOUR = {"EP FSDP": {"shard": 4, "expert": 2, "recompute": "full", "reshard": True}}
MIXED_TWO_MORE = {"MoE FSDP": {"shard": 2}, "MoE CP": {"context": 2}, "EP CP": {"context": 2, "expert": 2}}
MIXED_FOUR_MORE = {
    "EP of 4": {"shard": 4, "expert": 4},
    "EP HSDP": {"data": 2, "shard": 2, "expert": 2},
    "EP TP": {"shard": 2, "expert": 2, "tensor": 2},
    "EP PP": {"shard": 2, "expert": 2, "pipeline": 2},
}
MIXED_EIGHT = {"EP TP PP": {"shard": 2, "expert": 2, "tensor": 2, "pipeline": 2}}
MIXED_SCHEDULES = {f"MoE {name}": topology for name, topology in SCHEDULES.items()}
TIED_TWO = {"tied PP 1F1B": {"pipeline": 2}}
TIED_TWO_MORE = {"tied PP ZBV": {"pipeline": 2, "schedule": "zbv"}}
TIED_EIGHT = {"tied FSDP TP PP": {"shard": 2, "tensor": 2, "pipeline": 2, "schedule": "interleaved"}}
SPREAD = {"FSDP TP": {"shard": 2, "tensor": 2}}
SIXTEEN = {
    "all four": {"shard": 2, "tensor": 2, "context": 2, "pipeline": 2},
    "all four, HSDP": {"data": 2, "tensor": 2, "context": 2, "pipeline": 2, "recompute": "full", "reshard": True},
}


def strays(folder: Path, case: Case, topologies: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Run all; the errors of those that are further than LIMIT from one process."""
    sizes = {ParallelSettings(**topology).size for topology in topologies.values()}
    assert len(sizes) == 1
    case.alone(folder / "one")
    run_ranks(*sizes, case.spread_all, folder, topologies, timeout=300)
    found = {name: errors(folder / "one", folder / name) for name in topologies}
    if case.settings.steps == STEPS:
        TABLE.extend((name, case.settings.optimizer, *sizes, *figures) for name, figures in found.items())  # type: ignore[misc]
    return {name: figures for name, figures in found.items() if not max(figures) <= LIMIT}


def test_each_axis_of_two_ranks_equals_one_process(tmp_path: Path) -> None:
    assert strays(tmp_path, FLAT, TWO) == {}


def test_rows_whose_documents_branch_equal_one_process_when_ranks_share_them(tmp_path: Path) -> None:
    how = {"branches, TP": {"tensor": 2}, "branches, CP": {"context": 2}, "branches, PP": {"pipeline": 2}}
    assert strays(tmp_path, BRANCHING, how) == {}


def test_every_pipeline_schedule_equals_one_process(tmp_path: Path) -> None:
    assert strays(tmp_path, DEEP, SCHEDULES) == {}


def test_an_interleaved_pipeline_with_fewer_micro_batches_than_stages_equals_one_process(tmp_path: Path) -> None:
    few = {"PP interleaved, few": {"pipeline": 2, "schedule": "interleaved", "stages": 3}}
    assert strays(tmp_path, Case(4, 2), few) == {}


def test_every_pair_of_axes_equals_one_process(tmp_path: Path) -> None:
    assert strays(tmp_path, FLAT, PAIRS) == {}


def test_muon_on_matrices_in_parts_equals_one_process(tmp_path: Path) -> None:
    assert strays(tmp_path, MUON, SPREAD) == {}


def test_recomputation_changes_nothing(tmp_path: Path) -> None:
    how = {name: {"shard": 2, "recompute": name, "reshard": True} for name in ("full", "selective")}
    assert strays(tmp_path, FLAT, how) == {}


def test_a_mixture_on_two_ranks_equals_one_process(tmp_path: Path) -> None:
    assert strays(tmp_path, MIXED, MIXED_TWO) == {}


def test_experts_shared_out_and_sharded_equal_one_process(tmp_path: Path) -> None:
    assert strays(tmp_path, MIXED, MIXED_FOUR) == {}


def test_a_head_that_is_the_embedding_equals_one_process_at_both_ends_of_a_pipeline(tmp_path: Path) -> None:
    assert strays(tmp_path, TIED, TIED_TWO) == {}


@pytest.mark.slow
@pytest.mark.parametrize("topologies", [TIED_TWO_MORE, TIED_EIGHT])
def test_a_head_that_is_the_embedding_equals_one_process_on_one_rank_and_when_both_are_cut(
    tmp_path: Path, topologies: dict[str, Any]
) -> None:
    assert strays(tmp_path, TIED, topologies) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "topologies"),
    [
        (MIXED, MIXED_TWO_MORE),
        (MIXED, MIXED_FOUR_MORE),
        (MIXED, MIXED_EIGHT),
        (DEEP_MIXED, MIXED_SCHEDULES),
        (MIXED_MUON, MIXED_FOUR),
    ],
)
def test_experts_with_every_other_axis_equal_one_process(
    tmp_path: Path, case: Case, topologies: dict[str, Any]
) -> None:
    assert strays(tmp_path, case, topologies) == {}


@pytest.mark.slow
def test_all_four_axes_at_sixteen_ranks_equal_one_process(tmp_path: Path) -> None:
    assert strays(tmp_path, DEEP, SIXTEEN) == {}
