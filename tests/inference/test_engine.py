"""The engine gives the tokens and likelihoods that transformers gives, whoever shares the batch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.inference.engine import Engine, Sampling
from herdbook.model.huggingface import load_model, save_model
from herdbook.settings import UserError
from tests.support.models import SHAPES, tiny_model, tiny_peer
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
SIZE = {"vocab_size": TOKENIZER.vocab_size}
RANDOM = random.Random(0)
PROMPTS = [[TOKENIZER.bos_id, *(RANDOM.randrange(256) for _ in range(n))] for n in (3, 17, 0, 9, 40, 9, 1, 25, 60)]


def engine_of(seed: int = 0, stop_ids: tuple[int, ...] = (), **options: Any) -> Engine:
    return Engine(tiny_model(seed, **SIZE), TOKENIZER, stop_ids, **options)


@pytest.fixture(scope="module")
def peer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peer")
    tiny_peer(**SIZE).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("options", [{}, {"rows": 1}, {"rows": 4}, {"row_tokens": 20}, {"cache_bytes": 100_000}])
def test_greedy_tokens_equal_transformers(options: dict[str, int], peer_folder: Path) -> None:
    peer = tiny_peer(**SIZE)
    stop = 77
    engine = Engine(load_model(peer_folder), TOKENIZER, [stop], **options)
    got = engine.generate(PROMPTS, Sampling(max_tokens=30))
    for prompt, completion in zip(PROMPTS, got, strict=True):
        ids = torch.tensor([prompt])
        out = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=30,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
        )
        assert completion.token_ids == out[0, len(prompt) :].tolist()
        assert completion.finish_reason == ("stop" if completion.token_ids[-1] == stop else "length")


def test_greedy_answers_to_200_prompts_equal_transformers_whatever_the_batching(peer_folder: Path) -> None:
    peer, rng = tiny_peer(**SIZE), random.Random(1)
    lengths = (
        1,
        2,
        5,
        15,
        16,
        17,
        31,
        33,
        50,
        90,
    )  # around the ends of blocks; a length at a time spares the peer padding
    prompts = [[rng.randrange(256) for _ in range(length)] for length in lengths for _ in range(20)]
    want: list[list[int]] = []
    for start in range(0, len(prompts), 20):
        ids = torch.tensor(prompts[start : start + 20])
        out = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        want += out[:, ids.shape[1] :].tolist()
    order = list(range(len(prompts)))
    rng.shuffle(order)  # long and short ones side by side
    for options in ({}, {"rows": 1}, {"rows": 7, "blocks": 40}, {"step_tokens": 64}):
        engine = Engine(load_model(peer_folder), TOKENIZER, [], **options)
        got = engine.generate([prompts[at] for at in order], Sampling(max_tokens=24))
        for at, completion in zip(order, got, strict=True):
            assert completion.token_ids == want[at]


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_answers_equal_reading_everything_again(shape: str) -> None:
    engine = Engine(tiny_model(3, **{**SIZE, **SHAPES[shape]}), TOKENIZER, [])
    for prompt, completion in zip(PROMPTS, engine.generate(PROMPTS, Sampling(max_tokens=12)), strict=True):
        ids = list(prompt)
        for token in completion.token_ids:
            with torch.no_grad():
                assert engine.model(torch.tensor([ids]))[0, -1].argmax() == token
            ids.append(token)


def test_an_answer_does_not_depend_on_who_else_is_in_the_batch() -> None:
    sampling = Sampling(max_tokens=25, temperature=1.0, top_p=0.9, seed=4)
    stops = tuple(range(0, 256, 16))  # rows leave at different times
    together = engine_of(stop_ids=stops).generate(PROMPTS, sampling)
    alone = [engine_of(stop_ids=stops).generate([prompt], sampling)[0] for prompt in PROMPTS]
    seen: list[list[int]] = []
    for prompt, one, many in zip(PROMPTS, alone, together, strict=True):
        if prompt not in seen:
            assert one == many
        seen.append(prompt)
    backwards = engine_of(stop_ids=stops, rows=3).generate(PROMPTS[::-1], sampling)[::-1]
    assert backwards == together
    assert len({len(one.token_ids) for one in alone}) > 3


def test_seeds_choose_answers_and_repeat_them() -> None:
    engine = engine_of()
    first, again, other = (
        engine.generate(PROMPTS[:1] * 8, Sampling(max_tokens=12, temperature=1.0, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again and first != other
    assert len({tuple(one.token_ids) for one in first}) == 8  # a prompt asked eight times gets eight answers


def test_each_prompt_may_have_its_own_settings() -> None:
    engine = engine_of()
    settings = [Sampling(max_tokens=3 + i, temperature=i % 2, seed=i) for i in range(len(PROMPTS))]
    together = engine.generate(PROMPTS, settings)
    assert [len(one.token_ids) for one in together] == [3 + i for i in range(len(PROMPTS))]
    assert together[4] == engine.generate([PROMPTS[4]], settings[4])[0]


def test_a_row_that_ended_early_does_not_outgrow_the_cache() -> None:
    engine = engine_of()
    prompts = [[TOKENIZER.bos_id] * 100, *([TOKENIZER.bos_id, byte] for byte in range(5))]
    got = engine.generate(prompts, [Sampling(max_tokens=1), *[Sampling(max_tokens=90)] * 5])
    assert [len(one.token_ids) for one in got] == [1] + [90] * 5
    assert got[3] == engine.generate([prompts[3]], Sampling(max_tokens=90))[0]


def test_streamed_pieces_join_to_the_text() -> None:
    engine = engine_of(seed=5)
    for prompt in PROMPTS[:4]:
        for sampling in (Sampling(max_tokens=20), Sampling(max_tokens=40, temperature=1.5, seed=2, stop=("e", "\n"))):
            pieces = list(engine.stream(prompt, sampling))
            assert "".join(pieces) == engine.generate([prompt], sampling)[0].text
            assert all(pieces)


def script(text: str, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose draws are this text, byte by byte, and then the end of text."""
    answer = [*TOKENIZER.encode(text), TOKENIZER.eos_id]
    monkeypatch.setattr(
        "herdbook.inference.sampler.Sampler.draw",
        lambda _, logits, steps: torch.tensor([answer[step] for step in steps]),
    )
    return engine_of(stop_ids=(TOKENIZER.eos_id,))


def test_characters_of_several_tokens_are_streamed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Kühe 🐄 gehen – heim"
    pieces = list(script(text, monkeypatch).stream(PROMPTS[0], Sampling(max_tokens=100)))
    assert "".join(pieces) == text
    assert pieces[4:6] == [" ", "🐄"]


def test_a_stop_text_over_several_tokens_ends_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = script("The answer is 42.\nQuestion: what?", monkeypatch)
    sampling = Sampling(max_tokens=100, stop=("\nQuestion:", "never"))
    completion = engine.generate(PROMPTS[:1], sampling)[0]
    assert (completion.text, completion.finish_reason) == ("The answer is 42.", "stop")
    assert TOKENIZER.decode(completion.token_ids) == "The answer is 42.\nQuestion:"
    assert "".join(engine.stream(PROMPTS[0], sampling)) == "The answer is 42."


def test_a_stop_token_ends_the_answer_and_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = script("done", monkeypatch)
    completion = engine.generate(["a prompt"], Sampling(max_tokens=100))[0]
    assert (completion.text, completion.finish_reason) == ("done", "stop")
    assert completion.token_ids[-1] == TOKENIZER.eos_id
    cut = engine.generate(["a prompt"], Sampling(max_tokens=100, stop_ids=(ord("n"),)))[0]
    assert cut.text == "do"


def test_the_context_ends_an_answer() -> None:
    engine = engine_of()  # 128 tokens
    prompts = [[TOKENIZER.bos_id] * 120, [TOKENIZER.bos_id] * 127]
    got = engine.generate(prompts, Sampling(max_tokens=50))
    assert [len(one.token_ids) for one in got] == [8, 1]
    assert {one.finish_reason for one in got} == {"length"}
    with pytest.raises(UserError, match="prompt 0 has 128 tokens; the model holds 128"):
        engine.generate([[1] * 128])
    with pytest.raises(UserError, match="prompt 1 is empty"):
        engine.generate([[1], []])
    assert engine.generate([]) == []


@pytest.mark.parametrize("row_tokens", [1, 50, 4096])
def test_scores_equal_log_softmax_of_transformers(row_tokens: int, peer_folder: Path) -> None:
    peer = tiny_peer(**SIZE)
    engine = Engine(load_model(peer_folder), TOKENIZER, [], row_tokens=row_tokens)
    rng = random.Random(1)
    prompts, ends = [], []
    for prompt in PROMPTS:
        for n in (0, 1, 1, 2, 7):
            prompts.append(prompt)
            ends.append([rng.randrange(256) for _ in range(n)])
        with torch.no_grad():  # one continuation that is greedy
            prompts.append(prompt)
            ids = torch.tensor([prompt])
            out = peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
            ends.append(out[0, len(prompt) :].tolist())
    for prompt, end, got in zip(prompts, ends, engine.score(prompts, ends), strict=True):
        with torch.no_grad():
            logits = peer(torch.tensor([prompt + end])).logits[0, len(prompt) - 1 : -1].double()
        want = logits.log_softmax(-1)[range(len(end)), end].sum().item()
        assert got.logprob == pytest.approx(want, abs=1e-4)
        assert got.tokens == len(end)
        assert got.greedy == (logits.argmax(-1).tolist() == end)


def test_scores_share_one_pass_where_one_sequence_begins_another(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    read = []
    hidden = engine.model.hidden
    monkeypatch.setattr(engine.model, "hidden", lambda t, *rest: read.append(t.numel()) or hidden(t, *rest))
    engine.score([PROMPTS[4]] * 4, [[65], [66], [67], [68, 69]])
    assert read == [len(PROMPTS[4]) + 1]


def test_scoring_refuses_what_cannot_be_scored() -> None:
    engine = engine_of()
    with pytest.raises(UserError, match="prompt 0 is empty"):
        engine.score([[]], [[1]])
    with pytest.raises(UserError, match="129 tokens, the model reads 128"):
        engine.score([[1] * 128], [[1, 2]])
    assert engine.score([], []) == []


def test_a_folder_loads_with_its_ends(tmp_path: Path) -> None:
    model = tiny_model(**SIZE)
    save_model(model, tmp_path / "model", bos_id=TOKENIZER.bos_id, eos_ids=[TOKENIZER.eos_id])
    TOKENIZER.save(tmp_path / "model")
    engine = Engine.load(tmp_path, device="cpu")
    assert engine.stop_ids == {TOKENIZER.eos_id} and not engine.knows_chat
    want = Engine(model, TOKENIZER).generate(["cow"], Sampling(max_tokens=5))
    assert engine.generate(["cow"], Sampling(max_tokens=5)) == want
    save_model(model, tmp_path / "model", bos_id=TOKENIZER.bos_id, eos_ids=[TOKENIZER.eos_id, TOKENIZER.eot_id])
    assert Engine.load(tmp_path / "model", device="cpu").knows_chat
