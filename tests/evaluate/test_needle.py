"""Contexts have exactly the length and the depth that were asked for."""

from __future__ import annotations

import random
import re

import pytest

from herdbook.evaluate.needle import fit, needle_context
from herdbook.evaluate.questions import Question
from herdbook.settings import UserError

NEEDLE = "The secret code of the old mill is red 42."
ENDING = "\nQuestion: What is the secret code of the old mill?\nAnswer:"
WORDS = re.findall(r"\w+", "the baker carried water near a river while seven quiet goats slept under an oak until noon")


def encode(text: str) -> list[int]:
    """Words with the blank before them, and punctuation with line ends, are tokens, as Llama 3's pattern has it."""
    return [hash(piece) for piece in re.findall(r" ?\w+|[^\w\s]+\n*|\s+", text)]


def make_question(sentences: int, seed: int = 0) -> Question:
    draw = random.Random(seed)
    filler = tuple(" ".join(draw.choices(WORDS, k=draw.randint(4, 14))).capitalize() + "." for _ in range(sentences))
    return Question("n", "What is the secret code of the old mill?", "red 42", filler=filler, needle=NEEDLE)


@pytest.mark.parametrize("depth", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("length", [100, 256, 512, 4000])
def test_length_and_depth_are_exact(length: int, depth: float) -> None:
    for seed in range(5):
        question = make_question(60, seed)
        hay = needle_context(question, encode, length, depth, seed)
        assert len(hay.ids) == length and encode(hay.text) == hay.ids
        assert hay.text.count(NEEDLE) == 1 and hay.text.endswith(ENDING)
        front, _, back = hay.text.removesuffix(ENDING).partition(NEEDLE)
        before, after = len(encode(front.rstrip())), len(encode(back))
        assert before / (before + after) == pytest.approx(depth, abs=6 / length)
        assert hay.depth == pytest.approx(before / (before + after), abs=2 / length)
        assert all(sentence in question.filler for sentence in re.findall(r"[A-Z][^.]*\.", front + back))


def test_hay_is_not_repeated_before_all_of_it_was_used() -> None:
    question = make_question(200)
    hay = needle_context(question, encode, 900, 0.5, 1)
    used = re.findall(r"[A-Z][^.]*\.", hay.text.removesuffix(ENDING))
    assert len(used) == len(set(used))


def test_hay_of_one_sentence_still_meets_the_length() -> None:
    question = make_question(1)
    for length in (60, 61, 62, 63, 200, 333):
        assert len(needle_context(question, encode, length, 0.5, 0).ids) == length


def test_a_context_too_short_for_its_needle_is_refused() -> None:
    with pytest.raises(UserError, match="more than 12"):
        needle_context(make_question(5), encode, 12, 0.5, 0)


def test_fit_finds_a_sum_exactly_when_brute_force_does() -> None:
    draw = random.Random(1)
    for _ in range(200):
        lengths = [draw.randint(1, 12) for _ in range(draw.randint(0, 9))]
        target = draw.randint(0, 40)
        subsets = range(1 << len(lengths))
        possible = any(sum(v for i, v in enumerate(lengths) if mask >> i & 1) == target for mask in subsets)
        chosen = fit(lengths, target)
        assert (chosen is not None) == possible
        if chosen is not None:
            assert sum(lengths[i] for i in chosen) == target and len(set(chosen)) == len(chosen)
            assert chosen == sorted(chosen)
