"""What objectives of sequences build on, against torch on all logits and against sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from herdbook.model.documents import Documents
from herdbook.train.loss import IGNORED
from herdbook.train.metrics import read_metrics
from herdbook.train.nats import branch_sums, document_sums, scores, token_nats
from tests.support.ranks import run_ranks
from tests.train.objectives import PairCase, Preference, Reward, WeightedAnswers
from tests.train.test_loss import inputs
from tests.train.test_parallel import strays

OBJECTIVES = {"weighted": WeightedAnswers(), "DPO": Preference(), "reward": Reward()}
CUT: dict[str, Any] = {"TP CP": {"tensor": 2, "context": 2}}
EVERY: dict[str, Any] = {
    **CUT,
    "FSDP TP": {"shard": 2, "tensor": 2},
    "CP PP": {"context": 2, "pipeline": 2},
    "HSDP": {"data": 2, "shard": 2},
}


@pytest.mark.parametrize("chunk", [3, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_each_tokens_cost_and_gradients_equal_those_of_all_logits(
    dtype: torch.dtype, tolerance: float, chunk: int
) -> None:
    found = []
    for ours in (True, False):
        hidden, weight, targets = inputs(dtype)
        if ours:
            nats = token_nats(hidden, weight, targets, chunk)
        else:
            nats = F.cross_entropy(hidden @ weight.t(), targets, ignore_index=IGNORED, reduction="none")
        nats.square().sum().backward()  # a function that a sum of the costs would not do for
        found.append([nats.detach(), hidden.grad, weight.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_scores_are_the_heads_product() -> None:
    hidden, weight, _ = inputs(torch.float64)
    torch.testing.assert_close(scores(hidden, weight[:1]), hidden @ weight[:1].t())
    single = [one.detach().float() for one in (hidden, weight[:1])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = scores(*single)
    torch.testing.assert_close(exact, single[0] @ single[1].t(), rtol=1e-6, atol=1e-6)  # products in bf16 would stray


def test_sums_over_documents_are_those_by_hand() -> None:
    documents = Documents.from_ids(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]))
    values = torch.arange(10.0).view(2, 5)
    assert document_sums(nn.Identity(), values, documents).tolist() == [1.0, 9.0, 26.0, 9.0]


def test_sums_over_branches_are_those_by_hand() -> None:
    documents = Documents.from_ids(torch.tensor([[0, -1, -1, -2, 1], [0, 0, 1, -1, -1]]))
    values = torch.arange(10.0).view(2, 5)
    assert branch_sums(nn.Identity(), values, documents, 3).tolist() == [[3.0, 3.0, 0.0], [17.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    "name", ["DPO", *(pytest.param(name, marks=pytest.mark.slow) for name in ("weighted", "reward"))]
)
def test_every_objective_equals_one_process_when_words_and_rows_are_cut(tmp_path: Path, name: str) -> None:
    case = PairCase(OBJECTIVES[name], 2, 2, steps=3)
    assert strays(tmp_path, case, {f"{name}: {how}": topology for how, topology in CUT.items()}) == {}
    records = [read_metrics(folder / "metrics.jsonl") for folder in (tmp_path / "one", tmp_path / f"{name}: TP CP")]
    for key in ("counted", "tokens", *(["accuracy"] if name == "DPO" else [])):
        assert [record[key] for record in records[0]] == pytest.approx([record[key] for record in records[1]]), key


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{}, {"experts": 4, "router_loss": 0.5}])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_equals_one_process_on_every_axis(tmp_path: Path, name: str, shape: dict[str, Any]) -> None:
    case = PairCase(OBJECTIVES[name], 2, 2, shape)
    kind = "MoE " if shape else ""
    assert strays(tmp_path, case, {f"{name}: {kind}{how}": topology for how, topology in EVERY.items()}) == {}


def small_head(hidden: Any, weight: Any, spread: bool) -> tuple[Any, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    hidden, weight = hidden.clone().requires_grad_(), weight.clone()
    if spread:
        weight = distribute_tensor(weight, init_device_mesh("cpu", (2,)), [Shard(0)])
    weight.requires_grad_()
    scores(hidden, weight).square().sum().backward()
    grad = weight.grad.full_tensor() if spread else weight.grad
    return hidden.grad, grad


def test_a_head_of_one_word_is_scored_where_ranks_have_none() -> None:
    hidden, weight, _ = inputs(torch.float64)
    hidden, weight = hidden.detach(), weight.detach()[:1]
    wanted = small_head(hidden, weight, spread=False)
    parts = run_ranks(2, small_head, hidden, weight, True)
    torch.testing.assert_close(sum(part[0] for part in parts), wanted[0])
    for _, grad in parts:
        torch.testing.assert_close(grad, wanted[1])
