"""Decisions as named rules over columns, so that a threshold changes without touching text again (§3.1).

A rule holds for a document when its column is above (or below) the threshold; the first rule that holds
drops the document and gives its name to the column `dropped_by`. Several rules may share a name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
from pydantic import model_validator

from herdbook.settings import Settings, UserError

LINE_RULE = "line_repeated"
"""Not a dropping rule: names the removal of boilerplate lines, and what is dropped because nothing else was left."""


class Rule(Settings):
    """One decision: drop documents whose column lies beyond the threshold."""

    name: str
    """Name the funnel and `dropped_by` show."""

    column: str
    """Measurement the rule reads."""

    above: float | None = None
    """Drop when the measurement is greater than this."""

    below: float | None = None
    """Drop when the measurement is less than this."""

    optional: bool = False
    """Applied only when its name stands in `on`."""

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise UserError(f"rule {self.name!r} needs exactly one of `above` and `below`")
        return self

    @property
    def threshold(self) -> float:
        """The number the measurement is held against."""
        return self.above if self.above is not None else float(self.below or 0.0)

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Which of the measurements (N,) call for dropping; a missing one (NaN) never does."""
        return values > self.above if self.above is not None else values < self.below


DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(name="url_duplicate", column="duplicate_url_newer", above=0),
    Rule(name="exact_duplicate", column="duplicate_exact_better", above=0),
    Rule(name="blocked_domain", column="domain_blocked", above=0),
    Rule(name="adult_domain", column="domain_adult", above=0),
    Rule(name="broken_encoding", column="encoding_bad_share", above=0.01),
    Rule(name="too_short", column="length_words", below=20),
    Rule(name="ngram_repetition", column="repetition_duplicate_10gram", above=0.45),
    Rule(name="ngram_repetition", column="repetition_duplicate_5gram", above=0.6),
    Rule(name="ngram_repetition", column="repetition_duplicate_lines", above=0.6),
    Rule(name="adult_words", column="adult_share", above=0.01),
    Rule(name="personal_data", column="pii_share", above=0.05),
    Rule(name="adult_domain", column="domain_adult_share", above=0.5),
    Rule(name="personal_data_domain", column="domain_personal_share", above=0.5),
    Rule(name="few_words", column="repetition_word_entropy", below=4.3),
    Rule(name="token_divergence", column="divergence_excess", above=4.5),
    Rule(name="language_unknown", column="language_evidence", below=0.15),
    Rule(name="near_duplicate", column="duplicate_near_similarity", above=0.6),
    Rule(name="semantic_duplicate", column="duplicate_semantic_similarity", above=0.95, optional=True),
    Rule(name=LINE_RULE, column="lines_words_left", below=20),
)


def check_rules(
    rules: Iterable[Rule], thresholds: Mapping[str, float], off: Iterable[str], on: Iterable[str] = ()
) -> None:
    """Raise UserError for a threshold of a column no rule reads, or an unknown rule switched off or on."""
    rules = list(rules)
    columns, names = {rule.column for rule in rules}, {rule.name for rule in rules}
    for key in thresholds:
        _check_name("thresholds: no rule reads the column", key, columns)
    for key in off:
        _check_name("off: no rule is named", key, names | columns)
    for key in on:
        _check_name("on: no rule is named", key, names | columns)


def _check_name(what: str, key: str, known: set[str]) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, sorted(known), 1, 0.3)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise UserError(f"{what} {key!r}; {hint}")


def active_rules(
    rules: Iterable[Rule], thresholds: Mapping[str, float], off: Iterable[str], on: Iterable[str] = ()
) -> list[Rule]:
    """The rules in order, with the changed thresholds in place, without those switched off or not switched on."""
    off, on = set(off), set(on)
    chosen = []
    for rule in rules:
        if {rule.name, rule.column} & off or (rule.optional and not {rule.name, rule.column} & on):
            continue
        if rule.column in thresholds:
            side = "above" if rule.above is not None else "below"
            rule = rule.model_copy(update={side: thresholds[rule.column]})
        chosen.append(rule)
    return chosen


def known_column(rule: Rule, columns: set[str]) -> None:
    """Raise UserError for a rule whose column nothing gives."""
    _check_name(f"rule {rule.name!r}: nothing measures the column", rule.column, columns)


def first_rule(rules: list[Rule], columns: Mapping[str, Any], rows: int) -> np.ndarray:
    """Index (rows,) int64 of the first rule that holds for each document, -1 where none does."""
    found = np.full(rows, -1, dtype=np.int64)
    for index, rule in enumerate(rules):
        known_column(rule, set(columns))
        found[(found < 0) & rule.holds(np.asarray(columns[rule.column], dtype=np.float64))] = index
    return found
