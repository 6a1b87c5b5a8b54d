"""A dialog as plain text: for judges to read, and for measures of its words."""

from __future__ import annotations

import json
from typing import Any

from herdbook.corpus.quality.rubrics import excerpt

Row = dict[str, Any]
"""A dialog with its columns, as it stands in a file."""

LONGEST = 6000
"""Characters of a dialog that a judge is shown, two thirds from its start."""


def said(message: dict[str, Any]) -> str:
    """What a message says; calls of tools as JSON."""
    words = str(message.get("content") or "").strip()
    calls = message.get("tool_calls")
    return f"{words}\n{json.dumps(calls, ensure_ascii=False)}".strip() if calls else words


def shown(row: dict[str, Any], last: bool = True) -> str:
    """The messages with their roles, the last answer left out at wish; its middle goes when it is long."""
    messages = row["messages"] if last else row["messages"][:-1]
    return excerpt("\n\n".join(f"{message['role'].upper()}: {said(message)}" for message in messages), LONGEST)


def words_of(row: dict[str, Any]) -> str:
    """What everybody says, without roles and system prompts."""
    return "\n".join(said(message) for message in row["messages"] if message["role"] != "system")
