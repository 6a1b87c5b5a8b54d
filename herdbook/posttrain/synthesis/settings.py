"""Settings of the makers of dialogs (§4.3). They import no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from herdbook.posttrain.select_settings import JudgeSettings
from herdbook.posttrain.synthesis.maker import MakerSettings
from herdbook.posttrain.synthesis.math_settings import InterleavedSettings, MathSettings, StepSettings, TreeSettings
from herdbook.posttrain.synthesis.text_settings import (
    LanguagesSettings,
    LongSettings,
    RepositorySettings,
    SteerSettings,
    ToolsSettings,
)
from herdbook.settings import Settings, UserError


class CodeSettings(MakerSettings):
    """Solutions to programming problems, run, and repaired where they fail."""

    tasks: tuple[str, ...] = ("program",)
    """Tasks of the requests that are problems; without such requests problems are made of documents."""

    language: str = "Python"
    """Language of problems made of documents; only Python is run."""

    tests: Literal["given", "model"] = "given"
    """given: the first half of a request's own tests, the rest tells the truth; model: the writer writes tests."""

    repairs: int = Field(default=2, ge=0)
    """Rounds in which solutions that fail are mended."""

    repair: Literal["dialog", "again"] = "dialog"
    """dialog: the error is told and a correction asked for; again: the bare problem is answered once more."""

    lint: bool = True
    """Refuse code with undefined names and other errors that are seen without running (needs pyflakes)."""

    keep: Literal["final", "whole"] = "final"
    """final: problem and working solution; whole: with the failed tries and what was told about them."""

    seconds: float = Field(default=10.0, gt=0)
    """Time a solution and its tests may take."""


class TranslateSettings(MakerSettings):
    """Working code brought into another language, and back to be tested."""

    tasks: tuple[str, ...] = ("program",)
    """Tasks of the requests whose reference is Python code with tests."""

    languages: tuple[str, ...] = ("TypeScript", "C++", "Java", "Rust", "PHP", "Bash")
    """Languages it is written in, one for each request by a hash."""

    seconds: float = Field(default=10.0, gt=0)
    """Time the code that came back and its tests may take."""


class ExplainSettings(MakerSettings):
    """Explanations of code, kept where code written from the explanation alone does the same."""

    excerpt: int = Field(default=2000, ge=40)
    """Longest piece of code, characters; only whole top-level functions and classes are taken."""

    language: str = "Python"
    """Language of the documents' code."""


class SynthesizeSettings(Settings):
    """Which makers work; each that is given writes its own file of dialogs."""

    judge: JudgeSettings = JudgeSettings()
    """Who judges, and the prompts of writers and judges."""

    code: CodeSettings | None = None
    """Problems solved and repaired with execution feedback."""

    translate: TranslateSettings | None = None
    """Code translated to other languages and back."""

    explain: ExplainSettings | None = None
    """Code explained, and written again from the explanation."""

    math: MathSettings | None = None
    """Problems solved step by step, kept where they end right; mistakes with their correction."""

    interleaved: InterleavedSettings | None = None
    """Problems solved in turns of words and code that is run."""

    steps: StepSettings | None = None
    """Steps of solutions scored by how often they end right; pairs for a process reward model."""

    tree: TreeSettings | None = None
    """Hard problems solved by tree search over steps."""

    tools: ToolsSettings | None = None
    """Errands carried out with search, Python and calculator."""

    long: LongSettings | None = None
    """Questions about long contexts, and summaries of them."""

    repository: RepositorySettings | None = None
    """Repositories without one of their files; nobody writes, the parser knows."""

    languages: LanguagesSettings | None = None
    """Problems told and solved in other languages."""

    steer: SteerSettings | None = None
    """Answers under system messages for length, form, tone and person."""

    seed: int = 0
    """Seed of the drawing and of the choices by hash."""

    @model_validator(mode="after")
    def _some_maker(self) -> Self:
        if not self.makers:
            names = [name for name in type(self).model_fields if name not in ("judge", "seed")]
            raise UserError(f"synthesize: no maker is given; give at least one of {', '.join(names)}")
        return self

    @property
    def makers(self) -> dict[str, MakerSettings]:
        """The makers that are given, by name."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: one for name, one in found.items() if isinstance(one, MakerSettings)}
