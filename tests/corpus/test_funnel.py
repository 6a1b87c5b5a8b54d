"""The funnel's rows against counting one document at a time."""

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.funnel import funnel_rows
from herdbook.corpus.rules import LINE_RULE, Rule

RULES = [
    Rule(name="one", column="a", above=0),
    Rule(name="two", column="b", above=0),
    Rule(name="one", column="c", above=0),
    Rule(name=LINE_RULE, column="d", below=1),
]


@given(st.integers(0, 40), st.integers(0, 5), st.integers(0, 10_000))
def test_rows_are_what_counting_gives_and_nothing_is_lost(count: int, quarantined: int, seed: int) -> None:
    draw = random.Random(seed)
    dropped = [draw.randint(-1, 3) for _ in range(count)]
    lengths = [draw.randint(0, 500) for _ in range(count)]
    # Kept texts may be shorter than they were read, by the lines they lost.
    kept = sum(draw.randint(0, n) for n, rule in zip(lengths, dropped) if rule < 0)
    decision = SimpleNamespace(rules=RULES, dropped=np.array(dropped, dtype=np.int16))
    rows = funnel_rows(decision, np.array(lengths, dtype=np.int64), quarantined, {"kept_characters": kept})
    assert [row["rule"] for row in rows] == ["read", "quarantine", "one", "two", LINE_RULE]
    assert rows[0]["left"] == count + quarantined and rows[1]["left"] == count
    named = [RULES[rule].name if rule >= 0 else None for rule in dropped]
    for row in rows[2:]:
        assert row["dropped"] == named.count(row["rule"])
    for row in rows[2:4]:
        assert row["dropped_characters"] == sum(n for n, rule in zip(lengths, named) if rule == row["rule"])
    for before, row in pairwise(rows):
        assert row["left"] == before["left"] - row["dropped"]
        assert row["left_characters"] == before["left_characters"] - row["dropped_characters"]
    assert rows[-1]["left"] == named.count(None) and rows[-1]["left_characters"] == kept
