"""Answers that branch from one prompt in a row, against each of them behind its prompt alone."""

from __future__ import annotations

import pytest
import torch

from herdbook.model import attention, cpu_attention
from herdbook.model.documents import Documents
from herdbook.model.transformer import Transformer
from tests.support.models import tiny_model

# Two rows: (document, and how many tokens); a negative document goes on from the last that is not.
ROWS = [
    [(0, 5), (-1, 4), (-2, 7), (-1, 1), (1, 3), (2, 6), (-1, 3), (3, 3)],
    [(7, 4), (-1, 9), (-3, 2), (0, 17)],
]


def packed(vocabulary: int = 97) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.stack([torch.cat([torch.full((size,), name) for name, size in row]) for row in ROWS])
    tokens = torch.randint(0, vocabulary, ids.shape, generator=torch.Generator().manual_seed(3))
    return tokens, ids


def by_hand() -> list[tuple[int, list[int], int]]:
    """Of each document its row, the places of all it is made of, and how many of these are its own."""
    found = []
    for number, row in enumerate(ROWS):
        at, trunk = 0, []
        for name, size in row:
            own = list(range(at, at + size))
            found.append((number, [*(trunk if name < 0 else []), *own], size))
            trunk = trunk if name < 0 else own
            at += size
    return found


def alone(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(*tokens.shape, model.config.dim, dtype=torch.float64)
    for row, places, own in by_hand():
        found[row, places[-own:]] = model.hidden(tokens[row, places].unsqueeze(0))[0, -own:]
    return found


@pytest.mark.parametrize("way", ["blocks", "pieces", "mask"])
def test_answers_in_one_row_are_what_each_is_behind_its_prompt_alone(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "blocks":
        monkeypatch.setattr(cpu_attention, "LONGEST", 0)
    if way == "mask":
        monkeypatch.setattr(
            attention, "_per_document", lambda q, k, v, documents: attention._causal(q, k, v, documents.mask)
        )
    monkeypatch.setattr(cpu_attention, "BLOCK", 3)  # documents of several blocks, some cut
    tokens, ids = packed()
    weights = torch.randn(*ids.shape, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = []
    for rows_together in (True, False):
        model = tiny_model(seed=1).double()
        hidden = model.hidden(tokens, Documents.from_ids(ids)) if rows_together else alone(model, tokens)
        (hidden * weights).sum().backward()
        found.append([hidden.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_what_documents_tell_of_branches_is_what_is_counted_by_hand() -> None:
    _, ids = packed()
    documents, hand = Documents.from_ids(ids), by_hand()
    assert documents.seen_lengths == [len(places) for _, places, _ in hand]
    assert documents.seen_places.tolist() == [row * ids.shape[1] + place for row, places, _ in hand for place in places]
    for row, places, own in hand:
        assert documents.positions[row, places[-own:]].tolist() == list(range(len(places)))[-own:]
    assert documents.mean_attended * ids.numel() == documents.mask.sum()
    assert documents.longest == 17 and not documents.whole_rows


def test_a_branch_at_a_rows_start_has_no_trunk() -> None:
    documents = Documents.from_ids(torch.tensor([[0, 0, -1, -1], [-1, -1, -2, 0]]))
    assert documents.seen_lengths == [2, 4, 2, 1, 1]
    assert documents.positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert documents.mask[1, 0].sum() == 5
