"""The order of data: complete, within documents, a pure function of (seed, step), and of the mix that was asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.settings import UserError
from herdbook.tokens.batches import Batch, PackedBatches
from herdbook.tokens.rows import BestFitRows, best_fit, shuffled
from herdbook.tokens.shards import TokenSet, TokenSets

Packing = Literal["best_fit", "concatenate"]
PACKINGS: list[Packing] = ["best_fit", "concatenate"]
BOS, EOS = 1, 2
GOLDEN_ORDER = [3, 0, 6, 1, 4, 5, 2, 7]


def token_set(lengths: list[int], first: int = 10) -> TokenSet:
    """Documents of these lengths in which every inner token is unlike all others."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(first, first + offsets[-1]).astype(np.uint32)
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = BOS, EOS
    return TokenSet(tokens, offsets, np.array([length * 4 for length in lengths], np.int64))


def token_sets(train: dict[str, list[int]], heldout: dict[str, list[int]] | None = None) -> TokenSets:
    sets = {
        name: {
            "train": token_set(lengths, 10 + 1_000_000 * i),
            "heldout": token_set((heldout or {}).get(name, []), 10 + 1_000_000 * (i + 100)),
        }
        for i, (name, lengths) in enumerate(train.items())
    }
    return TokenSets(Path("memory"), sets, 1 << 31, BOS, EOS, "")


def spans(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Tokens and targets of each run of equal document ids."""
    found = []
    for tokens, targets, ids in zip(batch.tokens, batch.targets, batch.document_ids):
        for id in ids.unique_consecutive():
            where = ids == id
            found.append((tokens[where].tolist(), targets[where].tolist()))
    return found


def brute_force_targets(split: TokenSet) -> Counter[tuple[int, int]]:
    """Every (token, next token of the same document)."""
    return Counter(
        pair
        for i in range(len(split))
        for pair in zip(split.document(i).tolist(), split.document(i)[1:].tolist(), strict=False)
    )


def seen(batches: list[Batch]) -> tuple[Counter[int], Counter[tuple[int, int]]]:
    """The tokens outside padding, and the (token, target) pairs that count."""
    tokens: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        tokens.update(batch.tokens[batch.tokens != 0].tolist())
        counted = batch.targets != -100
        pairs.update(zip(batch.tokens[counted].tolist(), batch.targets[counted].tolist()))
    return tokens, pairs


LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, length=st.integers(2, 40), packing=st.sampled_from(PACKINGS), seed=st.integers(0, 5))
def test_an_epoch_has_every_token_and_every_target_once(
    lengths: list[int], length: int, packing: Packing, seed: int
) -> None:
    sets = token_sets({"a": lengths})
    split = sets.sets["a"]["train"]
    batches = PackedBatches(sets, length=length, rows=1, seed=seed, packing=packing)
    rows = batches.tables["a"].count
    for epoch in (0, 1, 5):
        tokens, pairs = seen([batches.batch(epoch * rows + row) for row in range(rows)])
        assert tokens == Counter(split.tokens.tolist())
        assert pairs == brute_force_targets(split)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, length=st.integers(2, 40), packing=st.sampled_from(PACKINGS))
def test_no_target_and_no_document_id_crosses_documents(lengths: list[int], length: int, packing: Packing) -> None:
    sets = token_sets({"a": lengths})
    split = sets.sets["a"]["train"]
    home = {int(token): i for i in range(len(split)) for token in split.document(i)[1:-1]}
    batches = PackedBatches(sets, length=length, rows=3, seed=7, packing=packing)
    for step in range(4):
        batch = batches.batch(step)
        assert batch.tokens.shape == batch.targets.shape == batch.document_ids.shape == (3, length)
        assert (batch.tokens.dtype, batch.targets.dtype) == (torch.int64, torch.int64)
        assert batch.document_ids.dtype == torch.int32
        for tokens, targets in spans(batch):
            if not any(tokens):
                assert set(targets) == {-100}
                continue
            assert 0 not in tokens
            assert len({home[token] for token in tokens + targets if token in home}) <= 1
            assert targets[:-1] == tokens[1:]
            assert (targets[-1] == -100) == (tokens[-1] == EOS)


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), max_size=80))
def test_best_fit_is_the_textbooks_best_fit_decreasing(lengths: list[int]) -> None:
    falling = np.array(sorted(lengths, reverse=True), np.int64)
    room: list[int] = []
    for length in falling.tolist():
        fitting = [left for left in room if left >= length]
        if fitting:
            room[room.index(min(fitting))] -= length
        else:
            room.append(50 - length)
    rows = best_fit(falling, 50)
    ours = np.bincount(rows, weights=falling) if len(falling) else np.array([])
    assert sorted(50 - ours) == sorted(room)


def test_real_lengths_leave_next_to_no_padding() -> None:
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(5.5, 1, 5000).astype(int), 3, 20_000)
    table = BestFitRows(np.concatenate([[0], np.cumsum(lengths)]), 2048, 0, "a")
    assert table.fill > 0.999


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_batch_is_a_pure_function_of_seed_and_step(packing: Packing) -> None:
    def made(seed: int = 3) -> PackedBatches:
        sets = token_sets({"a": list(range(5, 60)), "b": [7] * 30, "c": [90, 3]})
        return PackedBatches(sets, mix={"a": 2, "b": 1, "c": 1}, length=32, rows=5, seed=seed, packing=packing)

    def content(batch: Batch) -> tuple[Any, ...]:
        return batch.tokens.tolist(), batch.targets.tolist(), batch.document_ids.tolist()

    onwards = made()
    straight = [content(onwards.batch(step)) for step in range(60)]
    again = made()
    for step in [59, 0, 31, 58, 31, 5, 59, *range(60)]:
        assert content(again.batch(step)) == straight[step]
    assert content(made().batch(42)) == straight[42]
    part = made().batch(42, 1, 3)
    assert content(part) == content(onwards.batch(42).rows(1, 3))
    assert content(made(seed=4).batch(42)) != straight[42]


@pytest.mark.parametrize("packing", PACKINGS)
def test_each_epoch_is_shuffled_anew(packing: Packing) -> None:
    sets = token_sets({"a": [8] * 64})
    batches = PackedBatches(sets, length=32, rows=16, seed=0, packing=packing)
    first, second = (spans(batches.batch(epoch)) for epoch in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)
    neighbours = [
        {frozenset(map(tuple, (row[0] for row in epoch[i : i + 4]))) for i in range(0, 64, 4)}
        for epoch in (first, second)
    ]
    assert neighbours[0] != neighbours[1]


def rows_of(batches: PackedBatches, first: int, last: int) -> Counter[str]:
    return Counter(name for step in range(first, last) for name, _, _ in batches.places(step))


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_the_mix_is_kept_to_within_a_few_rows(rows: int) -> None:
    sets = token_sets({"a": [20] * 9, "z": [9], "b": [30] * 5, "c": [5] * 7})
    mix = {"a": 6.0, "b": 3.0, "c": 1.0}
    batches = PackedBatches(sets, mix=mix, length=32, rows=rows, seed=11)
    total: Counter[str] = Counter()
    for step in range(400):
        here = rows_of(batches, step, step + 1)
        assert sum(here.values()) == rows
        for name, weight in mix.items():
            assert abs(here[name] - rows * weight / 10) < 2
            assert abs(total[name] - step * rows * weight / 10) < 5
        assert {name: total[name] for name in sets.names} == batches.given(step)
        total += here
    assert "z" not in total


def test_rows_of_a_set_come_one_after_the_other_across_blocks_of_steps() -> None:
    sets = token_sets({"a": [20] * 50, "b": [30] * 50})
    batches = PackedBatches(sets, mix={"a": 1, "b": 2}, length=32, rows=4, seed=0)
    whole = batches.counts(0, 10_000).cumsum(axis=0)
    for step in (1, *range(4090, 4200), 8192, 9999):
        assert list(batches.given(step).values()) == whole[step - 1].tolist()
    assert batches.epochs(9999)["a"] == pytest.approx(9999 * 4 / 3 / 50, rel=0.01)


def test_a_schedule_changes_the_mix_from_its_step_on_and_nothing_before() -> None:
    sets = token_sets({"a": [20] * 50, "b": [30] * 50})
    plain = PackedBatches(sets, mix={"a": 1}, length=32, rows=4, seed=0)
    changed = PackedBatches(sets, mix=[(0, {"a": 1}), (50, {"a": 1, "b": 3})], length=32, rows=4, seed=0)
    for step in range(50):
        assert torch.equal(plain.batch(step).tokens, changed.batch(step).tokens)
    assert rows_of(changed, 50, 150) == {"a": 100, "b": 300}


def test_without_a_mix_shares_are_by_tokens() -> None:
    batches = PackedBatches(token_sets({"a": [10] * 90, "b": [10] * 10}), length=10, rows=10, seed=0)
    assert rows_of(batches, 0, 100) == {"a": 900, "b": 100}


def test_adding_a_set_leaves_the_order_of_the_others() -> None:
    one = PackedBatches(token_sets({"a": [9, 12, 20] * 9}), length=32, rows=2, seed=5)
    two = PackedBatches(token_sets({"a": [9, 12, 20] * 9, "b": [30]}), mix={"a": 1, "b": 1}, length=32, rows=2, seed=5)
    assert [one.tables["a"].row(3, i) for i in range(9)] == [two.tables["a"].row(3, i) for i in range(9)]


@settings(max_examples=50, deadline=None)
@given(a=LENGTHS, b=st.lists(st.integers(2, 60), max_size=10), length=st.integers(2, 40), rows=st.integers(1, 7))
def test_every_heldout_target_comes_once(a: list[int], b: list[int], length: int, rows: int) -> None:
    sets = token_sets({"a": [5], "b": [5]}, {"a": a, "b": b})
    batches = PackedBatches(sets, length=length, rows=4, seed=0)
    heldout = batches.heldout(rows=rows)
    for _ in range(2):
        tokens, pairs = seen(list(heldout))
        splits = [sets.sets[name]["heldout"] for name in "ab"]
        assert tokens == sum((Counter(split.tokens.tolist()) for split in splits), Counter())
        assert pairs == sum((brute_force_targets(split) for split in splits), Counter())
    assert len(list(heldout)) == len(heldout)
    assert heldout.bytes == 4 * (sum(a) + sum(b))
    assert (heldout.documents, heldout.tokens) == (len(a) + len(b), sum(a) + sum(b))


def test_a_part_of_the_heldout_documents_is_whole_documents_and_their_bytes() -> None:
    sets = token_sets({"a": [5]}, {"a": [10, 70, 15] * 40})
    heldout = PackedBatches(sets, length=32, rows=4, seed=0).heldout("a", max_tokens=1000)
    tokens, pairs = seen(list(heldout))
    assert tokens[BOS] == tokens[EOS] == heldout.documents
    assert sum(tokens.values()) == heldout.tokens == heldout.bytes // 4
    assert 800 < heldout.tokens < 1200
    assert sum(pairs.values()) == heldout.tokens - heldout.documents
    assert not pairs - brute_force_targets(sets.sets["a"]["heldout"])


def test_the_order_is_the_same_on_every_machine() -> None:
    """Golden values: a change here changes the data of every run that is resumed."""
    assert shuffled(8, 1, "a", 0, "rows").tolist() == GOLDEN_ORDER
    counts = Counter(int(shuffled(4, seed)[0]) for seed in range(4000))
    assert all(900 < count < 1100 for count in counts.values())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mix": {"a": 1, "corups": 1}}, "'corups' is not among .*: a, empty"),
        ({"mix": {"a": -1}}, "weight of 'a' is -1"),
        ({"mix": {"a": float("nan")}}, "weight of 'a' is nan"),
        ({"mix": {"a": 0}}, "all weights are 0"),
        ({"mix": {"empty": 1}}, "'empty' has no documents"),
        ({"mix": [(5, {"a": 1})]}, "must start at 0"),
        ({"length": 1}, "rows of 1 tokens"),
        ({"packing": "best-fit"}, "it is one of best_fit, concatenate"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], says: str) -> None:
    sets = token_sets({"a": [5], "empty": []})
    with pytest.raises(UserError, match=says):
        PackedBatches(sets, **({"length": 8, "rows": 2, "seed": 0} | change))
    with pytest.raises(UserError, match="held-out set 'b'"):
        PackedBatches(sets, length=8, rows=2, seed=0).heldout("b")


def test_whole_rows_hold_every_document_that_fits_once_and_none_that_does_not() -> None:
    from herdbook.tokens.rows import WholeRows

    sizes = np.array([5, 40, 16, 9, 17, 2, 100, 7])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    table = WholeRows(offsets, 16, 3, "x")
    spans = [span for row in range(table.count) for span in table.row(0, row)]
    assert not any(span.more for span in spans)
    assert sorted(span.end - span.start for span in spans) == [2, 5, 7, 9, 16]
    assert {span.start for span in spans} <= set(offsets.tolist())
