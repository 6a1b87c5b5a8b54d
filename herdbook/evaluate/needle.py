"""Needle in a haystack (§5.2.6): contexts of an exact length in tokens with one sentence at an exact depth.

Only whole sentences are used, in the form a model was trained on: `context\\nQuestion: …\\nAnswer:`. Which sentences
fill each side is a small subset-sum problem, so that length and depth are met to the token and not only about.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from herdbook.evaluate.questions import Question
from herdbook.settings import UserError

Encode = Callable[[str], list[int]]
TRIES = 60
CHOSEN_EXACTLY = 24  # sentences at the end of a side that are chosen to fit; those before are taken as they come


@dataclass(frozen=True)
class Haystack:
    """A context as text and ids, and where in it the needle begins."""

    text: str  # empty where hay had to be cut between tokens
    ids: list[int]  # the whole prompt, without the token that begins a text
    depth: float  # share of the hay that lies before the needle, tokens


def fit(lengths: Sequence[int], target: int) -> list[int] | None:
    """Indexes, in order, of lengths that sum to `target` exactly, each used once; None when none do."""
    reached: dict[int, tuple[int, int] | None] = {0: None}  # sum -> (index added last, sum before)
    for index, length in enumerate(lengths):
        for total in list(reached):
            grown = total + length
            if grown <= target and grown not in reached:
                reached[grown] = (index, total)
        if target in reached:
            break
    if target not in reached:
        return None
    chosen, step = [], reached[target]
    while step is not None:
        chosen.append(step[0])
        step = reached[step[1]]
    return chosen[::-1]


def fill(sentences: Sequence[str], lengths: Sequence[int], target: int, order: list[int]) -> list[str] | None:
    """Sentences that are `target` tokens together, in `order`, the least used first; None when none sum to it.

    What is taken moves to the end of `order`, so hay longer than all sentences goes round them again.
    """
    taken: list[int] = []
    left, average = target, sum(lengths) / len(lengths)
    while left > CHOSEN_EXACTLY / 2 * average:
        taken.append(order.pop(0))
        order.append(taken[-1])
        left -= lengths[taken[-1]]
    for candidates in (order[:CHOSEN_EXACTLY], order * 2):
        chosen = fit([lengths[index] for index in candidates], left)
        if chosen is not None:
            picked = [candidates[position] for position in chosen]
            for index in dict.fromkeys(picked):
                order.remove(index)
                order.append(index)
            return [sentences[index] for index in [*taken, *picked]]
    return None


def needle_context(
    question: Question,
    encode: Encode,  # text to ids, nothing added
    length: int,  # tokens of the whole prompt
    depth: float,  # 0 for the needle at the start, 1 at the end
    seed: int,
) -> Haystack:
    """The prompt of exactly `length` tokens with the needle at `depth`; `UserError` when it cannot hold the needle."""
    ending = f"\nQuestion: {question.text}\nAnswer:"
    lengths = [len(encode(f" {sentence}")) for sentence in question.filler]
    room = aim = length - len(encode(f"{question.needle}{ending}"))
    if room < 0:
        raise UserError(f"needle {question.id}: needle and question take {length - room} tokens, more than {length}")
    order = list(range(len(question.filler)))
    random.Random(seed).shuffle(order)
    # Not every sum can be had, and at a border tokens may join: aim again, a little off.
    for attempt in range(TRIES):
        shift = 0 if depth in (0, 1) else (attempt + 1) // 2 * (1 if attempt % 2 else -1)
        before = min(aim, max(0, round(depth * aim) + shift))
        front = fill(question.filler, lengths, before, order)
        back = fill(question.filler, lengths, aim - before, order)
        if front is None or back is None:
            aim += (depth in (0, 1)) * (-1) ** attempt * attempt
            continue
        text = " ".join([*front, question.needle, *back]) + ending
        ids = encode(text)
        if len(ids) == length:
            return Haystack(text, ids, before / aim if aim else depth)
        aim = max(0, aim + length - len(ids))
    return cut_context(question, encode, length, depth, order)


def cut_context(question: Question, encode: Encode, length: int, depth: float, order: Sequence[int]) -> Haystack:
    """Where whole sentences cannot meet the length (too few, or too little room): hay cut between tokens."""
    needle = encode(f" {question.needle}" if depth > 0 else question.needle)
    ending = encode(f"\nQuestion: {question.text}\nAnswer:")
    room = max(0, length - len(needle) - len(ending))
    before = round(depth * room)
    once = encode("".join(f" {question.filler[index]}" for index in order))
    hay = once * (room // len(once) + 2)
    ids = [*hay[len(hay) - before :], *needle, *hay[: room - before], *ending]
    return Haystack("", ids, before / room if room else depth)
