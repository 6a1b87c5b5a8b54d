"""Measurements to decisions: rules in order over columns, shard by shard (§3.1).

Columns that depend on the other documents come from their providers (columns.py) when the first rule that reads them
comes, among the documents still kept. What a provider found is kept beside the documents and taken again while nothing
it depends on has changed, so deciding again with another threshold repeats only what lies behind that rule.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from herdbook.corpus import dedup, domains, semantic
from herdbook.corpus.columns import PROVIDERS, Columns, Provider, View
from herdbook.corpus.engine import Engine
from herdbook.corpus.measured import Measured
from herdbook.corpus.reuse import stamps
from herdbook.corpus.rules import Rule, active_rules, first_rule, known_column
from herdbook.corpus.settings import CurateSettings
from herdbook.settings import UserError

VERSION = 2
"""Raised when a provider changes what it gives, so that what an older one found is not taken again."""
_ELSEWHERE = "sources measure rules thresholds off on workers engine rule_sets redact"
ELSEWHERE = frozenset(_ELSEWHERE.split())
"""Settings no provider's columns depend on, but by the measured shards, the kept documents and the threshold."""


@dataclass
class Decision:
    """What was decided of N documents: the rule of each, and the columns worked out on the way."""

    rules: list[Rule]
    dropped: np.ndarray
    """Index into `rules` (N,) int16, -1 for kept."""
    columns: Columns = field(default_factory=dict)
    """By name, as providers gave them; they lie on disk and are read where they are used."""
    redact: tuple[str, ...] = ()
    """Kinds of personal data that are replaced in the documents written."""


assert domains and semantic  # imported for the columns they provide


class Deciding:
    """Goes through the rules with the columns at hand."""

    def __init__(self, measured: Measured, settings: CurateSettings, engine: Engine, folder: Path) -> None:
        self.measured, self.settings, self.engine, self.folder = measured, settings, engine, folder
        self.rules = active_rules(settings.all_rules, settings.thresholds, settings.off, settings.on)
        self.numeric = measured.numeric()
        for rule in self.rules:
            known_column(rule, {*self.numeric, *PROVIDERS})
        self.result = Decision(self.rules, np.full(measured.count, -1, dtype=np.int16), redact=settings.redact)
        self._rank: np.ndarray | None = None
        self._used: set[str] = set()

    @property
    def rank(self) -> np.ndarray:
        """Which of two documents is the better (N,) int64."""
        if self._rank is None:
            prefer = self.settings.duplicates.prefer
            if prefer is not None and prefer not in self.numeric:
                raise UserError(f"duplicates.prefer: nothing measures {prefer!r}; there are {', '.join(self.numeric)}")
            quality = None if prefer is None else self.measured.numbers(prefer).astype(np.float64)
            lengths = self.measured.numbers("length_words")
            self._rank = dedup.preference(self.measured.moments(), lengths, quality)
        return self._rank

    def decide(self) -> Decision:
        """Apply every rule to the documents the rules before it kept."""
        measured = lambda index: self.rules[index].column in self.numeric  # noqa: E731
        for plain, group in groupby(range(len(self.rules)), measured):
            if plain:
                self._by_measurements(list(group))
                continue
            for index in group:
                rule = self.rules[index]
                if rule.column not in self.result.columns:
                    self._provide(rule)
                held = rule.holds(np.asarray(self.result.columns[rule.column]))
                self.result.dropped[(self.result.dropped < 0) & held] = index
        self._forget()
        return self.result

    def _by_measurements(self, indices: list[int]) -> None:
        rules = [self.rules[index] for index in indices]
        names = list(dict.fromkeys(rule.column for rule in rules))
        for rows, table in self.measured.parts(*names):
            found = first_rule(rules, {name: table[name].to_numpy() for name in names}, table.num_rows)
            dropped = self.result.dropped[rows]
            drops = (dropped < 0) & (found >= 0)
            dropped[drops] = np.array(indices)[found[drops]]

    def _provide(self, rule: Rule) -> None:
        provider = PROVIDERS[rule.column]
        alive = self.result.dropped < 0
        place = self.folder / self._key(provider, rule, alive)
        self._used.add(place.name)
        if not place.is_dir():
            scratch = self.folder / ".scratch"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            view = View(self.measured, alive, self.rank, self.settings, rule.threshold, self.engine, scratch)
            found = provider(view)
            new = self.folder / ".new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            for name, values in found.items():
                np.save(new / f"{name}.npy", values)
            new.replace(place)
            shutil.rmtree(scratch, ignore_errors=True)
        self._take({path.stem: np.load(path, mmap_mode="r") for path in sorted(place.glob("*.npy"))})

    def _take(self, found: Columns) -> None:
        if "duplicate_of" in found and "duplicate_of" in self.result.columns:
            found["duplicate_of"] = np.where(
                found["duplicate_of"] >= 0, found["duplicate_of"], self.result.columns["duplicate_of"]
            )
        self.result.columns.update(found)

    def _key(self, provider: Provider, rule: Rule, alive: np.ndarray) -> str:
        state = (
            f"{VERSION} {provider.__module__}.{provider.__qualname__} {rule.threshold} {self.measured.identity} "
            + self.settings.model_dump_json(exclude=set(ELSEWHERE))
            + repr(stamps(self.settings.duplicates) + stamps(self.settings.domains))
        )
        return f"{provider.__name__}-{hashlib.sha256(state.encode() + np.packbits(alive).tobytes()).hexdigest()[:16]}"

    def _forget(self) -> None:
        """Remove what earlier decisions found and this one did not need."""
        for place in _folders(self.folder):
            if place.name not in self._used:
                shutil.rmtree(place, ignore_errors=True)


def _folders(folder: Path) -> Iterable[Path]:
    return [place for place in folder.iterdir() if place.is_dir()] if folder.is_dir() else []
