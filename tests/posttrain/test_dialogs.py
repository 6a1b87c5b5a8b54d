"""Dialogs in the forms that are about, gathered and checked; what is wrong is told with file and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.posttrain.dialogs import encode, read_dialog, read_dialogs
from herdbook.posttrain.gather import gather
from herdbook.posttrain.preference_batches import encode_all
from herdbook.posttrain.preferences import STRENGTHS, read_preference
from herdbook.posttrain.rows import read_rows, write_rows
from herdbook.posttrain.settings import DialogsSettings
from herdbook.settings import UserError
from herdbook.tokens.dialog import encode_dialog
from herdbook.tokens.tokenizer import Tokenizer
from tests.posttrain.conftest import Write, sums

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
FORMS: list[dict[str, Any]] = [
    {"messages": [USER, ANSWER]},
    {"prompt": [USER], "completion": [ANSWER]},
    {"prompt": "Hi", "completion": "Hello."},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
    {"conversations": [USER, ANSWER]},
]


@pytest.mark.parametrize("row", FORMS)
def test_every_form_is_the_same_dialog(row: dict[str, Any]) -> None:
    dialog = read_dialog({**row, "source": "somewhere"}, "x")
    assert dialog.messages == [USER, ANSWER]
    assert dialog.columns == {"source": "somewhere"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("not json", "rows.jsonl row 2: not JSON"),
        ("[1]", r"rows.jsonl row 2: '\[1\]' is not a JSON object"),
        ({"text": "x"}, "row 2: its columns are text; a dialog has messages"),
        ({"messages": []}, "row 2: messages is"),
        ({"messages": [USER]}, "row 2: no message is the assistant's"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "row 2: message 1, the assistant's, is empty"),
        ({"messages": [USER, {"role": "assistant"}]}, "row 2: message 1, the assistant's, is empty"),
        ({"messages": [USER, "Hello."]}, "row 2: message 1 is 'Hello.'"),
        ({"messages": [{"role": "narrator", "content": "x"}, ANSWER]}, "row 2: message 0 has the role 'narrator'"),
        ({"messages": [USER, ANSWER], "tools": "{"}, "row 2: tools is text that is no JSON"),
    ],
)
def test_a_bad_row_is_named(write: Write, chat_tokenizer: Tokenizer, row: Any, says: str) -> None:
    folder = write("set", [{"messages": [USER, ANSWER]}, row])
    with pytest.raises(UserError, match=says):
        for dialog in read_dialogs(folder):
            encode(chat_tokenizer, dialog)


def test_a_folder_without_rows_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.jsonl or \.parquet files here"):
        list(read_rows(tmp_path))


def test_parquet_and_jsonl_hold_the_same_rows(tmp_path: Path) -> None:
    rows = sums(0, 5)
    write_rows(tmp_path / "a" / "dialogs" / "rows.jsonl", rows)
    (tmp_path / "b").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b" / "rows.parquet")
    read = [[dialog.messages for dialog in read_dialogs(tmp_path / name)] for name in ("a", "b")]
    assert read[0] == read[1] == [row["messages"] for row in rows]


def test_our_rows_load_in_datasets_as_trl_wants_them(tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl import is_conversational

    write_rows(tmp_path / "rows.jsonl", sums(0, 5))
    found = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(found) == 5
    assert is_conversational(found[0])


def test_gathering_takes_files_and_answered_requests_once_each(tmp_path: Path) -> None:
    requests = [
        {"id": "1", "task": "fact", "messages": [USER], "reference": "Hello.", "check": {}, "split": "train"},
        {"id": "2", "task": "unknown", "messages": [USER], "reference": None, "check": {}, "split": "train"},
        {"id": "3", "task": "chat", "messages": [USER], "reference": "Hi there.", "check": {}, "split": "train"},
    ]
    write_rows(tmp_path / "world" / "train.jsonl", requests)
    write_rows(
        tmp_path / "more.jsonl", [{"prompt": "Hi", "completion": "Hello."}, {"prompt": "Bye", "completion": "Bye."}]
    )
    settings = DialogsSettings(files=(tmp_path / "more.jsonl",))
    figures = gather(settings, [tmp_path / "world"], None, tmp_path / "out")
    assert figures == {"dialogs": 3, "repeated": 1, "tasks": {"chat": 1, "fact": 1, "other": 1}}
    rows = [json.loads(line) for line in (tmp_path / "out" / "dialogs" / "dialogs.jsonl").read_text().splitlines()]
    assert [row["messages"][-1]["content"] for row in rows] == ["Hello.", "Hi there.", "Bye."]
    assert [row["source"] for row in rows] == ["reference", "reference", "more.jsonl"]
    only = gather(DialogsSettings(tasks=("chat",)), [tmp_path / "world"], None, tmp_path / "chat")
    assert only["dialogs"] == 1
    with pytest.raises(UserError, match="found no dialogs"):
        gather(DialogsSettings(tasks=("none",)), [tmp_path / "world"], None, tmp_path / "none")


def test_the_better_answers_of_preferences_are_dialogs(write: Write, chat_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "now", "parameters": {}}}]
    call = {"role": "assistant", "content": '{"name": "now", "parameters": {}}'}
    best = {"role": "assistant", "content": "Hello, you."}
    bad = {"role": "assistant", "content": "No."}
    rows = [
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [bad], "strength": "better", "task": "chat"},
        {"prompt": [USER], "chosen": [bad], "rejected": [ANSWER], "strength": "marginally better", "task": "chat"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [bad], "edited": [best], "task": "fact"},
        {"prompt": [USER], "chosen": [call], "rejected": [ANSWER], "tools": tools, "task": "tool"},
        {"prompt": "Hm", "completion": "Hm.", "label": False},
        {"prompt": "Hm", "completion": "Yes?", "label": True},
    ]
    figures = gather(DialogsSettings(), None, [write("pairs", rows, "preferences")], tmp_path / "out")
    assert figures == {"dialogs": 4, "repeated": 0, "tasks": {"chat": 1, "fact": 1, "other": 1, "tool": 1}}
    found = list(read_dialogs(tmp_path / "out"))
    assert [dialog.messages[-1]["content"] for dialog in found] == ["Hello.", "Hello, you.", call["content"], "Yes?"]
    assert [dialog.columns["source"] for dialog in found] == ["chosen", "edited", "chosen", "chosen"]
    example = encode_all(chat_tokenizer, [read_preference(rows[3], "x")], 1000)[0]
    learnt = encode(chat_tokenizer, found[2]).ids  # the same tokens as preference training reads of it
    assert learnt == [*example.trunk.tolist(), *example.answers[0].ids.tolist()]
    weak = gather(DialogsSettings(strengths=STRENGTHS), None, [tmp_path / "pairs"], tmp_path / "all")
    assert weak["tasks"]["chat"] == 2


def test_a_preferences_answers_are_told_their_tools(chat_tokenizer: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "now", "parameters": {}}}]
    call = {"role": "assistant", "content": '{"name": "now", "parameters": {}}'}
    row = {"prompt": [USER], "chosen": [call], "rejected": [ANSWER], "tools": json.dumps(tools)}
    example = encode_all(chat_tokenizer, [read_preference(row, "x")], 1000)[0]
    for answer, message in zip(example.answers, (call, ANSWER), strict=True):
        whole = encode_dialog(chat_tokenizer, [USER, message], tools=tools)
        assert [*example.trunk.tolist(), *answer.ids.tolist()] == whole.ids
