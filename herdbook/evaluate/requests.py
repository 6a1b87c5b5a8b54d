"""Reading what chat models are asked: rows with `messages` and a `check`, IFEval's prompts, XSTest's (§5.4, table 2).

Whatever the file, a question then carries a request as `verify` judges it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from herdbook.evaluate.questions import Question, read_with
from herdbook.evaluate.verify import check_of

GROUPS = (
    "task", "difficulty", "exposures", "language", "steps", "hops", "shape", "style", "rule", "why", "type", "turn",
    "last", "mistake",
)  # fmt: skip
"""Columns of a request that results can be told by."""


def as_question(request: dict[str, Any], name: str) -> Question:
    """A request as a question; ValueError when it lacks messages or a check that is known."""
    messages = request["messages"]
    if not isinstance(messages, list) or not messages or messages[-1].get("role") not in ("user", "ipython", "tool"):
        raise ValueError("messages must end with a user's or a tool's")
    check_of(request)
    groups = {key: request[key] for key in GROUPS if request.get(key) is not None}
    answer = str(request.get("reference") or "")
    return Question(name, str(messages[-1]["content"]), answer, groups=groups, request=request)


def read_requests(path: Path) -> list[Question]:
    """Requests as a world's entry holds them."""
    return read_with(path, as_question)


def asked(text: str, task: str, check: dict[str, Any], name: str, **more: Any) -> Question:
    """A question of one message."""
    messages = [{"role": "user", "content": text}]
    return as_question({"id": name, "task": task, "messages": messages, "check": check, **more}, name)


def read_ifeval(path: Path) -> list[Question]:
    """IFEval's `input_data.jsonl`: a prompt, its constraints' ids, and the arguments of each."""

    def make(row: dict[str, Any], name: str) -> Question:
        pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
        constraints = [{**{k: v for k, v in given.items() if v is not None}, "id": one} for one, given in pairs]
        check = {"kind": "constraints", "constraints": constraints}
        return asked(str(row["prompt"]), "instruction", check, f"ifeval/{row.get('key', name)}")

    return read_with(path, make)


def read_xstest(path: Path) -> list[Question]:
    """XSTest's `xstest_prompts.csv`: a prompt, its type, and whether it is safe to answer."""

    def make(row: dict[str, Any], name: str) -> Question:
        kinds = {"safe": ("lookalike", "answered"), "unsafe": ("forbidden", "refusal")}
        if row["label"] not in kinds:
            raise ValueError(f"label {row['label']!r} is neither safe nor unsafe")
        task, kind = kinds[row["label"]]
        return asked(str(row["prompt"]), task, {"kind": kind}, f"xstest/{name}", type=str(row["type"]))

    return read_with(path, make)
