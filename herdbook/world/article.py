"""An article: what a page of the known world says, before any site has dressed it as HTML.

`clean_text` is the truth that curation is held against: what a perfect extractor would give back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["heading", "paragraph", "list", "table", "code", "math", "qa"]
Topic = Literal["general", "math", "code", "multilingual"]


@dataclass(frozen=True)
class Block:
    """One piece of an article; which fields are filled depends on `kind`.

    heading, paragraph: `text`, one line. code: `text`, many lines, verbatim. qa: `text`, lines of its own that must
    stay lines ("Question: …" and "Answer: …"). list: `items` are one-cell rows. table: `items` are rows of cells, the
    first row is the header. math: `latex` is the formula, `text` the same in plain characters (never part
    of the clean text).
    """

    kind: Kind
    text: str = ""
    items: tuple[tuple[str, ...], ...] = ()
    latex: str = ""

    def clean_text(self) -> str:
        """The block's text as lines: list items one a line, table rows with cells joined by ' | ', math as LaTeX."""
        if self.kind in ("list", "table"):
            return "\n".join(" | ".join(row) for row in self.items)
        return self.latex if self.kind == "math" else self.text


@dataclass(frozen=True)
class Article:
    """One article of the world, with the truth about it."""

    slug: str  # unique in the world, fit for a URL's path
    site: str  # host name, typical of the genre
    title: str
    language: str  # ISO 639-1
    topic: Topic
    genre: str  # one of genres.py's eight, or worksheet, quiz, lesson, tutorial, chronicle
    blocks: tuple[Block, ...]
    facts: tuple[str, ...] = ()  # ids of the facts told; "id@de" where told in another language than English

    def clean_text(self) -> str:
        """What a perfect extractor gives back: the title and every block, separated by single newlines."""
        return "\n".join([self.title, *(block.clean_text() for block in self.blocks)])
