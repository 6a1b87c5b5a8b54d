"""What rival answers share is left out of the preference loss: alignments by definition, the loss by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from herdbook.model.huggingface import load_model
from herdbook.posttrain.answers import batches_of
from herdbook.posttrain.preference import PreferenceObjective
from herdbook.posttrain.preference_batches import CONTENT, FORMAT, NO_RANK, Answer, Example, encode_all
from herdbook.posttrain.preferences import read_preference
from herdbook.posttrain.shared_tokens import shared, without_shared
from herdbook.tokens.tokenizer import Tokenizer
from tests.posttrain.test_preference import settings

IDS = st.lists(st.integers(0, 5), max_size=14)


def common(one: list[int], other: list[int]) -> int:
    """Length of the longest common subsequence, by its recursion."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


@given(IDS, IDS, IDS, IDS)
def test_what_is_shared_stands_in_both_in_the_same_order(
    one: list[int], other: list[int], head: list[int], tail: list[int]
) -> None:
    found = [one[place] for place in np.flatnonzero(shared(np.array(one), np.array(other)))]
    left = iter(other)
    assert all(any(item == rest for rest in left) for item in found)
    assert len(found) <= common(one, other) and bool(found) == bool({*one} & {*other})
    # Around one token that the other has nowhere, all is found.
    whole = np.array([*head, 9, *tail])
    apart = shared(whole, np.array([*head, 8, *tail]))
    assert apart.sum() <= len(head) + len(tail) and not apart[len(head)]
    assert shared(np.array(one), np.array(one)).all()


def test_tokens_that_come_often_in_long_answers_are_found_too() -> None:
    line = [1, 2] * 150
    assert shared(np.array([9, *line]), np.array([8, 7, *line])).tolist() == [False] + [True] * 300


def test_of_three_answers_only_what_every_rival_has_is_left_out_and_kinds_of_others_stay() -> None:
    def answer(ids: list[int], rank: float) -> Answer:
        kinds = np.full(len(ids) - 1, CONTENT, np.uint8)
        kinds[-1] = FORMAT
        return Answer(np.array(ids, np.uint32), kinds, rank)

    best, middle, worst = answer([0, 1, 2, 3, 9], 2.0), answer([0, 1, 4, 3, 9], 1.0), answer([0, 1, 2, 5, 9], 0.0)
    elsewhere = answer([0, 1, 2, 3, 9], NO_RANK)
    found = without_shared(Example(np.array([7]), (best, middle, worst, elsewhere))).answers
    marked = [[int(kind == FORMAT) for kind in one.kinds] for one in found]
    assert marked == [[1, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]]
    assert [one.rank for one in found[:3]] == [2.0, 1.0, 0.0]
    same = Example(np.array([7]), (best, answer([0, 1, 2, 3, 9], 2.0)))
    assert [one.kinds.tolist() for one in without_shared(same).answers] == [best.kinds.tolist()] * 2


def test_dpos_loss_is_that_of_the_tokens_that_differ_and_the_cost_of_all(base: Path, chat_tokenizer: Tokenizer) -> None:
    from transformers import AutoModelForCausalLM

    said = {"chosen": "She is in the XJK with her lambs.", "rejected": "She is in the QZVQ with her lambs."}
    row: dict[str, Any] = {"id": "1", "prompt": [{"role": "user", "content": "Where is she?"}], "round": 1}
    row |= {side: [{"role": "assistant", "content": text}] for side, text in said.items()}
    (example,) = encode_all(chat_tokenizer, [read_preference(row, "here")], 128)
    data = batches_of(settings(mask="shared"), [without_shared(example)])
    data.reference = np.array([[-3.0, -20.0], [-2.0, -30.0]], np.float32)
    model = load_model(base / "model", dtype=torch.float64)
    ours = PreferenceObjective(settings(mask="shared"))(model, data.batch(0, 0, 1))
    peer = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float64)
    ids = [[int(one) for one in answer.ids[1:]] for answer in example.answers]
    head = next(place for place, (a, b) in enumerate(zip(*ids)) if a != b)
    tail = next(place for place, (a, b) in enumerate(zip(*(each[::-1] for each in ids))) if a != b)
    gains, costs = [], []
    for place, answer in enumerate(example.answers):
        whole = torch.tensor([[*example.trunk.tolist(), *map(int, answer.ids)]])
        each = peer(whole).logits.log_softmax(-1)[0, :-1].gather(1, whole[0, 1:, None])[-len(ids[place]) :, 0]
        learnt = each[torch.from_numpy(answer.kinds > 0)]
        # From the first token that differs to the last; the names have no token in common.
        gains.append(each[head : len(each) - tail].sum() - float(data.reference[place, 1]))
        costs.append(-learnt.mean())
    wanted = -F.logsigmoid(0.1 * (gains[0] - gains[1])) + 0.2 * costs[0]
    torch.testing.assert_close(ours.total, wanted, rtol=1e-6, atol=1e-6)
    assert head > 3 and tail > 3 and ours.count == 1
