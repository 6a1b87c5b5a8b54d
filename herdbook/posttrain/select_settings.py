"""Settings of the choice of dialogs: topic, quality, difficulty, duplicates, mix (§4.2.3). They import no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from herdbook.corpus.quality.settings import EndpointSettings, LinearSettings
from herdbook.corpus.settings import SemanticSettings
from herdbook.settings import InputPath, Settings, UserError


class JudgeSettings(Settings):
    """Who is asked to judge besides the model that feeds the stage, and with which words."""

    endpoint: EndpointSettings | None = None
    """A chat model behind an OpenAI-compatible address; the stage's own model judges when not given."""

    prompts: InputPath | None = None
    """A folder whose files stand in for our prompts of the same name."""

    max_tokens: int = Field(default=300, ge=1)
    """Longest reply of the judge, tokens."""


class TopicSettings(Settings):
    """How a dialog's topic is found."""

    by: Literal["column", "linear", "judge"] = "column"
    """column: rows bring it; linear: rows that have it teach a classifier of the others; judge: a model is asked."""

    column: str = "task"
    """The column of the rows that names the topic."""

    names: tuple[str, ...] = ("general", "code", "multilingual", "exam", "reasoning", "tools", "long context")
    """What the judge may choose from."""

    linear: LinearSettings = LinearSettings(buckets=1 << 16)
    """The classifier on words and word pairs."""

    heldout: float = Field(default=0.2, gt=0, lt=1)
    """Share of the rows with a topic, chosen by a hash of their words, that the classifier is measured on."""


class QualityRule(Settings):
    """Which answers are good enough: by reward or by a judge, whichever says so (§4.2.3)."""

    reward_top: float = Field(default=0.25, gt=0, le=1)
    """Share of the dialogs, those of the highest reward, that are good."""

    within: str = "topic"
    """Column within whose values rewards are compared; empty for all together."""

    judge: bool = False
    """Ask a model for a grade of 1 to 3 (code: 1 to 2); answers with the highest grade are good."""

    code: tuple[str, ...] = ("code", "program", "programming")
    """Topics that are judged as code."""


class DifficultyRule(Settings):
    """How hard a request is."""

    by: Literal["none", "column", "judge", "model"] = "none"
    """column: rows bring it; judge: intents and a grade are asked for; model: how little the question helps it."""

    column: str = "difficulty"
    """The column of the rows that holds it, a number."""

    intents: int = Field(default=6, ge=1)
    """Different intents from which on a request counts as fully hard."""


class LikenessSettings(SemanticSettings):
    """When two dialogs say the same: of each cluster the best and hardest stays first."""

    threshold: float = Field(default=0.95, gt=0, le=1)
    """Cosine above which a dialog goes; 1 keeps all."""


class SftMatch(Settings):
    """What dialogs of a group look like; every given part must hold."""

    topics: tuple[str, ...] = ()
    """Topics it may have."""

    tasks: tuple[str, ...] = ()
    """Tasks it may have."""

    languages: tuple[str, ...] = ()
    """Languages it may be in."""

    languages_except: tuple[str, ...] = ()
    """Languages it may not be in; rows that name none are never in another one."""

    stages: tuple[str, ...] = ()
    """Feeding stages it may come from."""


class SftGroup(Settings):
    """One group of the mix."""

    name: str
    """What the column `group` says, and the file in `dialogs/`."""

    share: float = Field(gt=0)
    """Its share of the dialogs; shares are made to sum to 1."""

    epochs: float | None = Field(default=None, gt=0)
    """How often one of its dialogs may be taken; the mix's `epochs` when not given."""

    match: tuple[SftMatch, ...] = ()
    """A dialog belongs here when one of these holds, and to no earlier group; without any, every dialog does."""


def _group(name: str, share: float, *tasks: str, **more: tuple[str, ...]) -> SftGroup:
    by_topic = (SftMatch(topics=tasks), SftMatch(tasks=tasks)) if tasks else ()
    return SftGroup(name=name, share=share, match=(*by_topic, *((SftMatch(**more),) if more else ())))


PAPER = (
    _group("multilingual", 0.0301, "multilingual", "translation", languages_except=("en", "code", "")),
    _group("code", 0.1489, "code", "program", "programming"),
    _group("long_context", 0.0011, "long_context", "long context"),
    _group("exam", 0.0814, "exam", "multiple_choice"),
    _group("reasoning_and_tools", 0.2119, "reasoning", "math", "problem", "tool", "tools"),
    _group("general", 0.5266),
)
"""The paper's mix (table 7): general 52.66 %, reasoning and tools 21.19, code 14.89, exam-like 8.14, …"""


class SftMixSettings(Settings):
    """How many dialogs of each group there are."""

    groups: tuple[SftGroup, ...] = Field(default=PAPER, min_length=1)
    """Groups in order: a dialog belongs to the first it matches; by default the paper's."""

    size: int | None = Field(default=None, ge=1)
    """Dialogs in the mix, repetitions counted; by default as many as there are."""

    epochs: float = Field(default=1.0, gt=0)
    """How often one dialog may be taken at most."""

    short: Literal["fill", "shrink"] = "fill"
    """When a group is too small: others fill its place, or the whole shrinks until the shares hold."""

    prefer: Literal["best", "any"] = "best"
    """Which dialogs of a group are taken (more often) where not all are: the best, or any, by a hash."""


class SelectSettings(Settings):
    """Scores of dialogs as columns, and the choice by them."""

    judge: JudgeSettings = JudgeSettings()
    """Who is asked where a rule says `judge`."""

    topic: TopicSettings = TopicSettings()
    """How a dialog's topic is found."""

    quality: QualityRule = QualityRule()
    """Which answers are good enough; all are, where neither a reward model nor a judge speaks."""

    difficulty: DifficultyRule = DifficultyRule()
    """How hard a request is."""

    duplicates: LikenessSettings = LikenessSettings()
    """When two dialogs say the same."""

    mix: SftMixSettings | None = SftMixSettings()
    """Groups and their shares; null takes all that is left."""

    believe: bool = True
    """Take scores that rows bring along in columns of ours as measured; false measures all again."""

    seed: int = 0
    """Seed of the choices by hash."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [group.name for group in self.mix.groups] if self.mix else []
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"mix.groups: several are called {', '.join(twice)}")
        if bad := [name for name in names if not name.replace("_", "").replace("-", "").isalnum()]:
            raise UserError(f"mix.groups: {bad[0]!r} becomes a file's name: letters, digits, '_' and '-' only")
        return self
