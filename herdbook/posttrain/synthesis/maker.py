"""What the settings of all makers share."""

from __future__ import annotations

from pydantic import Field

from herdbook.settings import Settings


class MakerSettings(Settings):
    """What all makers share."""

    count: int | None = Field(default=None, ge=1)
    """Most requests or documents to work on, chosen by a hash; all when not given."""

    temperature: float = Field(default=0.7, ge=0)
    """Of the writer's drawing."""

    max_tokens: int = Field(default=512, ge=1)
    """Longest answer, tokens."""
