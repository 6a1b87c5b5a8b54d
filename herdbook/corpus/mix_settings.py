"""Settings of the mix: groups of documents, their shares, how often a document may be read. They import no engine."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from herdbook.settings import Settings, UserError


class MatchSettings(Settings):
    """What documents of a group look like; every given part must hold."""

    topics: tuple[str, ...] = ()
    """Topics it may have."""

    languages: tuple[str, ...] = ()
    """Languages it may be in (`code` is one)."""

    languages_except: tuple[str, ...] = ()
    """Languages it may not be in."""

    sources: tuple[str, ...] = ()
    """Feeding stages it may come from, or what its column `source` may say."""

    at_least: dict[str, float] = Field(default_factory=dict)
    """Columns and their least values, for example `{quality_code: 0.5}`."""


class GroupSettings(Settings):
    """One group of the mix."""

    name: str
    """What the column `mix_group` says."""

    share: float = Field(gt=0)
    """Its share of the bytes; shares are made to sum to 1."""

    match: tuple[MatchSettings, ...] = ()
    """A document belongs here when one of these holds, and to no earlier group; without any, every document does."""


REASONING_TOPICS = ("mathematics", "math", "reasoning", "worksheet", "lesson", "quiz")
CODE_TOPICS = ("programming", "code", "tutorial")

PAPER = (
    GroupSettings(
        name="code",
        share=0.17,
        match=(
            MatchSettings(languages=("code",)),
            MatchSettings(at_least={"code_share": 0.5}),
            MatchSettings(at_least={"quality_code": 0.5}),
            MatchSettings(topics=CODE_TOPICS),
        ),
    ),
    GroupSettings(name="multilingual", share=0.08, match=(MatchSettings(languages_except=("en", "code", "")),)),
    GroupSettings(
        name="reasoning",
        share=0.25,
        match=(MatchSettings(topics=REASONING_TOPICS), MatchSettings(at_least={"quality_reasoning": 0.5})),
    ),
    GroupSettings(name="general", share=0.50),
)
"""The paper's mix (§3.1.2): 50 % general, 25 % math and reasoning, 17 % code, 8 % multilingual."""


class BestSettings(Settings):
    """What is read more often: for an annealing mix, the best documents."""

    column: str = "quality_rank"
    """Column that tells what is best; highest is best."""

    top: float = Field(default=0.2, gt=0, le=1)
    """Share of each group's documents that counts as best."""

    weight: float = Field(default=4.0, gt=0)
    """How many times as often as the others they are read, as far as the epochs allow."""


class MixSettings(Settings):
    """How documents are put together by group, topic, language and source."""

    groups: tuple[GroupSettings, ...] = Field(default=PAPER, min_length=1)
    """Groups in order: a document belongs to the first it matches; by default the paper's 50 / 25 / 17 / 8."""

    size_mb: float | None = Field(default=None, gt=0)
    """Size of the mix in MB of text (UTF-8), repetitions counted; by default as much as there is."""

    epochs: float = Field(default=4.0, gt=0)
    """How often a document may be read at most."""

    epochs_of: dict[str, float] = Field(default_factory=dict)
    """Other limits for feeding stages, or for what the column `source` says."""

    short: Literal["fill", "shrink"] = "fill"
    """When a group is too small: others fill its place, or the whole shrinks until the shares hold."""

    topic_column: str = "topic"
    """Column that tells a document's topic."""

    topic_limit: float | None = Field(default=None, gt=0, le=1)
    """Largest share of a group's bytes that one topic may have; what is over-represented is read less often."""

    language_power: float = Field(default=1.0, ge=0, le=1)
    """Within a group, a language's weight is its size to this power: 1 as it is, 0 all alike."""

    best: BestSettings | None = None
    """What is read more often than the rest of its group."""

    seed: int = 0
    """Seed of the choice by hash."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [group.name for group in self.groups]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"groups: several are called {', '.join(twice)}")
        for source, epochs in self.epochs_of.items():
            if epochs < 0:
                raise UserError(f"epochs_of: {source} has {epochs}; give a number of at least 0")
        return self
