"""Settings of the makers with tools, long texts, other languages and system messages. They import no torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from herdbook.posttrain.synthesis.maker import MakerSettings
from herdbook.settings import Settings


class ToolsSettings(MakerSettings):
    """Errands carried out with search, Python and calculator, kept where they come to the right answer."""

    tasks: tuple[str, ...] = ("tool",)
    """Tasks of the requests that are errands; without such requests errands are made of documents."""

    tries: int = Field(default=4, ge=1)
    """How often each errand is tried."""

    turns: int = Field(default=4, ge=1)
    """Most turns with calls before an answer must come."""

    keep: int = Field(default=1, ge=1)
    """Most right ways of an errand that are kept, those with the fewest calls first."""


class LongSettings(MakerSettings):
    """Questions about long contexts, and summaries; made from pieces of them, so that a short reader can do it."""

    characters: tuple[int, ...] = Field(default=(64_000, 128_000, 256_000, 512_000), min_length=1)
    """Lengths of the contexts (16, 32, 64 and 128K tokens at four characters a token), in turn."""

    piece: int = Field(default=16_000, ge=100)
    """Characters of the piece that a question is made from, and that is summarised at a time."""

    summaries: float = Field(default=0.3, ge=0, le=1)
    """Share of the contexts that are summarised; about the others a question is asked."""


class RepositorySettings(MakerSettings):
    """Repositories without one of their files: which files import it, and what it holds."""

    least: int = Field(default=5, ge=1)
    """Files of its repository that must import a file so that it is asked for."""

    characters: int = Field(default=64_000, ge=100)
    """Longest context: all dependents, then other files as far as there is room (four characters are about a token)."""

    answer: int = Field(default=16_000, ge=1)
    """Longest missing file, characters."""


class LanguagesSettings(MakerSettings):
    """Problems told and solved in other languages, kept where the end is still right."""

    tasks: tuple[str, ...] = ("problem",)
    """Tasks of the requests that are translated."""

    languages: dict[str, str] = Field(
        default={"de": "German", "fr": "French", "it": "Italian", "pt": "Portuguese", "hi": "Hindi", "es": "Spanish"},
        min_length=1,
    )
    """Languages by their code; each request gets one by a hash."""


class Wish(Settings):
    """A system message, and how it is seen whether an answer keeps to it."""

    system: str
    """What the system message says."""

    check: dict[str, Any] | None = None
    """A constraint as requests have them (IFEval's `id` and what it needs); without one the judge is asked."""


WISHES = (
    Wish(
        system="Answer in at most twelve words.",
        check={"id": "length_constraints:number_words", "num_words": 13, "relation": "less than"},
    ),
    Wish(system="Answer in capital letters only.", check={"id": "change_case:english_capital"}),
    Wish(system="Answer in small letters only.", check={"id": "change_case:english_lowercase"}),
    Wish(system="Never use a comma.", check={"id": "punctuation:no_comma"}),
    Wish(system="Put your whole answer in double quotation marks.", check={"id": "startend:quotation"}),
    Wish(system="Put a title in double angular brackets above your answer.", check={"id": "detectable_format:title"}),
    Wish(system="You are a patient teacher of small children. Use easy words and an example."),
    Wish(system="You are a captain of the sea, and talk like one."),
    Wish(system="Be formal and to the point, as in a letter of an office."),
)


class SteerSettings(MakerSettings):
    """Answers under system messages that ask for a length, a form, a tone or a person."""

    tasks: tuple[str, ...] = ("fact", "problem")
    """Tasks of the requests that are asked."""

    wishes: tuple[Wish, ...] = Field(default=WISHES, min_length=1)
    """System messages; each request gets one by a hash."""

    tries: int = Field(default=4, ge=1)
    """Answers drawn to each; the first that keeps to the wish and is right is kept."""
