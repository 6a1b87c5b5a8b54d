"""Many requests at random times through small caches and small steps: transformers' tokens, and no block lost."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch

from herdbook.inference.engine import Engine, Request, Sampling
from herdbook.inference.graphs import Graphs
from herdbook.inference.scheduler import Load
from herdbook.model.cache import KVPool
from herdbook.model.huggingface import load_model
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError
from tests.support.models import tiny_model, tiny_peer
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
SIZE = {"vocab_size": TOKENIZER.vocab_size}
STOP = 77


@cache
def peer_and_ours(tmp: str) -> tuple[Any, Transformer]:
    peer = tiny_peer(**SIZE)
    peer.save_pretrained(tmp)
    return peer, load_model(tmp)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Transformer]:
    return peer_and_ours(str(tmp_path_factory.mktemp("peer")))


def prompts_of(seed: int, count: int) -> list[list[int]]:
    """Prompts of all lengths, some of which begin alike over whole blocks."""
    rng = random.Random(seed)
    beginnings = [[rng.randrange(256) for _ in range(n)] for n in (16, 32, 40)]
    prompts = []
    for _ in range(count):
        start = rng.choice([[], [], *beginnings])
        prompts.append([TOKENIZER.bos_id, *start, *(rng.randrange(256) for _ in range(rng.choice([1, 5, 15, 30])))])
    return prompts


@cache
def expected(peer: Any, prompt: tuple[int, ...], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = peer.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=STOP,
        pad_token_id=0,
    )
    return list(out[0, len(prompt) :].tolist())


SETUPS: dict[str, dict[str, Any]] = {
    "roomy": {},
    "small steps": {"step_tokens": 9, "rows": 5},
    "tiny cache": {"blocks": 8, "rows": 6},
    "tiny cache, small steps": {"blocks": 8, "rows": 4, "step_tokens": 7},
    "one by one": {"rows": 1, "step_tokens": 20},
}


@pytest.mark.parametrize("how", ["eager", "compiled", "graphs"])
@pytest.mark.parametrize("setup", SETUPS)
def test_greedy_tokens_equal_transformers_whatever_the_batching(
    setup: str, how: str, pair: tuple[Any, Transformer]
) -> None:
    peer, model = pair
    engine = Engine(model, TOKENIZER, [STOP], **SETUPS[setup], compile="auto" if how == "compiled" else "no")
    if how == "graphs":  # what a GPU would record
        pool = KVPool(model.config, engine.pool.blocks + 1)
        engine.runner = Graphs(model, pool, engine.rows)
    rng = random.Random(len(setup))
    queue = [(prompt, rng.choice([1, 7, 40])) for prompt in prompts_of(1, 40)]
    asked: list[tuple[Request, int]] = []
    while queue or engine.workload.running or engine.workload.waiting:
        for _ in range(min(len(queue), rng.choice([0, 0, 1, 2, 8]))):
            prompt, tokens = queue.pop()
            asked.append((engine.submit(prompt, Sampling(max_tokens=tokens)), tokens))
        moved = engine.step()
        assert moved or not engine.workload.running
    assert len(asked) == 40
    for request, tokens in asked:
        assert request.ids == expected(peer, tuple(request.prompt), tokens)
        assert request.finish == ("stop" if request.ids[-1] == STOP else "length")
    assert engine.workload == Load(0, 0, 0, engine.pool.blocks)
    assert (engine.scheduler.preemptions > 0) == setup.startswith("tiny")
    assert sum(request.cached > 0 for request, _ in asked) > 5


def engine_of(**options: Any) -> Engine:
    return Engine(tiny_model(**SIZE), TOKENIZER, [], **options)


def test_answers_to_one_prompt_share_its_blocks() -> None:
    engine = engine_of()
    prompt = [TOKENIZER.bos_id, *range(69)]
    requests = [engine.submit(prompt, Sampling(max_tokens=10, temperature=1.0), number=n) for n in range(8)]
    engine.step()
    assert [request.cached for request in requests] == [0] + [64] * 7
    assert engine.workload.blocks_used == 4 + 8  # four full blocks for all, the fifth is each one's own
    while engine.step():
        pass
    assert len({tuple(request.ids) for request in requests}) == 8
    alone = engine_of().submit(prompt, Sampling(max_tokens=10, temperature=1.0), number=3)
    again = engine_of()
    again.scheduler.waiting.append(alone)
    while again.step():
        pass
    assert alone.ids == requests[3].ids


def test_a_dialog_is_not_read_again() -> None:
    engine = engine_of()
    first = engine.generate([list(range(40))], Sampling(max_tokens=30))[0]
    request = engine.submit([*range(40), *first.token_ids, 5, 6, 7], Sampling(max_tokens=1))
    while engine.step():
        pass
    assert request.cached == 64  # 69 tokens lie in the cache, four whole blocks


def test_a_long_prompt_does_not_hold_up_an_answer() -> None:
    engine = engine_of(step_tokens=20, rows=4)
    running = engine.submit([1, 2, 3], Sampling(max_tokens=30))
    engine.step()
    long = engine.submit([4] * 100, Sampling(max_tokens=2))
    for step in range(6):
        engine.step()
        assert len(running.ids) == step + 2
        assert bool(long.ids) == (step == 5)  # 19 tokens of it at a time


def test_cancelled_requests_free_their_blocks_at_once() -> None:
    engine = engine_of(rows=3)
    requests = [engine.submit([n] * 20, Sampling(max_tokens=50)) for n in range(5)]
    engine.step()
    assert (engine.workload.running, engine.workload.waiting) == (3, 2)
    for request in requests[1:4]:
        engine.cancel(request)
    assert (engine.workload.running, engine.workload.waiting, engine.workload.blocks_used) == (1, 1, 2)
    while engine.step():
        pass
    assert [len(request.ids) for request in requests] == [50, 1, 1, 0, 50]
    assert requests[1].finish is None
    engine.cancel(requests[0])  # has ended: nothing happens
    stream = engine.stream([1, 2], Sampling(max_tokens=50))
    next(stream)
    stream.close()
    assert engine.workload.blocks_used == 0


def test_a_failing_step_leaves_nothing_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    prompt = list(range(50))

    def fail(batch: Any) -> torch.Tensor:
        raise MemoryError

    want = engine_of().generate([prompt], Sampling(max_tokens=5))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "runner", fail)
        with pytest.raises(MemoryError):
            engine.generate([prompt], Sampling(max_tokens=5))
    assert engine.workload.blocks_used == 0
    assert engine.generate([prompt], Sampling(max_tokens=5)) == want


def test_what_can_never_fit_is_refused() -> None:
    engine = engine_of(blocks=2)
    assert engine.limit == 32
    with pytest.raises(UserError, match="prompt has 32 tokens; the model holds 32"):
        engine.submit([1] * 32)
    with pytest.raises(UserError, match="holds the id 267"):
        engine.submit([267])
    assert len(engine.generate([[1] * 20], Sampling(max_tokens=50))[0].token_ids) == 12
