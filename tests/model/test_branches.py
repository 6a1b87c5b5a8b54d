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


def test_a_variable_length_call_is_given_what_each_branch_sees() -> None:
    """With a stand-in for the accelerator's kernel, whose queries belong to the last keys of a document, as its do."""
    generator, (_, ids) = torch.Generator().manual_seed(2), packed()
    documents = Documents.from_ids(ids)
    query = torch.randn(*ids.shape, 4, 8, generator=generator)
    key, value = torch.randn(2, *ids.shape, 2, 8, generator=generator)

    def kernel(q, k, v, cu_q, cu_k, max_q, max_k, *, window_size, enable_gqa):  # type: ignore[no-untyped-def]
        assert window_size == (-1, 0) and enable_gqa and cu_q.dtype == cu_k.dtype == torch.int32
        assert max_q >= cu_q.diff().max() and max_k >= cu_k.diff().max()
        out = torch.empty_like(q)
        for (a, b), (c, d) in zip(cu_q.unfold(0, 2, 1).tolist(), cu_k.unfold(0, 2, 1).tolist(), strict=True):
            seen = torch.ones(b - a, d - c, dtype=torch.bool).tril(d - c - (b - a))
            parts = (x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d]))
            mixed = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=seen, enable_gqa=True)
            out[a:b] = mixed.transpose(0, 1)
        return out

    found = attention._variable_length(kernel, query, key, value, documents)
    torch.testing.assert_close(found, attention._causal(query, key, value, documents.mask))


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
