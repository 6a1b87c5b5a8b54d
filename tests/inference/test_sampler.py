"""Draws follow the softmax, cuts keep exactly the tokens they should, chance depends on seed and step only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from herdbook.inference.sampler import Sampler, Sampling, request_key, uniforms

LOGITS = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 2
DRAWS = 20_000


def draws(sampling: Sampling, logits: Tensor = LOGITS, count: int = DRAWS) -> np.ndarray:
    """How often each token comes in `count` steps of one request."""
    sampler = Sampler([sampling] * count, [request_key(sampling.seed, [1, 2], 0)] * count, "cpu")
    tokens = sampler.draw(logits.expand(count, -1), list(range(count)))
    return np.bincount(tokens.numpy(), minlength=logits.shape[-1])


def allowed(sampling: Sampling, logits: Tensor) -> np.ndarray:
    """The probabilities that temperature, top-k and top-p leave, written out."""
    p = (logits[0].double() / sampling.temperature).softmax(0).numpy()
    order = np.argsort(-p, kind="stable")
    kept = list(order[: sampling.top_k or len(p)])
    total, chosen = 0.0, []
    mass = p[kept].sum()
    for token in kept:
        chosen.append(token)
        total += p[token] / mass
        if total >= sampling.top_p:
            break
    chosen = [token for token in chosen if p[token] >= sampling.min_p * p.max()]
    out = np.zeros_like(p)
    out[chosen] = p[chosen] / p[chosen].sum()
    return out


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5, seed=3),
        Sampling(temperature=2.0, top_k=5),
        Sampling(temperature=1.0, top_p=0.7),
        Sampling(temperature=1.5, top_k=8, top_p=0.8, seed=9),
        Sampling(temperature=1.5, min_p=0.1),
        Sampling(temperature=2.0, top_k=9, top_p=0.95, min_p=0.2, seed=2),
    ],
)
def test_draws_follow_the_softmax(sampling: Sampling) -> None:
    want, got = allowed(sampling, LOGITS), draws(sampling)
    assert got[want == 0].sum() == 0
    kept = want > 0
    assert stats.chisquare(got[kept], want[kept] * DRAWS).pvalue > 1e-4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-8, 8), min_size=1, max_size=20),
    st.floats(0.01, 4),
    st.integers(0, 25),
    st.floats(0.001, 1.0),
    st.integers(0, 2**32),
)
def test_cuts_never_let_an_unlikely_token_through(
    values: list[float], temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logits = torch.tensor([values])
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    got = draws(sampling, logits, 50)
    p = (logits[0].double() / temperature).softmax(0).numpy()
    allowed_number = min(top_k or len(p), len(p))
    for token in np.flatnonzero(got):
        likelier = p[p > p[token]]
        assert len(likelier) < allowed_number
        assert likelier.sum() <= top_p + 1e-9  # what stands before it has not reached the sum


@pytest.mark.parametrize("first", [1, 2, 256])
def test_looking_at_few_tokens_first_changes_nothing(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herdbook.inference.sampler.FIRST", first)
    for sampling in (Sampling(temperature=1.0, top_p=0.9), Sampling(temperature=3.0, min_p=0.05)):
        want, got = allowed(sampling, LOGITS), draws(sampling)
        assert got[want == 0].sum() == 0
        assert stats.chisquare(got[want > 0], want[want > 0] * DRAWS).pvalue > 1e-4


def test_rows_keep_their_own_settings() -> None:
    samplings = [Sampling(), Sampling(temperature=1.0, top_k=1), Sampling(temperature=1.0), Sampling(temperature=1e-6)]
    tokens = Sampler(samplings, [1, 2, 3, 4], "cpu").draw(LOGITS.expand(4, -1), [0, 0, 0, 0])
    best = LOGITS.argmax().item()
    assert tokens[0] == tokens[1] == tokens[3] == best
    free, cut = Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.7)
    alone = [Sampler([one] * 50, range(50), "cpu").draw(LOGITS.expand(50, -1), [0] * 50) for one in (free, cut)]
    mixed = Sampler([free, cut] * 50, [n for n in range(50) for _ in (0, 1)], "cpu")
    assert torch.equal(mixed.draw(LOGITS.expand(100, -1), [0] * 100), torch.stack(alone, 1).flatten())


def test_chance_is_uniform_and_steps_are_independent() -> None:
    keys = np.full(50_000, request_key(0, [5], 0), dtype=np.uint64)
    u = uniforms(keys, np.arange(50_000, dtype=np.uint64))
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    assert u.min() >= 0 and u.max() < 1


def test_keys_differ_by_seed_prompt_and_occurrence() -> None:
    keys = {request_key(s, p, o) for s in (0, 1) for p in ([1], [2], [1, 2]) for o in (0, 1)}
    assert len(keys) == 12
