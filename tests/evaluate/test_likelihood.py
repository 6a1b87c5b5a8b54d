"""What documents cost, side by side in rows, against each read alone with every probability written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from herdbook.evaluate.likelihood import counted_nats
from herdbook.tokens.memory import token_set
from tests.support.models import tiny_model


@pytest.mark.parametrize("at_once", [1, 30, 8192])
@pytest.mark.parametrize("some", [False, True])
def test_each_document_costs_what_it_costs_alone(at_once: int, some: bool) -> None:
    draw = np.random.default_rng(0)
    documents = [draw.integers(0, 97, size).tolist() for size in (2, 11, 1, 20, 7)]
    flags = [(draw.random(len(ids)) < 0.5).tolist() for ids in documents] if some else None
    model = tiny_model()
    wanted = []
    for number, ids in enumerate(documents):
        with torch.no_grad():
            costs = -model(torch.tensor([ids]))[0].double().log_softmax(-1)
        counted = flags[number] if flags is not None else [True] * len(ids)
        wanted.append(sum(float(costs[i - 1, ids[i]]) for i in range(1, len(ids)) if counted[i]))
    found = counted_nats(model.eval(), token_set(documents, flags), at_once)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
