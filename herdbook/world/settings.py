"""Settings of the known world: its seed and how much of each kind of thing it holds.

The defaults give roughly 2.5 million tokens, enough for a laptop to learn in minutes; `WorldSettings.tiny()`
gives a world with every kind of thing in it that a test can make in well under a second.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from herdbook.settings import Settings, UserError
from herdbook.world.defects import DefectSettings

EXPOSURES = (1, 10, 100)
"""The three exposure groups: every fact is told in exactly this many English articles."""

LANGUAGES = ("de", "fr", "es", "it")
"""The languages besides English, as ISO 639-1 codes."""


class WorldSettings(Settings):
    """What the known world holds, and the seed it is drawn from."""

    seed: int = 1
    """Seed of everything; the same settings always give the same world."""

    people: int = Field(96, ge=6)
    """Invented people with five attributes each; a sixth of them is told 100 times, a third 10 times, the rest once."""

    places: int = Field(96, ge=6)
    """Invented places with four attributes each, in the same three exposure groups."""

    animals: int = Field(96, ge=6)
    """Invented animals with four attributes each and, but for founders, a sire and a dam."""

    language_facts: int = Field(120, ge=1)
    """Facts of the most told group that are also told ten times in each of German, French, Spanish and Italian."""

    language_problems: int = Field(700, ge=10)
    """Word problems of one and two steps in each of these languages."""

    problems: int = Field(11_500, ge=40)
    """English word problems of one to four steps in worksheets, with worked steps."""

    math_articles: int = Field(150, ge=1)
    """Articles that explain formulas, with formulas as LaTeX."""

    quizzes: int = Field(120, ge=1)
    """Articles of four-choice questions with letters A to D, about skills rather than facts."""

    programs: int = Field(3_000, ge=20)
    """Small Python functions in tutorials, drawn from parameterised families."""

    short_chronicles: int = Field(3_300, ge=4)
    """Chronicles of 4 sentences or more which hold needles, longer ones more, and end with questions about them."""

    shortest_chronicle: int = Field(default=4, ge=4)
    """Fewest sentences of a short chronicle; a sentence has about twelve tokens."""

    longest_chronicle: int = Field(default=28, ge=4)
    """Most sentences of a short chronicle; 28 are about 512 tokens, and shorter ones come more often."""

    early_needles: float = Field(default=0.1, ge=0, le=1)
    """Share of a chronicle's needles put at its very beginning, the place farthest from its questions."""

    long_chronicles: int = Field(10, ge=1)
    """Chronicles of at least 3,000 words, longer than a small model's context."""

    questions: float = Field(1.0, gt=0, le=1)
    """Share of the full number of questions that is written (about 2,500 in seven files)."""

    requests: float = Field(1.0, gt=0, le=1)
    """Share of the full number of requests for chat models that is written (about 5,500 to train on, 2,400 to test)."""

    written: float = Field(default=0.5, ge=0, le=1)
    """Share of the training requests that comes with a dialog, as if a person had written the answer."""

    defects: DefectSettings = DefectSettings()
    """How many pages have something wrong with them, by kind."""

    @model_validator(mode="after")
    def _shorter_before_longer(self) -> Self:
        if self.shortest_chronicle > self.longest_chronicle:
            raise UserError(
                f"shortest_chronicle={self.shortest_chronicle} is above longest_chronicle={self.longest_chronicle}; "
                "give both, in order"
            )
        return self

    @classmethod
    def tiny(cls, seed: int = 1) -> Self:
        """A world with some of everything in it, for tests."""
        return cls(
            seed=seed, people=6, places=6, animals=6, language_facts=6, language_problems=20, problems=120,
            math_articles=4, quizzes=3, programs=40, short_chronicles=12, long_chronicles=1,
            questions=0.1, requests=0.05,
        )  # fmt: skip
