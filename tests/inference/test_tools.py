"""Calls of functions: written, read again, told apart from words, and kept to their schema when forced."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.inference.engine import Sampling
from herdbook.inference.server.bodies import ChatBody
from herdbook.inference.server.chats import ChatReply
from herdbook.inference.server.service import Ask, Ticket, Update
from herdbook.tokens.tools import Call, call_text, calls_schema, read_calls, with_tools
from tests.support.servers import TOKENIZER, Running, chat_engine

PLACE = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "$defs": {"unit": {"enum": ["C", "F"]}},
            "properties": {"town": {"type": "string", "maxLength": 6}, "unit": {"$ref": "#/$defs/unit"}},
            "required": ["town", "unit"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
CALLS = st.lists(
    st.builds(Call, st.sampled_from(["weather", "now"]), st.dictionaries(st.text(max_size=5), VALUES, max_size=3)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(CALLS)
def test_calls_are_read_as_they_were_written(calls: list[Call]) -> None:
    assert read_calls(call_text(calls), {"weather", "now"}) == calls


@settings(max_examples=150, deadline=None)
@given(CALLS)
def test_calls_survive_the_dialogs_tokens(calls: list[Call]) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": call_text(calls)}]
    text = TOKENIZER.decode(TOKENIZER.chat(messages))
    turn = text.split("<|start_header_id|>assistant<|end_header_id|>\n\n")[1].split("<|eot_id|>")[0]
    assert read_calls(turn, {"weather", "now"}) == calls


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{",
        '{"name": "weather"}',
        '{"name": "other", "parameters": {}}',
        '{"name": "weather", "parameters": []}',
        '{"name": ["weather"], "parameters": {}}',
        '{"name": "weather", "parameters": {}} and so on',
        '[{"name": "weather", "parameters": {}}]',
        '{"a":' * 100_000,
    ],
)
def test_everything_else_is_words(text: str) -> None:
    assert read_calls(text, {"weather"}) is None


def test_functions_are_told_where_llama_looks_for_them() -> None:
    told = with_tools([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}], [NOW])
    assert told[0] == {"role": "system", "content": "Environment: ipython\n\nbe kind"}
    assert told[1]["content"].endswith("hi") and json.dumps(NOW, indent=4) in told[1]["content"]
    assert [message["role"] for message in with_tools([], [NOW])] == ["system"]
    assert with_tools(told, []) == told


def test_a_schema_of_calls_takes_calls_and_nothing_else() -> None:
    schema = calls_schema([PLACE["function"], NOW["function"]])  # type: ignore[list-item]
    jsonschema.Draft202012Validator.check_schema(schema)
    good = [{"name": "weather", "parameters": {"town": "Ulm", "unit": "C"}}, {"name": "now", "parameters": {}}]
    for one in good:
        jsonschema.validate(one, schema)
    bad = [{"name": "weather", "parameters": {"town": "Ulm", "unit": "K"}}, {"name": "now", "parameters": {"a": 1}}]
    for one in [*bad, {"name": "x", "parameters": {}}, {"name": "now"}]:
        assert not jsonschema.Draft202012Validator(schema).is_valid(one)


@pytest.fixture(scope="module")
def server() -> Any:
    """A model that was taught to chat, with room for what tools say."""
    with Running({"talker": chat_engine(0, max_length=4096)}) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_forced_call_keeps_to_the_functions_schema(server: Running, choice: Any, stream: bool) -> None:
    asked: Any = {"model": "talker", "messages": [{"role": "user", "content": "?"}], "tools": [PLACE, NOW]}
    names = set()
    for seed in range(6):
        got = server.openai().chat.completions.create(**asked, tool_choice=choice, seed=seed, stream=stream)
        if stream:
            choices = [chunk.choices[0] for chunk in got]
            assert choices[-1].finish_reason == "tool_calls"
            assert not any(one.delta.content for one in choices)
            calls = [call for one in choices for call in one.delta.tool_calls or ()]
        else:
            assert got.choices[0].finish_reason == "tool_calls" and got.choices[0].message.content is None
            calls = got.choices[0].message.tool_calls
        assert len(calls) == 1 and calls[0].id.startswith("call_")
        names.add(calls[0].function.name)
        arguments = json.loads(calls[0].function.arguments)
        if calls[0].function.name == "weather":
            jsonschema.validate(arguments, PLACE["function"]["parameters"])  # type: ignore[index]
        else:
            assert arguments == {}
    assert names == {"weather"} if isinstance(choice, dict) else {"weather", "now"}


def test_a_dialog_goes_on_after_a_call(server: Running) -> None:
    client = server.openai()
    messages: list[Any] = [{"role": "user", "content": "?"}]
    first = client.chat.completions.create(model="talker", messages=messages, tools=[PLACE], tool_choice="required")
    call = first.choices[0].message.tool_calls[0]
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": '{"sun": true}'}]
    dumped = [one if isinstance(one, dict) else one.model_dump() for one in messages]
    tokens = server.ask("/tokenize", {"messages": dumped, "tools": [PLACE]})[2]["tokens"]
    text = TOKENIZER.decode(tokens)
    written = call_text([Call("weather", json.loads(call.function.arguments))])
    assert f"assistant<|end_header_id|>\n\n{written}<|eom_id|>" in text
    assert '<|start_header_id|>ipython<|end_header_id|>\n\n{"sun": true}<|eot_id|>' in text
    second = client.chat.completions.create(model="talker", messages=messages, tools=[PLACE], max_tokens=5)
    assert second.usage.prompt_tokens == len(tokens)


def replies(text: str, cuts: list[int], **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An answer with this text, whole and as a stream's choices, when it comes in pieces cut there."""
    fields = {"messages": [{"role": "user", "content": "?"}], "tools": [PLACE, NOW], "max_tokens": 9, **more}
    body = ChatBody.model_validate(fields)
    ticket: Any = Ticket(None, "m", [Ask([1], Sampling())])  # type: ignore[arg-type]
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole, streamed = ChatReply(body, ticket, "m", TOKENIZER), ChatReply(body, ticket, "m", TOKENIZER)
    choices = streamed.opening()
    for place, piece in enumerate(pieces):
        update = Update(0, piece, [65], [], "stop" if place == len(pieces) - 1 else None, 0, None)
        whole.take(update)
        choices += streamed.pieces(update)
    return whole.whole()["choices"][0], choices


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [
            "hello there",
            '{"name": "now", "parameters": {}}',
            ' {"name": "now", "parameters": {}}; {"name": "weather", "arguments": {"town": "Ulm"}}',
            '{"name": "never", "parameters": {}}',
            '{"name": "now", ',
            "  ",
            "",
        ]
    ),
    st.lists(st.integers(0, 80), max_size=8),
    st.booleans(),
)
def test_a_stream_says_what_the_whole_answer_says(text: str, cuts: list[int], several: bool) -> None:
    places = sorted(min(cut, len(text)) for cut in cuts)
    whole, choices = replies(text, places, parallel_tool_calls=several)
    content = "".join(choice["delta"].get("content") or "" for choice in choices)
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    assert content == (whole["message"]["content"] or "")
    want = [call["function"] for call in whole["message"].get("tool_calls", ())]
    assert [call["function"] for call in calls] == want
    read = read_calls(text, {"now", "weather"}) or []
    assert [call["name"] for call in want] == [call.name for call in (read if several else read[:1])]


def test_words_are_sent_at_once() -> None:
    _, choices = replies("hello there", [3, 6])
    assert [choice["delta"].get("content") for choice in choices[1:]] == ["hel", "lo ", "there"]


def test_json_by_response_format_validates_through_the_client(server: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"legs": {"type": "integer", "minimum": 0, "maximum": 8}, "name": {"enum": ["cow", "goat"]}},
        "required": ["legs", "name"],
        "additionalProperties": False,
    }
    shape: Any = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}
    messages: Any = [{"role": "user", "content": "?"}]
    client = server.openai()
    got = client.chat.completions.create(model="talker", messages=messages, response_format=shape, n=16, seed=1)
    assert len({choice.message.content for choice in got.choices}) > 1
    for choice in got.choices:
        jsonschema.validate(json.loads(choice.message.content), schema)
        assert choice.finish_reason == "stop"
    regex = client.completions.create(model="talker", prompt="x", extra_body={"guided_regex": "[ab]{3}c"}, max_tokens=9)
    assert len(regex.choices[0].text) == 4 and regex.choices[0].text[3] == "c"
