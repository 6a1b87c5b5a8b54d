"""Questions about what a model may have read (§4.3.6, steps 1 and 2): made of excerpts, or given as requests.

A question knows how an answer to it is judged: by the excerpt, by the value that a sentence tells, or by the check of
the request it came from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from herdbook.posttrain.judging import Prompts, ask
from herdbook.posttrain.probe_settings import ProbeSettings, QuestionTemplate
from herdbook.posttrain.rows import read_rows
from herdbook.posttrain.shown import Row
from herdbook.posttrain.writer import Message, Writer
from herdbook.settings import UserError
from herdbook.tokens.texts import draw, read_texts

PLACE = re.compile(r"\{(\w+)\}")
NAME = r"[A-ZÄÖÜ][\w'’-]*(?: [A-ZÄÖÜ][\w'’-]*)*"
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_MADE = re.compile(r"^\W*question\W{0,4}([^\n]+)\n+\W*answer\W{0,4}([^\n]+)$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """One question, and what is known about its answer."""

    id: str
    messages: list[Message]
    excerpt: str = ""
    """The text that holds the truth; empty for a request."""

    answer: str = ""
    """The value, where it is known."""

    request: Row = field(default_factory=dict)
    """The request it came from, with its check."""

    @property
    def words(self) -> str:
        """What is asked."""
        return str(self.messages[-1]["content"])


def from_requests(folder: Path, settings: ProbeSettings) -> list[Question]:
    """The training requests of the wanted tasks; UserError where there are none."""
    train = folder / "train.jsonl" if (folder / "train.jsonl").is_file() else folder
    found = [
        Question(str(row["id"]), row["messages"], answer=str(row.get("reference") or ""), request=row)
        for _, row in read_rows(train, "requests")
        if row.get("task") in settings.tasks and row.get("split") != "test"
    ]
    if not found:
        raise UserError(
            f"probe: {train} holds no requests of the tasks {', '.join(settings.tasks)}; name others in tasks"
        )
    return chosen(found, settings)


def chosen(questions: list[Question], settings: ProbeSettings) -> list[Question]:
    """As many as are wanted, chosen by a hash, in the order of their ids."""
    ordered = sorted(questions, key=lambda one: (draw(one.id, f"probe-{settings.seed}"), one.id))
    return sorted(ordered[: settings.count], key=lambda one: one.id)


def excerpts(documents: list[Path], settings: ProbeSettings) -> Iterator[tuple[str, str]]:
    """One excerpt of each document, from a line or sentence chosen by a hash of its id; with the document's id."""
    for entry in documents:
        for texts in read_texts(entry):
            for id, text in zip(texts.ids, texts.texts):
                starts = [0, *(match.end() for match in _SENTENCE.finditer(text) if match.end() < len(text))]
                start = starts[int(draw(id, f"excerpt-{settings.seed}") * len(starts))]
                cut = text[start : start + settings.excerpt]
                if start + settings.excerpt < len(text) and (ends := [m.start() for m in _SENTENCE.finditer(cut)]):
                    cut = cut[: ends[-1]]  # a sentence that is cut off tells half a fact
                yield id, cut.strip()


def sentence_pattern(template: QuestionTemplate) -> re.Pattern[str]:
    """What a sentence of the template looks like; `subject` is a name, other places are short runs of words."""
    parts, at = [], 0
    for match in PLACE.finditer(template.told):
        inner = NAME if match[1] == "subject" else r"[^.!?,;:\n]{1,60}?"
        parts += [re.escape(template.told[at : match.start()]), f"(?P<{match[1]}>{inner})"]
        at = match.end()
    return re.compile(r"(?<!\w)" + "".join(parts) + re.escape(template.told[at:]))


def by_templates(documents: list[Path], settings: ProbeSettings) -> list[Question]:
    """One question for each fact that a sentence of the excerpts tells; facts told twice are asked once."""
    patterns = [(sentence_pattern(template), template) for template in settings.templates]
    found: dict[str, Question] = {}
    for id, text in excerpts(documents, settings):
        for pattern, template in patterns:
            for match in pattern.finditer(text):
                places = match.groupdict()
                words = template.asked.format_map(places)
                one = Question(f"{id}:{match.start()}", [user(words)], text, places["answer"])
                found.setdefault(words, one)
    if not found:
        raise UserError(
            f"probe: no sentence of the documents is like any of the {len(patterns)} templates, the first of which is "
            f"{settings.templates[0].told!r}; give templates that fit"
        )
    return chosen(list(found.values()), settings)


def read_question(reply: str) -> tuple[str, str] | None:
    """Question and answer as a judge made them; None where a line is missing or the question gives the answer away."""
    found = _MADE.search(reply.strip())
    if found is None:
        return None
    words, answer = found[1].strip(" *"), found[2].strip(" *")
    return None if not answer or answer.casefold() in words.casefold() else (words, answer)


def by_judge(documents: list[Path], settings: ProbeSettings, judge: Writer, count: Counter[str]) -> list[Question]:
    """One question on each excerpt, made by a judge."""
    texts = sorted(excerpts(documents, settings), key=lambda one: (draw(one[0], f"probe-{settings.seed}"), one[0]))
    texts = [one for one in texts if one[1]][: settings.count]
    prompts = Prompts(settings.judge.prompts)
    asked = [prompts.fill("probe_question", excerpt=text) for _, text in texts]
    made = ask(judge, asked, read_question, count, settings.judge.max_tokens)
    return [Question(id, [user(one[0])], text, one[1]) for (id, text), one in zip(texts, made, strict=True) if one]


def user(words: str) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": words}
