"""The base of all settings, and the error that speaks to the person who wrote them.

A setting is one field of a `Settings` class with one line of help directly below it; that line is what
`herdbook kinds` and the JSON Schema show. Unknown keys are errors, and a settings object never changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict


class UserError(ValueError):
    """A mistake the user can mend: the message says what is wrong, where, and what to do."""


class SourcePath:
    """Marks a path setting that must exist before a run; its contents are part of the entry's id."""


InputPath = Annotated[Path, SourcePath()]


class Settings(BaseModel):
    """Settings of one stage or part: frozen, no unknown keys, docstrings as help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
