"""Whatever is sent, the answer is an answer or a 4xx in OpenAI's form; never a 500, and the server goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.servers import Running, ask

CHAT = {"model": "talker", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
TEXT = {"model": "base", "prompt": "x", "max_tokens": 3}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("path", "change", "place", "words"),
    [
        ("completions", {"prompt": []}, None, "prompt"),
        ("completions", {"prompt": [[]]}, "prompt", "prompt 0 is empty"),
        ("completions", {"prompt": [99_999]}, None, "there is no token 99999"),
        ("completions", {"prompt": "", "add_special_tokens": False}, "prompt", "prompt 0 is empty"),
        ("completions", {"temperature": "hot"}, "temperature", "number"),
        ("completions", {"temperature": -1}, "temperature", "greater than or equal to 0"),
        ("completions", {"n": True}, "n", "integer"),
        ("completions", {"temprature": 1}, "temprature", "not permitted"),
        ("completions", {"best_of": 2}, "best_of", "1"),
        ("completions", {"max_tokens": 0}, None, "nothing to answer"),
        ("completions", {"stop": [""]}, "stop", "at least 1 character"),
        ("completions", {"stream_options": {"include_usage": True}}, None, "set stream to true"),
        ("completions", {"guided_regex": "("}, None, "the form of the answer"),
        ("completions", {"guided_regex": "a", "guided_choice": ["b"]}, None, "cannot both be given"),
        ("completions", {"guided_json": {"type": "nothing"}}, None, "the form of the answer"),
        ("completions", {"logit_bias": {"99999": 1}}, None, "there is no token 99999"),
        ("chat/completions", {"messages": []}, "messages", "at least 1 item"),
        ("chat/completions", {"messages": [{"role": "king", "content": "x"}]}, "messages.0.role", "Input should be"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "messages.0", "needs a content"),
        ("chat/completions", {"model": "base"}, "model", "was not taught to chat"),
        ("chat/completions", {"top_logprobs": 2}, None, "without logprobs"),
        ("chat/completions", {"tool_choice": "required"}, None, "without tools"),
        (
            "chat/completions",
            {"tools": [TOOL], "response_format": {"type": "json_object"}},
            None,
            "tool_choice to none",
        ),
        ("chat/completions", {"functions": []}, "functions", "not permitted"),
    ],
)
def test_mistakes_are_told(server: Running, path: str, change: dict[str, Any], place: str | None, words: str) -> None:
    body = {**(CHAT if path.startswith("chat") else TEXT), **change}
    status, _, answer = server.ask(f"/v1/{path}", body)
    error = answer["error"]
    assert status == 400 and error["type"] == "invalid_request_error" and words in error["message"]
    if place is not None:
        assert error["param"] == place


def test_unknown_models_paths_and_methods(server: Running) -> None:
    status, _, answer = server.ask("/v1/completions", {**TEXT, "model": "bace"})
    assert status == 404 and answer["error"]["code"] == "model_not_found" and "talker, base" in str(answer)
    assert server.ask("/v1/completions", {"prompt": "x"})[2]["error"]["param"] == "model"
    assert server.ask("/v1/nothing")[0] == 404 and "nothing" in server.ask("/v1/nothing")[2]["error"]["message"]
    assert server.ask("/v1/completions")[0] == 405
    status, _, answer = server.ask("/v1/completions", TEXT, {"Content-Type": "text/plain"})
    assert status == 415 and "text/plain" in answer["error"]["message"]


def test_fields_without_effect_are_taken(server: Running) -> None:
    same = [
        server.ask("/v1/completions", {**TEXT, "seed": 1, "max_tokens": 20, **more})[2]["choices"]
        for more in ({}, {"user": "u", "metadata": {"a": "b"}, "store": False, "logit_bias": None, "stop": None})
    ]
    assert same[0] == same[1]


BROKEN = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe",
    b'{"model":"base","prompt":"\\ud800"}',
    b'{"model":"base","prompt":"x","temperature":NaN}',
    b'{"model":"base","prompt":"x","temperature":1e999}',
    b'{"model":"base","prompt":"x","seed":' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b'{"prompt":' * 50_000,
    b'{"model":"base","prompt":"x","metadata":' + b"[" * 150 + b"]" * 150 + b"}",
]


def check(server: Running, path: str, body: bytes) -> int:
    connection = server.connect()
    status, _, answer = ask(connection, path, body, method="POST")
    connection.close()
    if status != 200:
        assert 400 <= status < 500, (status, body[:300], answer)
        assert set(answer["error"]) == {"message", "type", "param", "code"} and answer["error"]["message"]
    return status


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_bodies_that_are_no_json_we_take(server: Running, path: str) -> None:
    for body in BROKEN:
        check(server, path, body)


def test_what_json_does_not_know_is_refused_even_where_it_has_no_effect(server: Running) -> None:
    for number in (b"NaN", b"Infinity"):
        status, _, answer = server.ask("/v1/completions", b'{"model":"base","prompt":"x","metadata":' + number + b"}")
        assert status == 400 and "not JSON" in answer["error"]["message"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
THINGS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "prompt",
    "messages",
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "stop",
    "stop_token_ids",
    "seed",
    "stream",
    "stream_options",
    "echo",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "tools",
    "tool_choice",
    "response_format",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "ignore_eos",
    "best_of",
    "user",
]
NEAR = st.sampled_from(
    [-1, 0, 1, 2, 20, 21, 2**31, 2**63, 2**64, 1e300, -0.0, 0.5, True, "", "auto", "required", [0], [[0]], [""], ["a"]]
)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.dictionaries(st.sampled_from(FIELDS), NEAR | THINGS, max_size=4), st.binary(max_size=3))
def test_no_body_breaks_the_server(server: Running, chat: bool, change: dict[str, Any], tail: bytes) -> None:
    whole = {**(CHAT if chat else TEXT), **change}
    if isinstance(whole.get("n"), int) and not isinstance(whole["n"], bool):
        whole["n"] = min(whole["n"], 4)  # so that the test does not draw hundreds of answers
    body = json.dumps(whole).encode() + tail
    check(server, "/v1/chat/completions" if chat else "/v1/completions", body)
    check(server, "/tokenize", body)
    server.wait(lambda: server.service.idle)


def test_the_server_still_answers_after_all_that(server: Running) -> None:
    assert server.openai().completions.create(model="base", prompt="x", max_tokens=3).choices
    assert not server.service.broken and server.service.flying == {"talker": 0, "base": 0}
