"""Training in float8, emulated on a CPU: near to bf16, only where it may be, and told where it can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.model.huggingface import load_model, save_model
from herdbook.settings import UserError
from herdbook.train.float8 import lacking, to_float8
from herdbook.train.gradients import judged
from herdbook.train.loop import train
from herdbook.train.metrics import read_metrics
from herdbook.train.objective import NextToken
from herdbook.train.start import applied, joined
from herdbook.train.topology import ParallelSettings
from tests.support.models import tiny_config, tiny_model
from tests.support.ranks import run_ranks
from tests.train.support import OneBatch, RandomBatches, tiny_settings

CPU = torch.device("cpu")
BATCH = RandomBatches(rows=4, length=32).batch(0)


def losses(folder: Path, precision: str, **changes: Any) -> list[float]:
    """Of a model that learns one batch by heart."""
    settings = tiny_settings(
        steps=20, length=32, precision=precision, optimizer="adamw", schedule="constant", **changes
    )
    parallel = joined(settings.parallel)
    model: Any = tiny_model()
    if parallel is not None:
        model = applied(parallel, model, settings)
    train(model, NextToken(), OneBatch(BATCH), settings, folder, parallel=parallel)
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl")]


def apart(some: list[float], others: list[float]) -> float:
    """Largest difference as a share of the first loss: what is learnt by heart ends near 0."""
    return max(abs(one - other) for one, other in zip(some, others, strict=True)) / others[0]


@pytest.mark.parametrize("scales", ["rowwise", pytest.param("tensorwise", marks=pytest.mark.slow)])
def test_emulated_float8_learns_as_bf16_does(tmp_path: Path, scales: str) -> None:
    bf16 = losses(tmp_path / "bf16", "bf16")
    found = losses(tmp_path / "float8", "float8", float8=scales)
    assert bf16[-1] < 0.6 * bf16[0]
    assert 0 < apart(found, bf16) < 0.02


def spread(folder: Path, topology: dict[str, int]) -> list[float]:
    return losses(folder, "float8", parallel=ParallelSettings(**topology))  # type: ignore[arg-type]


@pytest.mark.parametrize("topology", [{"shard": 2}, pytest.param({"tensor": 2}, marks=pytest.mark.slow)])
def test_float8_on_two_ranks_learns_as_on_one(tmp_path: Path, topology: dict[str, int]) -> None:
    alone = losses(tmp_path / "one", "float8")
    found = run_ranks(2, spread, tmp_path / "two", topology)[0]
    assert apart(found, alone) < 0.02


def test_only_matrices_of_attention_and_dense_feed_forwards_are_changed(tmp_path: Path) -> None:
    for shape, count in (({}, 7), ({"experts": 4}, 4)):
        model = tiny_model(layers=1, **shape)
        names = [name for name, _ in model.named_parameters()]
        to_float8(model, "rowwise", CPU)
        changed = [name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"]
        assert len(changed) == count
        assert [name for name, _ in model.named_parameters()] == names
        save_model(model, tmp_path, bos_id=1, eos_ids=[2])
        for weight, other in zip(load_model(tmp_path).parameters(), tiny_model(layers=1, **shape).parameters()):
            assert torch.equal(weight, other)
    with torch.no_grad():
        assert float(judged(model, NextToken(), BATCH)) > 0


def test_where_float8_can_not_be_is_told() -> None:
    assert lacking(None) is lacking((9, 0)) is lacking((8, 9)) is None
    assert "compute capability 8.9 or later (Ada, Hopper), this one has 8.0" in str(lacking((8, 0)))
    small = tiny_model(dim=24, ffn_dim=40, heads=3, kv_heads=3)
    with pytest.raises(UserError, match=r"no matrix of the blocks .* multiples of 16 \(dim=24, ffn_dim=40\)"):
        to_float8(small, "rowwise", CPU)
    assert tiny_config().ffn_dim % 32  # so that with two cuts attention alone is left
    model = tiny_model(layers=1)
    to_float8(model, "rowwise", CPU, cuts=2)
    assert sum(type(module).__name__ == "Float8Linear" for module in model.modules()) == 2
