"""One process recomputes and compiles as many do: the same gradients, fewer activations kept."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from herdbook.model.documents import Documents
from herdbook.train.alone import alone, compile_block
from herdbook.train.peak import Tracker
from herdbook.train.settings import TrainSettings
from tests.support.models import tiny_model

TOKENS, LAYERS = 96, 4


def gradients(model: Any, tracker: Any = None) -> tuple[list[Tensor], int]:
    """(gradients of all weights, bytes kept from forward to backward); nothing is compiled while bytes are counted."""
    tracker = tracker or Tracker()
    tokens = torch.arange(2 * TOKENS).view(2, TOKENS) % model.config.vocab_size
    documents = Documents.from_ids((torch.arange(TOKENS) // 30).int().expand(2, -1))
    with tracker:
        hidden = model.hidden(tokens, documents)
        kept = getattr(tracker, "now", 0)
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return [weight.grad for weight in model.parameters() if weight.grad is not None], kept


def far(ours: list[Tensor], theirs: list[Tensor]) -> float:
    assert len(ours) == len(theirs) > 10
    return max(float((one - other).norm() / other.norm()) for one, other in zip(ours, theirs))


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({"steps": 1, **changes})


def test_one_process_recomputes_as_its_settings_say() -> None:
    plain, most = gradients(alone(tiny_model(layers=LAYERS), settings()))
    kept = most
    for how in ("selective", "full"):
        same, fewer = gradients(alone(tiny_model(layers=LAYERS), settings(parallel={"recompute": how})))
        assert far(same, plain) == 0
        assert fewer < kept
        kept = fewer
    assert 2.5 * kept < most


@pytest.mark.slow
def test_compiled_blocks_have_the_gradients_of_plain_ones() -> None:
    plain, _ = gradients(tiny_model())
    compiled: nn.Module = tiny_model()
    for block in compiled.get_submodule("blocks").children():
        compile_block(block)
    assert far(gradients(compiled, nullcontext())[0], plain) < 1e-5
    seen = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert seen >= 2, "nothing was compiled"
    fed, _ = gradients(alone(tiny_model(), settings(compile=True)), nullcontext())
    assert far(fed, plain) < 1e-5
