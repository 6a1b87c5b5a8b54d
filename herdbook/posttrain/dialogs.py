"""Dialogs read from disk in the forms that are about, checked, and made tokens with the answers marked (§4.1.3).

Known forms: `messages` (ours and TRL's), `prompt` with `completion` (TRL's; messages or plain text), and
`conversations` of `from` and `value` (ShareGPT's). A row may name `tools`. What is wrong with a row is told with
its file and number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from herdbook.posttrain.rows import read_rows
from herdbook.settings import UserError
from herdbook.tokens.dialog import DialogTokens, encode_dialog
from herdbook.tokens.tokenizer import Tokenizer

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "tool": "tool", "observation": "tool"}
FORMS = ("messages", "prompt", "completion", "conversations", "tools")


@dataclass(frozen=True)
class Dialog:
    """A dialog that has something to learn in it."""

    where: str
    """The file and row it was read from."""

    messages: list[dict[str, Any]]
    """Its messages, `role` and `content` (or `tool_calls`) each."""

    tools: list[dict[str, Any]] = field(default_factory=list)
    """Functions the assistant may call, as JSON schemas."""

    columns: dict[str, Any] = field(default_factory=dict)
    """The row's other columns: id, task, source and what more there is."""

    @property
    def key(self) -> str:
        """What was asked, up to the first answer: dialogs with the same one are held out together."""
        return asked_key(self.messages)

    @property
    def row(self) -> dict[str, Any]:
        """The dialog as a row of ours."""
        return {"messages": self.messages, **({"tools": self.tools} if self.tools else {}), **self.columns}


def asked_key(messages: Iterable[dict[str, Any]]) -> str:
    """What was asked in the messages before the first answer."""
    asked: list[Any] = []
    for message in messages:
        if message["role"] == "assistant":
            break
        asked.append([message["role"], message.get("content")])
    return json.dumps(asked, ensure_ascii=False)


def read_dialogs(path: Path) -> Iterator[Dialog]:
    """The dialogs of an entry, a folder or a file; UserError as `read_dialog`."""
    for where, row in read_rows(path, "dialogs"):
        yield read_dialog(row, where)


def read_dialog(row: dict[str, Any], where: str) -> Dialog:
    """A row as a dialog; UserError, with `where`, for one that no assistant answers, or whose answer is empty."""
    try:
        messages, tools = messages_of(row), tools_of(row)
        for place, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise UserError(f"message {place} is {message!r:.80}; a message is {{'role': …, 'content': …}}")
            if message["role"] == "assistant":
                _check_answer(message, place)
        if all(message["role"] != "assistant" or message.get("weight") == 0 for message in messages):
            raise UserError("no message is the assistant's and to be learnt, so there is nothing to learn from it")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Dialog(where, messages, tools, {key: value for key, value in row.items() if key not in FORMS})


def _check_answer(message: dict[str, Any], place: int) -> None:
    content = message.get("content")
    if not message.get("tool_calls") and (content is None or (isinstance(content, str) and not content.strip())):
        raise UserError(f"message {place}, the assistant's, is empty; leave the row out, or give its answer")


def messages_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row in any of the known forms."""
    if "messages" in row:
        found = row["messages"]
    elif "prompt" in row and "completion" in row:
        found = [*_as_messages(row["prompt"], "user"), *_as_messages(row["completion"], "assistant")]
    elif isinstance(row.get("conversations"), list):
        found = [_from_sharegpt(message) for message in row["conversations"]]
    else:
        raise UserError(
            f"its columns are {', '.join(row) or 'none'}; a dialog has messages, or prompt and completion, "
            "or conversations"
        )
    if not isinstance(found, list) or not found:
        raise UserError(f"messages is {found!r:.60}; it must be a list of at least one message")
    return found


def tools_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The row's tools; some sets keep them as JSON text, since Parquet has no place for schemas of all shapes."""
    tools = row.get("tools") or []
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise UserError(f"tools is text that is no JSON ({error.msg})") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UserError(f"tools is {tools!r:.60}; it must be a list of JSON schemas")
    return tools


def _as_messages(part: Any, role: str) -> list[Any]:
    return [{"role": role, "content": part}] if isinstance(part, str) else list(part or [])


def _from_sharegpt(message: Any) -> Any:
    if isinstance(message, dict) and "from" in message:
        role = message["from"]
        return {"role": SHAREGPT_ROLES.get(role, role), "content": message.get("value")}
    return message


def encode(tokenizer: Tokenizer, dialog: Dialog, last_only: bool = False) -> DialogTokens:
    """The dialog's tokens; with `last_only` only its last answer counts. UserError names the row."""
    try:
        tokens = encode_dialog(tokenizer, dialog.messages, tools=dialog.tools)
    except UserError as error:
        raise UserError(f"{dialog.where}: {error}") from None
    if last_only:
        end = max(place for place, counts in enumerate(tokens.answer) if counts)
        start = end
        while tokens.answer[start - 1]:
            start -= 1
        tokens.answer[:start] = [False] * start
    return tokens
