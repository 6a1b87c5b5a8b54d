"""What a maker works with: who writes, who judges, prompts, requests and documents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from herdbook.inference.sampler import Sampling
from herdbook.posttrain.judging import Prompts, ask
from herdbook.posttrain.quality import Scorer
from herdbook.posttrain.rows import read_rows
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.maker import MakerSettings
from herdbook.posttrain.writer import Answer, Dialog, Writer
from herdbook.settings import UserError
from herdbook.tokens.texts import draw, read_texts

T = TypeVar("T")


@dataclass
class Desk:
    """Shared by the makers of a stage."""

    writer: Writer
    judge: Writer
    prompts: Prompts
    requests: Path | None
    documents: list[Path]
    out: Path
    seed: int = 0
    judge_tokens: int = 300
    scorer: Scorer | None = None
    """A (process) reward model, where one is fed."""
    count: Counter[str] = field(default_factory=Counter)
    """What was asked of the judge, and what of it was nonsense."""
    asked: set[str] = field(default_factory=set)
    """Ids of the requests that the maker at work was given."""

    def write(
        self, dialogs: Sequence[Dialog], maker: MakerSettings, count: int = 1, shift: int = 0, **more: Any
    ) -> list[list[Answer]]:
        """`count` answers to each dialog as the maker draws them; another `shift` draws others."""
        how = {"max_tokens": maker.max_tokens, "temperature": maker.temperature, "seed": self.seed + shift, **more}
        return self.writer.write(dialogs, Sampling(**how), count)

    def ask(self, prompts: Sequence[str], read: Callable[[str], T | None]) -> list[T | None]:
        """What the judge says to each prompt."""
        return ask(self.judge, prompts, read, self.count, self.judge_tokens)

    def value(self, rows: Sequence[Row]) -> Callable[[list[tuple[int, tuple[str, ...]]]], list[float]] | None:
        """A process reward in 0 … 1 of the first steps of solutions to these problems; None without a reward model."""
        scorer = self.scorer
        if scorer is None:
            return None

        def value(beginnings: list[tuple[int, tuple[str, ...]]]) -> list[float]:
            prompts = [rows[place]["messages"] for place, _ in beginnings]
            found = scorer.score(prompts, [["".join(steps).strip()] for _, steps in beginnings])
            return [1 / (1 + math.exp(-min(max(one[0], -50.0), 50.0))) for one in found]

        return value

    def requests_of(self, tasks: Sequence[str], maker: MakerSettings) -> list[Row]:
        """Training requests of these tasks, at most the maker's count."""
        if self.requests is None:
            return []
        train = self.requests / "train.jsonl" if (self.requests / "train.jsonl").is_file() else self.requests
        rows = [
            row
            for _, row in read_rows(train, "requests")
            if row.get("task") in tasks and row.get("split", "train") != "test"
        ]
        chosen = self.chosen(rows, lambda row: str(row["id"]), maker)
        self.asked |= {str(row["id"]) for row in chosen}
        return chosen

    def request_of(self, id: str) -> str | None:
        """The request that a maker's row answers: makers call rows by its id, or that and more behind a `/`."""
        while id and id not in self.asked:
            id = id.rpartition("/")[0]
        return id or None

    def texts(self, maker: MakerSettings) -> list[tuple[str, str]]:
        """Ids and texts of the documents, at most the maker's count."""
        return self.chosen(self.all_texts(), lambda one: one[0], maker)

    def all_texts(self) -> list[tuple[str, str]]:
        """Ids and texts of all documents."""
        return [
            one
            for entry in self.documents
            for some in read_texts(entry)
            for one in zip(some.ids, some.texts, strict=True)
        ]

    def chosen(self, items: list[T], name: Callable[[T], str], maker: MakerSettings) -> list[T]:
        """As many items as the maker wants, chosen by a hash of their names, in the order they came."""
        if maker.count is None or maker.count >= len(items):
            return items
        ordered = sorted(items, key=lambda one: (draw(name(one), f"make-{self.seed}"), name(one)))
        wanted = {name(one) for one in ordered[: maker.count]}
        return [one for one in items if name(one) in wanted][: maker.count]

    def pick(self, options: Sequence[T], name: str) -> T:
        """One of the options, by a hash of a name."""
        return options[int(draw(name, f"pick-{self.seed}") * len(options))]


def user(words: str) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": words}


def assistant(words: str) -> dict[str, Any]:
    """A message of the assistant."""
    return {"role": "assistant", "content": words}


def mistaken(words: str) -> dict[str, Any]:
    """A message of the assistant that is corrected later: it is read and not learnt. Not to be sent to a writer."""
    return {**assistant(words), "weight": 0}


def need(found: list[T], what: str) -> list[T]:
    """What was found; UserError where that is nothing."""
    if not found:
        raise UserError(f"synthesize: {what}")
    return found
