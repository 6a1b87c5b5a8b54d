"""The official client gets what the engine gives: texts, streams, log-probabilities, several answers, usage."""

from __future__ import annotations

import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.server.serve import Source, load
from herdbook.inference.server.settings import ServeSettings
from herdbook.inference.speculative import SpeculativeEngine
from herdbook.model.huggingface import save_model
from tests.support.servers import TOKENIZER, Running, ask, chat_engine

HI = [{"role": "user", "content": "hi"}]


def alone(prompt: str | list[int], seed: int = 0, **sampling: Any) -> str:
    """What an engine of its own gives."""
    engine = chat_engine(1, taught=False) if isinstance(prompt, str) else chat_engine(0)
    return engine.generate([prompt], Sampling(seed=seed, **sampling))[0].text


def test_models_are_listed(server: Running) -> None:
    listed = {model.id: model for model in server.openai().models.list()}
    assert set(listed) == {"talker", "base"}
    talker: Any = listed["talker"]
    assert talker.kind == "chat" and listed["base"].kind == "base"  # type: ignore[attr-defined]
    assert talker.context == 512 and talker.parameters == chat_engine().model.config.parameters()
    assert server.openai().models.retrieve("base").id == "base"


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_the_engines(server: Running, stream: bool) -> None:
    asked = {"model": "base", "prompt": "Once", "max_tokens": 40, "seed": 5, "temperature": 0.9, "top_p": 0.8}
    got = server.openai().completions.create(**asked, stream=stream)
    text = "".join(chunk.choices[0].text for chunk in got) if stream else got.choices[0].text
    assert text == alone("Once", 5, max_tokens=40, temperature=0.9, top_p=0.8)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_answer_is_the_engines(server: Running, stream: bool) -> None:
    messages = [{"role": "developer", "content": "be brief"}, *HI]
    got = server.openai().chat.completions.create(
        model="talker", messages=messages, max_completion_tokens=40, seed=2, stream=stream
    )
    if stream:
        chunks = list(got)
        assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    else:
        text = got.choices[0].message.content
    prompt = TOKENIZER.chat([{"role": "system", "content": "be brief"}, *HI])
    assert text == alone(prompt, 2, max_tokens=40, temperature=1.0)


def test_many_at_once_get_what_each_would_get_alone(server: Running) -> None:
    prompts = [f"number {i} of {'x' * (i % 7)}" for i in range(24)]
    client = server.openai()

    def one(place: int) -> str:
        return (
            client.completions.create(
                model="base", prompt=prompts[place], max_tokens=10 + place, seed=place, temperature=0.8
            )
            .choices[0]
            .text
        )

    with ThreadPoolExecutor(24) as pool:
        got = list(pool.map(one, range(24)))
    assert got == [alone(prompt, i, max_tokens=10 + i, temperature=0.8) for i, prompt in enumerate(prompts)]
    assert len(set(got)) > 20


def test_several_answers_and_prompts_come_in_order_each_by_its_own_chance(server: Running) -> None:
    got = server.openai().completions.create(model="base", prompt=["a", "b", "a"], n=2, max_tokens=12, seed=7)
    assert [choice.index for choice in got.choices] == list(range(6))
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=7)
    want = chat_engine(1, taught=False).generate(["a", "a", "b", "b", "a", "a"], sampling)
    assert [choice.text for choice in got.choices] == [one.text for one in want]
    assert len({choice.text for choice in got.choices}) == 6
    assert got.usage.prompt_tokens == 6 and got.usage.completion_tokens == sum(len(one.token_ids) for one in want)


def test_stop_texts_and_usage(server: Running) -> None:
    free = server.openai().completions.create(model="base", prompt="Once", max_tokens=60, temperature=0)
    stop = free.choices[0].text[10:13]
    got = server.openai().completions.create(model="base", prompt="Once", max_tokens=60, temperature=0, stop=[stop])
    assert got.choices[0].text == free.choices[0].text.split(stop)[0] and got.choices[0].finish_reason == "stop"
    assert free.choices[0].finish_reason == "length" and free.usage.completion_tokens == 60
    options = {"include_usage": True}
    chunks = list(
        server.openai().completions.create(
            model="base", prompt="Once", max_tokens=5, temperature=0, stream=True, stream_options=options
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 5 + 5
    assert all(chunk.usage is None for chunk in chunks[:-1])


def raw_logprobs(engine: Engine, ids: list[int]) -> torch.Tensor:
    """The log-softmax of the model on whole ids, without any cache."""
    with torch.no_grad():
        return engine.model(torch.tensor([ids]))[0].log_softmax(-1)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_with_echo_are_the_models_own(server: Running, stream: bool) -> None:
    prompt = TOKENIZER.encode("Once upon", bos=True)
    asked = {"model": "base", "prompt": prompt, "max_tokens": 6, "temperature": 0.7, "seed": 1}
    got = server.openai().completions.create(**asked, echo=True, logprobs=3, stream=stream)
    parts = [chunk.choices[0] for chunk in got] if stream else got.choices
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    lists = {name: list(itertools.chain(*(getattr(p.logprobs, name) for p in parts if p.logprobs))) for name in names}
    text = "".join(part.text for part in parts)
    drawn = chat_engine(1, taught=False).generate([prompt], Sampling(max_tokens=6, temperature=0.7, seed=1))[0]
    ids = prompt + drawn.token_ids
    want = raw_logprobs(chat_engine(1, taught=False), ids)
    assert text == "Once upon" + drawn.text and len(lists["tokens"]) == len(ids)
    assert lists["token_logprobs"][0] is None and lists["top_logprobs"][0] is None
    for place in range(1, len(ids)):
        assert math.isclose(lists["token_logprobs"][place], want[place - 1, ids[place]].item(), abs_tol=1e-4)
        best = want[place - 1].topk(3)
        top = sorted(lists["top_logprobs"][place].values(), reverse=True)
        assert 3 <= len(top) <= 4 and math.isclose(top[0], best.values[0].item(), abs_tol=1e-4)
    assert lists["tokens"][:3] == ["<|begin_of_text|>", "O", "n"] and lists["text_offset"][:4] == [0, 0, 1, 2]


def test_a_prompt_can_be_scored_without_an_answer(server: Running) -> None:
    got = server.openai().completions.create(model="base", prompt="Once", max_tokens=0, echo=True, logprobs=1)
    assert got.choices[0].text == "Once" and len(got.choices[0].logprobs.tokens) == 5
    assert got.usage.completion_tokens == 0


def test_chat_logprobs_are_of_the_texts_tokens(server: Running) -> None:
    got = server.openai().chat.completions.create(
        model="talker", messages=HI, max_tokens=8, seed=3, logprobs=True, top_logprobs=2
    )
    prompt = TOKENIZER.chat(HI)
    drawn = chat_engine(0).generate([prompt], Sampling(max_tokens=8, temperature=1.0, seed=3))[0].token_ids
    want = raw_logprobs(chat_engine(0), prompt + drawn)[len(prompt) - 1 :]
    entries = got.choices[0].logprobs.content
    texts = [token for token in drawn if token < 256]
    assert [entry.bytes for entry in entries] == [[token] for token in texts]
    for place, (entry, token) in enumerate(zip(entries, texts, strict=False)):
        assert math.isclose(entry.logprob, want[place, token].item(), abs_tol=1e-4)
        assert [one.logprob for one in entry.top_logprobs] == pytest.approx(
            want[place].topk(2).values.tolist(), abs=1e-4
        )


def test_events_are_framed_as_they_should_be(server: Running) -> None:
    connection = server.connect()
    strange = "a\u2028b\u0085c\r\nd\x0be"
    body = {"model": "base", "prompt": strange, "max_tokens": 3, "echo": True, "stream": True}
    status, headers, text = ask(connection, "/v1/completions", body)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and text.isascii() and "\r" not in text
    read = [json.loads(one.removeprefix("data: ")) for one in events[:-2]]
    assert all(one.startswith("data: {") and "\n" not in one for one in events[:-2])
    assert len({chunk["id"] for chunk in read}) == 1 and read[0]["choices"][0]["text"].startswith(strange)
    assert ask(connection, "/health")[0] == 200  # the connection is still good


def test_text_never_becomes_a_special_token(server: Running) -> None:
    typed = [{"role": "user", "content": "<|eot_id|>"}]
    got = server.ask("/tokenize", {"model": "talker", "messages": typed})[2]
    assert got["tokens"] == TOKENIZER.chat(typed) and got["tokens"].count(TOKENIZER.eot_id) == 1


def test_tokens_and_back(server: Running) -> None:
    status, _, got = server.ask("/tokenize", {"model": "base", "prompt": "grün 🐄"})
    assert status == 200 and got["tokens"] == TOKENIZER.encode("grün 🐄", bos=True) and got["count"] == 11
    plain = server.ask("/tokenize", {"model": "base", "prompt": "x", "add_special_tokens": False})[2]
    assert plain["tokens"] == [ord("x")]
    back = server.ask("/detokenize", {"model": "base", "tokens": got["tokens"][1:]})[2]
    assert back == {"prompt": "grün 🐄"}


def test_penalties_and_biases_reach_the_sampler(server: Running) -> None:
    client = server.openai()
    only = client.completions.create(model="base", prompt="x", max_tokens=20, logit_bias={"65": 100}, temperature=0)
    assert only.choices[0].text == "A" * 20
    spread = client.completions.create(
        model="base", prompt="x", max_tokens=20, logit_bias={"65": 100, "66": 99}, temperature=0, presence_penalty=2
    )
    assert set(spread.choices[0].text) == {"A", "B"}
    asked = {"model": "base", "prompt": "x", "max_tokens": 20, "seed": 1}
    greedy = client.completions.create(**{**asked, "temperature": 0}).choices[0].text
    for extra in ({"top_k": 1}, {"min_p": 1.0}):
        assert client.completions.create(**asked, extra_body=extra).choices[0].text == greedy
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        client.completions.create(**asked, logit_bias={"no": 1})


def test_guessing_changes_no_answer(tmp_path: Path) -> None:
    plain = chat_engine(1, taught=False)
    save_model(plain.model, tmp_path, bos_id=TOKENIZER.bos_id, eos_ids=[TOKENIZER.eos_id])
    TOKENIZER.save(tmp_path)
    engine = load(Source("base", tmp_path), ServeSettings(guess="ngrams", dtype="float32")).engine
    assert isinstance(engine, SpeculativeEngine)
    asked: Any = {"model": "base", "prompt": "la " * 20, "max_tokens": 120, "temperature": 0, "logprobs": 0}
    want = plain.generate([asked["prompt"]], Sampling(max_tokens=120))[0]
    with Running({"base": engine}) as guessing:
        chunks = list(guessing.openai().completions.create(**asked, stream=True, extra_body={"ignore_eos": False}))
        sizes = [len(chunk.choices[0].logprobs.tokens) for chunk in chunks]
    assert "".join(chunk.choices[0].text for chunk in chunks) == want.text and sum(sizes) == len(want.token_ids)
    assert engine.right > 0 and max(sizes) > 1  # this model falls into repeating itself
