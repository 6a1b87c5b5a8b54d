"""One request to a chat model: what is asked, an ideal answer, and the check that any answer is judged by.

Training and test requests are made of different things: a fact, a story with its numbers, a function, or a subject
with its wording belongs to one side by a hash, so no test answer was ever shown in training.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from herdbook.world.facts import COLOURS, INSTRUMENTS, PRODUCTS, WORKPLACES, Fact
from herdbook.world.paraphrases import QUESTION_FORMS

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
TEST_PERCENT = 25

Message = dict[str, str]
Check = dict[str, Any]

CHOICES: dict[str, tuple[str, ...]] = {
    "workplace": WORKPLACES,
    "instrument": INSTRUMENTS,
    "product": PRODUCTS,
    "colour": COLOURS,
}
"""Attributes with so few values that an answer could name them all."""


@dataclass(frozen=True)
class Request:
    """A request; `more` are further columns, such as exposures, language or wording."""

    task: str
    messages: tuple[Message, ...]
    reference: str
    check: Check
    difficulty: int = 1
    tools: tuple[dict[str, Any], ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    def row(self, name: str, split: Split) -> dict[str, Any]:
        """As it stands in a file."""
        row: dict[str, Any] = {
            "id": name,
            "task": self.task,
            "messages": list(self.messages),
            "reference": self.reference,
            "check": self.check,
            "split": split,
            "difficulty": self.difficulty,
            **self.more,
        }
        return row | {"tools": list(self.tools)} if self.tools else row

    @property
    def key(self) -> str:
        """What makes it another request than others."""
        return json.dumps([self.messages, self.tools], ensure_ascii=False)


def side(*parts: object) -> Split:
    """The side that something belongs to."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") % 100 < TEST_PERCENT else "train"


def side_of(fact: Fact) -> Split:
    """The side on which a fact is asked for, in whatever words."""
    return side("fact", fact.id)


def user(text: str) -> tuple[Message, ...]:
    """A dialog of one message."""
    return ({"role": "user", "content": text},)


def said(role: str, text: str) -> Message:
    """One message."""
    return {"role": role, "content": text}


def sentence(fact: Fact) -> str:
    """The fact in its plainest words, which pages use too."""
    return QUESTION_FORMS[fact.subject.kind, fact.attribute].format(s=fact.subject.name, v=fact.value)


def bare(value: str) -> str:
    """A value without its article."""
    return value.removeprefix("the ")


def told(fact: Fact) -> Check:
    """The check that an answer tells the fact's value, and none of the others it could have."""
    others = [bare(value) for value in CHOICES.get(fact.attribute, ()) if value != fact.value]
    check: Check = {"kind": "text", "values": [bare(fact.value)]}
    return check | {"others": others} if others else check
