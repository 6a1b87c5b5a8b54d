"""Each rank makes only its own rows of a batch, and together they are the whole batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from herdbook.tokens.shards import TokenSets
from herdbook.train.parallel import Parallel, RankBatches
from herdbook.train.phased import PhasedBatches
from herdbook.train.phases import Plan
from tests.pretrain.test_stages import tokens  # noqa: F401  (a fixture)
from tests.train.support import RandomBatches, tiny_settings


def of_rank(source: Any, rank: int, ranks: int) -> RankBatches:
    settings, place = SimpleNamespace(row_ranks=ranks), SimpleNamespace(row_rank=rank)
    parallel: Any = SimpleNamespace(settings=settings, ranks=place, context=None)
    return RankBatches(source, parallel, partial(Parallel.part, parallel))


def test_ranks_make_their_own_rows_alone(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    settings = tiny_settings(steps=6, rows=4, length=32, phases=[{"after_steps": 3, "rows": 8, "length": 64}])
    source = PhasedBatches(TokenSets.open(tokens), Plan.of(settings), 0)
    for step in range(6):
        whole = source.batch(step)
        parts = [of_rank(source, rank, 4).batch(step) for rank in range(4)]
        assert [len(part) for part in parts] == [len(whole) // 4] * 4
        for name in ("tokens", "targets", "document_ids"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    made: list[int] = []
    plain = type(source.runs[0]).batch
    monkeypatch.setattr(
        type(source.runs[0]), "batch", lambda self, *given: (made.append(given[2] - given[1]), plain(self, *given))[1]
    )
    of_rank(source, 1, 4).batch(0)
    assert made == [1]


def test_a_source_that_only_makes_whole_batches_is_cut() -> None:
    source = RandomBatches(rows=4)
    assert torch.equal(of_rank(source, 1, 2).batch(3).tokens, source.batch(3).tokens[2:])
