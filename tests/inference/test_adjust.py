"""Penalties, bias and masks against transformers' processors and OpenAI's formula written out; log-probabilities."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from herdbook.inference.adjust import Adjuster, allowed
from herdbook.inference.engine import Engine, Sampling
from herdbook.model.huggingface import load_model
from tests.support.models import tiny_model, tiny_peer
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
SIZE = {"vocab_size": TOKENIZER.vocab_size}
PROMPT = [TOKENIZER.bos_id, 5, 9, 9, 200, 31]
V = 20


def adjusted(sampling: Sampling, prompt: list[int], drawn: list[int], row: torch.Tensor) -> torch.Tensor:
    adjuster = Adjuster.of(sampling, prompt)
    assert adjuster is not None
    for token in drawn:
        adjuster.take(token)
    out = row.clone()
    adjuster.apply(out)
    return out


tokens = st.lists(st.integers(0, V - 1), max_size=12)


@settings(max_examples=50, deadline=None)
@given(tokens.filter(bool), tokens, st.floats(0.3, 3).filter(lambda p: p != 1), st.integers(0, 99))
def test_the_repetition_penalty_is_transformers(prompt: list[int], drawn: list[int], penalty: float, seed: int) -> None:
    row = torch.randn(V, generator=torch.Generator().manual_seed(seed))
    want = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + drawn]), row[None].clone())[0]
    torch.testing.assert_close(adjusted(Sampling(repetition_penalty=penalty), prompt, drawn, row), want)


@settings(max_examples=50, deadline=None)
@given(tokens, st.floats(-2, 2), st.floats(-2, 2), st.dictionaries(st.integers(0, V - 1), st.floats(-100, 100)))
def test_presence_frequency_and_bias_are_openais(
    drawn: list[int], presence: float, frequency: float, bias: dict[int, float]
) -> None:
    row = np.linspace(-3, 3, V)
    counts = Counter(drawn)
    want = [
        row[j] + bias.get(j, 0) - counts[j] * frequency - (1.0 if counts[j] > 0 else 0.0) * presence for j in range(V)
    ]
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias)
    if Adjuster.of(sampling, [1]) is None:
        return
    got = adjusted(sampling, [1], drawn, torch.tensor(row))
    np.testing.assert_allclose(got.numpy(), want, atol=1e-4)


@given(st.sets(st.integers(0, 99)), st.integers(60, 130))
def test_masks_are_read_bit_by_bit(tokens: set[int], vocabulary: int) -> None:
    words = np.zeros(4, np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    got = allowed(words.view(np.int32), vocabulary)
    assert got.nonzero()[:, 0].tolist() == sorted(token for token in tokens if token < vocabulary)


class Spell:
    """A constraint that lets one text through."""

    def __init__(self, ids: list[int]) -> None:
        self.left = list(ids)

    def mask(self) -> torch.Tensor:
        words = np.zeros(-(-TOKENIZER.vocab_size // 32), np.uint32)
        words[self.left[0] // 32] = np.uint32(1 << self.left[0] % 32)
        return torch.from_numpy(words.view(np.int32))

    def take(self, token: int) -> None:
        assert token == self.left.pop(0)

    @property
    def ended(self) -> bool:
        return not self.left


def test_a_constraint_rules_what_is_drawn_and_when_it_ends() -> None:
    engine = Engine(tiny_model(**SIZE), TOKENIZER, [])
    texts = ["Kuh", "Kälber", "!"]
    samplings = [
        Sampling(max_tokens=30, temperature=n / 2, constraint=Spell(TOKENIZER.encode(text)))
        for n, text in enumerate(texts)
    ]
    free = Sampling(max_tokens=12)
    got = engine.generate([PROMPT] * 4, [*samplings, free])
    assert [(one.text, one.finish_reason) for one in got[:3]] == [(text, "stop") for text in texts]
    assert got[3] == engine.generate([PROMPT], free)[0]


def test_greedy_answers_with_a_repetition_penalty_are_transformers(tmp_path: Path) -> None:
    peer = tiny_peer(**SIZE)
    peer.save_pretrained(tmp_path)
    engine = Engine(load_model(tmp_path), TOKENIZER, [])
    ids = torch.tensor([PROMPT])
    out = peer.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=40,
        do_sample=False,
        repetition_penalty=1.3,
        eos_token_id=None,
        pad_token_id=0,
    )
    got = engine.generate([PROMPT] * 2, [Sampling(max_tokens=40, repetition_penalty=1.3), Sampling(max_tokens=40)])
    assert got[0].token_ids == out[0, len(PROMPT) :].tolist() != got[1].token_ids


@pytest.mark.parametrize("compile", ["no", "auto"])
def test_logprobs_equal_transformers(compile: Any, tmp_path: Path) -> None:
    """Of prompts and answers, in small steps, drawn by chance and with penalties: always the raw distribution's."""
    peer = tiny_peer(**SIZE)
    peer.save_pretrained(tmp_path)
    engine = Engine(load_model(tmp_path), TOKENIZER, [], step_tokens=7, rows=6, blocks=12, compile=compile)
    rng = random.Random(2)
    prompts = [[rng.randrange(256) for _ in range(n)] for n in (1, 9, 40, 40, 2)]
    prompts[3][:20] = prompts[2][:20]
    samplings = [
        Sampling(max_tokens=12, temperature=1.0, top_p=0.8, presence_penalty=0.5, logprobs=n, prompt_logprobs=5 - n)
        for n in range(5)
    ]
    samplings.append(Sampling(max_tokens=0, prompt_logprobs=1))
    for prompt, sampling, got in zip(
        [*prompts, prompts[2]], samplings, engine.generate([*prompts, prompts[2]], samplings), strict=True
    ):
        assert got.prompt_logprobs is not None and len(got.token_ids) == sampling.max_tokens
        found = got.prompt_logprobs + (got.logprobs or [])
        ids = prompt + got.token_ids
        with torch.no_grad():
            want = peer(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        assert found[0] is None and len(found) == len(ids)
        for place, one in enumerate(found[1:]):
            count = sampling.prompt_logprobs if place + 1 < len(prompt) else sampling.logprobs
            assert one is not None and one.token == ids[place + 1]
            assert one.logprob == pytest.approx(want[place, one.token].item(), abs=1e-4)
            best, order = want[place].topk(count or 0)
            assert [token for token, _ in one.top] == order.tolist()
            assert [value for _, value in one.top] == pytest.approx(best.tolist(), abs=1e-4)
