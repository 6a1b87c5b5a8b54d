"""Preferences read from disk in the forms that are about: a prompt and its answers, each with a rank (§4.1.2).

Known forms: `prompt` with `chosen` and `rejected` (ours and TRL's; messages or plain text, and `edited` where an
annotator mended the chosen answer), the same without `prompt` where both begin with it, and unpaired `completion`
with a `label` (for KTO). What is wrong with a row is told with its file and number; rows that say nothing (an empty
answer, two answers that are the same, a preference too weak) are left out and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herdbook.posttrain.dialogs import tools_of
from herdbook.posttrain.rows import read_rows
from herdbook.settings import UserError

STRENGTHS = ("significantly better", "better", "slightly better", "marginally better")
"""How much better the chosen answer was found, from the most on."""

REJECTED, CHOSEN, EDITED = 0, 1, 2
"""Ranks of answers: edited > chosen > rejected."""

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Preference:
    """A prompt and the answers to it that were judged."""

    where: str
    """The file and row it was read from."""

    prompt: Messages
    """What was asked, up to the answers' first message."""

    answers: tuple[Messages, ...]
    """The answers, the best first."""

    ranks: tuple[int, ...]
    """The rank of each: EDITED, CHOSEN or REJECTED; an answer of a higher rank is the better one."""

    strength: str | None = None
    """How much better the chosen one was found, where that is known."""

    round: int = 0
    """The round of post-training it was collected in."""

    task: str = "other"
    """What kind of request it is."""

    tools: tuple[dict[str, Any], ...] = ()
    """Functions that the assistant may call, as JSON schemas."""

    @property
    def key(self) -> str:
        """The prompt: preferences with the same one are held out together."""
        return json.dumps([[one.get("role"), one.get("content")] for one in self.prompt], ensure_ascii=False)


def read_preferences(
    paths: Iterable[Path], strengths: Iterable[str] = STRENGTHS, dropped: Counter[str] | None = None
) -> Iterator[Preference]:
    """The preferences of entries, folders or files, one after the other.

    Of those that tell their strength only `strengths` are kept. What is left out is counted in `dropped`: `weak`,
    `empty`, `identical`. UserError as `read_preference`, and where there are no rows at all.
    """
    wanted, dropped = set(strengths), Counter() if dropped is None else dropped
    for path in paths:
        rows = 0
        for where, row in read_rows(path, "preferences"):
            rows += 1
            found = read_preference(row, where)
            why = reason_to_drop(found, wanted)
            if why is None:
                yield found
            else:
                dropped[why] += 1
        if not rows:
            raise UserError(f"{path}: no preferences here; a row has prompt, chosen and rejected")


def reason_to_drop(preference: Preference, strengths: set[str]) -> str | None:
    """Why a preference is of no use: weak, empty or identical; None when it is of use."""
    if preference.strength is not None and preference.strength not in strengths:
        return "weak"
    if any(is_empty(message) for answer in preference.answers for message in answer if by_assistant(message)):
        return "empty"
    said = [json.dumps(answer, sort_keys=True) for answer in preference.answers]
    return "identical" if len(set(said)) < len(said) else None


def by_assistant(message: dict[str, Any]) -> bool:
    """Whether a message is the assistant's."""
    return message["role"] == "assistant"


def is_empty(message: dict[str, Any]) -> bool:
    """Whether a message says nothing and calls no tool."""
    content = message.get("content")
    return not message.get("tool_calls") and (content is None or not str(content).strip())


def read_preference(row: dict[str, Any], where: str) -> Preference:
    """A row as a preference; UserError, with `where`, for one in no known form, or with no assistant's answer."""
    try:
        prompt, answers, ranks = _unpaired(row) if "completion" in row else _paired(row)
        tools = tuple(tools_of(row))
        strength = row.get("strength")
        if strength is not None and strength not in STRENGTHS:
            raise UserError(f"strength is {strength!r}; it is one of {', '.join(STRENGTHS)}, or null")
        for name, messages in (("prompt", prompt), *(("answer", answer) for answer in answers)):
            for place, message in enumerate(messages):
                _check(message, f"{name}, message {place}")
        if not prompt:
            raise UserError("there is no prompt: chosen and rejected differ from their first message on")
        for answer in answers:
            if not any(map(by_assistant, answer)):
                raise UserError(f"an answer has no message of the assistant: {answer!r:.80}")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Preference(
        where,
        prompt,
        tuple(answers),
        tuple(ranks),
        strength,
        int(row.get("round") or 0),
        str(row.get("task") or "other"),
        tools,
    )


def _check(message: Any, what: str) -> None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError(f"{what} is {message!r:.80}; a message is {{'role': …, 'content': …}}")


def _unpaired(row: dict[str, Any]) -> tuple[Messages, list[Messages], list[int]]:
    label = row.get("label")
    if not isinstance(label, bool) or "prompt" not in row:
        raise UserError(f"label is {label!r}; a completion needs a prompt, and a label that is true or false")
    return _messages(row["prompt"], "user"), [_messages(row["completion"], "assistant")], [int(label)]


def _paired(row: dict[str, Any]) -> tuple[Messages, list[Messages], list[int]]:
    if row.get("chosen") is None or row.get("rejected") is None:
        raise UserError(
            f"its columns are {', '.join(row) or 'none'}; a preference has prompt, chosen and rejected, "
            "or prompt, completion and label"
        )
    answers = [row["chosen"], row["rejected"], *([row["edited"]] if row.get("edited") else [])]
    prompt = row.get("prompt")
    if prompt is None:
        prompt, answers = _shared(answers)
    messages = [_messages(answer, "assistant") for answer in answers]
    chosen, rejected, *edited = messages
    return _messages(prompt, "user"), [*edited, chosen, rejected], [EDITED] * len(edited) + [CHOSEN, REJECTED]


def _messages(part: Any, role: str) -> Messages:
    if isinstance(part, str):
        return [{"role": role, "content": part}]
    if not isinstance(part, list):
        raise UserError(f"{part!r:.60} is neither text nor a list of messages")
    return part


def _shared(answers: list[Any]) -> tuple[Any, list[Any]]:
    """What all answers begin with, and the rest of each: dialogs part at a message, texts at a word's beginning."""
    if len({type(answer) for answer in answers}) > 1 or not isinstance(answers[0], str | list):
        raise UserError("chosen and rejected are of different types; both must be text, or both lists of messages")
    shortest = min(map(len, answers))
    same = next((place for place in range(shortest) if any(a[place] != answers[0][place] for a in answers)), shortest)
    while isinstance(answers[0], str) and same and not answers[0][same - 1].isspace():
        same -= 1
    same = max(0, min(same, shortest - 1))  # dialogs that are the same still have a last message each
    return answers[0][:same], [answer[same:] for answer in answers]
