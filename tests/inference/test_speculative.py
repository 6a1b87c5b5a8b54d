"""Guesses change how soon an answer is there, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from herdbook.inference.engine import Engine, Request, Sampling
from herdbook.inference.speculative import Draft, Guesser, NGrams, SpeculativeEngine
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
SAMPLINGS = {
    "greedy": {},
    "warm": {"temperature": 1.0},
    "cut": {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    "told": {"temperature": 0.8, "logprobs": 3, "stop": ("a",)},
}


def model(seed: int = 0, **changes: Any) -> Transformer:
    return tiny_model(seed, **{"vocab_size": TOKENIZER.vocab_size, **changes})


class Liar:
    """Guesses at random."""

    def guess(self, requests: Sequence[Request], counts: Sequence[int]) -> list[list[int]]:
        """See `Guesser`."""
        return [random.Random(len(r.tokens)).choices(range(200), k=count) for r, count in zip(requests, counts)]


class Prophet:
    """Knows the answers, but for every fifth token."""

    def __init__(self, answers: dict[tuple[int, ...], list[int]]) -> None:
        self.answers = answers

    def guess(self, requests: Sequence[Request], counts: Sequence[int]) -> list[list[int]]:
        """See `Guesser`."""
        found = []
        for request, count in zip(requests, counts):
            known = self.answers.get(tuple(request.prompt), [])
            start = len(request.ids)
            found.append([t if (start + i) % 5 else (t + 1) % 90 for i, t in enumerate(known[start : start + count])])
        return found


def guessers(answers: dict[tuple[int, ...], list[int]]) -> dict[str, Guesser]:
    draft = model()
    with torch.no_grad():
        for weight in draft.parameters():  # the model, a little out of tune
            weight.add_(
                0.02 * weight.std().nan_to_num() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    return {
        "n-grams": NGrams(),
        "draft": Draft(Engine(draft, TOKENIZER, [])),
        "liar": Liar(),
        "prophet": Prophet(answers),
    }


@pytest.mark.parametrize("compile", ["no", "auto"])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_answers_are_the_same_with_and_without_guesses(name: str, compile: Any) -> None:
    sampling = Sampling(max_tokens=40, ignore_end=True, **SAMPLINGS[name])
    prompts = [[1, 2, 3, 1, 2, 3, 1, 2], [9, 8, 7], list(range(5, 25)), [4]]
    plain = Engine(model(), TOKENIZER, [], compile=compile)
    want = plain.generate(prompts, sampling)
    answers = {tuple(prompt): answer.token_ids for prompt, answer in zip(prompts, want)}
    for label, guesser in guessers(answers).items():
        engine = SpeculativeEngine(model(), TOKENIZER, [], compile=compile, guesser=guesser, rows_guessed=8)
        got = engine.generate(prompts, sampling)
        assert [a.token_ids for a in got] == [a.token_ids for a in want], label
        assert [(a.text, a.finish_reason) for a in got] == [(a.text, a.finish_reason) for a in want], label
        for mine, its in zip(got, want, strict=True):
            for one, other in zip(mine.logprobs or [], its.logprobs or [], strict=True):
                assert one.token == other.token and abs(one.logprob - other.logprob) < 1e-4
        assert engine.tried > 0 or label == "n-grams"
        assert engine.workload.blocks_used == 0
        if label in ("prophet", "draft"):
            assert engine.right > 0.3 * engine.tried
        # What the cache has kept is the accepted tokens' alone: answers that go on from it are right, too.
        longer = [[*prompt, *answer.token_ids] for prompt, answer in zip(prompts, want)]
        again = [a.token_ids for a in engine.generate(longer, sampling)]
        assert again == [a.token_ids for a in plain.generate(longer, sampling)], label


def test_right_guesses_save_passes() -> None:
    prompt = [3, 1, 4, 1, 5]
    want = Engine(model(), TOKENIZER, []).generate([prompt], Sampling(max_tokens=41, ignore_end=True))[0]
    engine = SpeculativeEngine(model(), TOKENIZER, [], guesser=Prophet({tuple(prompt): want.token_ids}))
    request = engine.submit(prompt, Sampling(max_tokens=41, ignore_end=True))
    pieces, steps = "", 0
    while request.finish is None:
        engine.step()
        pieces, steps = pieces + request.piece, steps + 1
    assert request.ids == want.token_ids and pieces == request.text == want.text
    assert steps <= 1 + 2 * 9  # a wrong one in five


def test_a_small_cache_and_many_answers_change_nothing() -> None:
    sampling = Sampling(max_tokens=50, temperature=1.0, ignore_end=True)
    prompts = [[n, 2, 3, 2, 3, 2] for n in range(12)]
    want = Engine(model(), TOKENIZER, []).generate(prompts, sampling)
    answers = {tuple(prompt): answer.token_ids for prompt, answer in zip(prompts, want)}
    for options in ({"blocks": 9}, {"rows": 3}, {"rows": 3, "blocks": 7}, {"rows": 4, "rows_guessed": 3}):
        given: dict[str, Any] = {"rows_guessed": 8, **options}
        engine = SpeculativeEngine(model(), TOKENIZER, [], guesser=Prophet(answers), **given)
        assert [a.token_ids for a in engine.generate(prompts, sampling)] == [a.token_ids for a in want], options
        # These end together, so that with 4 rows never 3 or fewer are at work.
        assert (engine.tried > 0) == ("rows_guessed" not in options) and engine.workload.blocks_used == 0


def test_penalties_are_kept_to() -> None:
    sampling = Sampling(max_tokens=30, frequency_penalty=1.0, ignore_end=True)
    want = Engine(model(), TOKENIZER, []).generate([[1, 2, 1, 2]], sampling)
    engine = SpeculativeEngine(model(), TOKENIZER, [], guesser=Liar())
    assert engine.generate([[1, 2, 1, 2]], sampling)[0].token_ids == want[0].token_ids and engine.tried == 0


def test_drawn_tokens_follow_the_models_distribution() -> None:
    small = tiny_model(3, vocab_size=6)
    engine = SpeculativeEngine(
        small,
        TOKENIZER,
        [],
        rows=32,
        rows_guessed=32,
        guesser=Draft(Engine(tiny_model(4, vocab_size=6), TOKENIZER, [], rows=32)),
    )
    prompt, count = [1, 2, 3, 1, 2], 3000
    samplings = [Sampling(max_tokens=3, temperature=1.0, seed=seed, ignore_end=True) for seed in range(count)]
    seen = np.zeros((6, 6, 6))
    for start in range(0, count, 32):
        part = samplings[start : start + 32]
        for answer in engine.generate([prompt] * len(part), part):
            seen[tuple(answer.token_ids)] += 1
    wanted = np.zeros((6, 6, 6))
    with torch.no_grad():
        first = small(torch.tensor([prompt]))[0, -1].double().softmax(-1)
        for a in range(6):
            second = small(torch.tensor([[*prompt, a]]))[0, -1].double().softmax(-1)
            for b in range(6):
                third = small(torch.tensor([[*prompt, a, b]]))[0, -1].double().softmax(-1)
                wanted[a, b] = (first[a] * second[b] * third).numpy()
    assert 0.1 < engine.right / engine.tried < 0.95  # some guesses were right, some wrong
    often = wanted * count >= 5
    observed = [*seen[often], seen[~often].sum()]
    expected = np.array([*wanted[often], wanted[~often].sum()]) * count
    assert len(observed) > 10
    assert stats.chisquare(observed, expected * sum(observed) / expected.sum()).pvalue > 1e-3


def test_n_grams_go_on_as_the_latest_longest_match_did() -> None:
    grams = NGrams()
    assert grams.after([1, 2, 3, 9, 1, 2, 3, 7, 5, 2, 3], 3) == [7, 5, 2]
    assert grams.after([1, 2, 3, 9, 8, 2, 3, 7, 1, 2, 3], 2) == [9, 8]  # three alike go before two
    assert grams.after([1, 2, 3], 3) == [] and grams.after([1], 3) == []
    assert grams.after([4, 4, 4, 4, 4, 4], 4) == [4]


def test_a_draft_model_with_other_tokens_is_refused() -> None:
    other = Engine(model(), byte_tokenizer(("the",)), [])
    with pytest.raises(UserError, match="the draft model has another tokenizer"):
        SpeculativeEngine(model(), TOKENIZER, [], guesser=Draft(other))
