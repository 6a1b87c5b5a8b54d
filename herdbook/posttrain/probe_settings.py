"""Settings of knowledge probing (§4.3.6). They import no torch."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from herdbook.posttrain.select_settings import JudgeSettings
from herdbook.settings import Settings, UserError

_PLACE = re.compile(r"\{(\w+)\}")


class QuestionTemplate(Settings):
    """A sentence that tells a fact, and the question it answers."""

    told: str
    """The sentence with places in braces, `{answer}` among them: `The {attribute} of {subject} is {answer}.`"""

    asked: str
    """The question, with the same places: `What is the {attribute} of {subject}?`"""

    @model_validator(mode="after")
    def _places(self) -> Self:
        if "{answer}" not in self.told or "{answer}" in self.asked:
            raise UserError(f"template {self.told!r}: the sentence must hold {{answer}}, and the question must not")
        if unknown := set(_PLACE.findall(self.asked)) - set(_PLACE.findall(self.told)):
            raise UserError(f"template {self.asked!r}: the sentence has no place {{{min(unknown)}}}")
        return self


TEMPLATES = (
    QuestionTemplate(told="The {attribute} of {subject} is {answer}.", asked="What is the {attribute} of {subject}?"),
    QuestionTemplate(told="The {attribute} of {subject} was {answer}.", asked="What was the {attribute} of {subject}?"),
)

REFUSALS = (
    "I don't know that.",
    "I am not sure about this, so I would rather not guess.",
    "I do not know the answer to that.",
    "I'm not certain, and I do not want to make something up.",
    "I don't have enough information about that.",
)
"""Ways to say that one does not know; each is recognised as such by `evaluate/refusals.py`."""


class ProbeSettings(Settings):
    """How a model is asked what it knows, and from when on it is taught to say that it does not."""

    questions: Literal["model", "templates", "requests"] = "model"
    """Who makes questions: the judge from excerpts, templates from excerpts, or the requests that feed the stage."""

    count: int | None = Field(default=None, ge=1)
    """Most questions, chosen by a hash; all there are when not given (with documents: one an excerpt)."""

    tasks: tuple[str, ...] = ("fact",)
    """Tasks of the requests that are asked."""

    templates: tuple[QuestionTemplate, ...] = Field(default=TEMPLATES, min_length=1)
    """Sentences and the questions they answer, for `questions: templates`."""

    excerpt: int = Field(default=800, ge=40)
    """Characters of a document that a question is made from, from where a line or sentence begins."""

    answers: int = Field(default=8, ge=2)
    """Answers drawn to each question."""

    temperature: float = Field(default=0.8, gt=0)
    """Of the drawing; by it a model that guesses contradicts itself."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the fewest likeliest tokens whose probabilities reach this sum."""

    max_tokens: int = Field(default=64, ge=1)
    """Longest answer, tokens."""

    judge: JudgeSettings = JudgeSettings()
    """Who makes questions and judges answers, for `questions: model`."""

    refuse_from: float = Field(default=0.75, gt=0, le=1)
    """Share of a question's answers that are informative and wrong, from which on the model shall decline."""

    refuse: Literal["wrong", "random"] = "wrong"
    """Which questions are declined: those it gets wrong so, or as many chosen by a hash, to compare with."""

    known_from: float = Field(default=0.75, gt=0, le=1)
    """Share of right answers from which on the model's own commonest right answer becomes a dialog."""

    known_per_refusal: float | None = Field(default=1.0, ge=0)
    """Most dialogs with a right answer per dialog that declines, chosen by a hash; null takes all."""

    refusals: tuple[str, ...] = Field(default=REFUSALS, min_length=1)
    """Ways to decline; which one a question gets is chosen by a hash."""

    seed: int = 0
    """Seed of the drawing and of the choices by hash."""
