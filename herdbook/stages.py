"""The kinds of stages: what each is called, what it takes and gives, and which function does it.

Functions and settings are named as text and imported when needed, so that `herdbook show` need not wait for
torch. A new kind is one more entry in `kinds/`; no other file of the top row knows a kind by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from herdbook.settings import Settings, UserError


@dataclass(frozen=True)
class Takes:
    """One input of a kind."""

    gives: str
    """What the feeding stage must give."""

    required: bool = True
    """Whether the stage can run without it."""

    many: bool = False
    """Whether several stages may feed it; the function then gets a list."""

    keyed: bool = False
    """Whether the function gets a mapping from stage name to folder, so that names matter (only with `many`)."""

    argument: str | None = None
    """The function's keyword when it differs from the input's name."""

    folder: str = ""
    """The folder within the entry that is handed over."""


@dataclass(frozen=True)
class StageKind:
    """A kind of stage: `function(settings, **inputs, out)` returns its metrics, or `expand` names its steps."""

    name: str
    help: str
    settings: str
    gives: str
    function: str = ""
    takes: dict[str, Takes] = field(default_factory=dict)

    expand: str = ""
    """Instead of a function: `expand(name, settings, inputs)` returns the ordinary stages it becomes (`Step`s)."""

    also: tuple[str, ...] = ()
    """What else its entry holds, each in a folder of that name: it can feed stages that take these."""

    resumes: bool = False
    """Whether the function goes on from what a killed run left in `out`; others start with an empty folder."""

    either: tuple[str, ...] = ()
    """Inputs or settings of which at least one must be given."""

    keys_from: dict[str, str] = field(default_factory=dict)
    """Settings whose keys are the names that feed the stage behind an input: setting → input."""

    headline: tuple[str, ...] = ()
    """Dotted patterns of the metrics that `herdbook show` prints for an entry."""

    def can_give(self, wanted: str) -> bool:
        """Whether an entry of this kind holds what a stage takes."""
        return wanted == self.gives or wanted in self.also

    def settings_class(self) -> type[Settings]:
        """The class of this kind's settings (imports its module)."""
        found = load(self.settings)
        assert isinstance(found, type) and issubclass(found, Settings), f"{self.settings} is not a Settings class"
        return found

    def load_function(self) -> Callable[..., dict[str, Any]]:
        """The function that does the stage (imports its module)."""
        return load(self.function)


def load(name: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


KINDS: dict[str, StageKind] = {}


def register(kind: StageKind) -> StageKind:
    """Add a kind; its name must be new."""
    if kind.name in KINDS:
        raise UserError(f"there is a kind {kind.name!r} already; give this one another name")
    KINDS[kind.name] = kind
    return kind


from herdbook import kinds  # noqa: E402, F401 - registers all of them, for which it needs the classes above
