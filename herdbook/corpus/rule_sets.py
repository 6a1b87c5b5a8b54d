"""Rule sets by name: the heuristics of Gopher, C4 and FineWeb as rules over our columns, each with its usual threshold.

Shares of repeated n-grams count words where Gopher counts characters. What C4 does to lines (dropping those without a
full stop) is not done: extraction and repeated lines see to that.
"""

from __future__ import annotations

from herdbook.corpus.rules import Rule

QUALITY = (
    Rule(name="gopher_few_words", column="length_words", below=50),
    Rule(name="gopher_many_words", column="length_words", above=100_000),
    Rule(name="gopher_short_words", column="heuristic_word_length", below=3),
    Rule(name="gopher_long_words", column="heuristic_word_length", above=10),
    Rule(name="gopher_symbols", column="heuristic_symbols", above=0.1),
    Rule(name="gopher_bullets", column="heuristic_bullet_lines", above=0.9),
    Rule(name="gopher_ellipses", column="heuristic_ellipsis_lines", above=0.3),
    Rule(name="gopher_unlettered", column="heuristic_lettered_words", below=0.8),
    Rule(name="gopher_stop_words", column="heuristic_stop_words", below=2),
)
TOP = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
REPETITION = (
    Rule(name="gopher_lines", column="repetition_duplicate_lines", above=0.3),
    Rule(name="gopher_line_characters", column="heuristic_repeated_line_characters", above=0.2),
    *(Rule(name=f"gopher_top_{n}gram", column=f"repetition_top_{n}gram", above=share) for n, share in TOP.items()),
    *(Rule(name=f"gopher_{n}gram", column=f"repetition_duplicate_{n}gram", above=s) for n, s in DUPLICATE.items()),
)
C4 = (
    Rule(name="c4_lorem_ipsum", column="heuristic_lorem_ipsum", above=0),
    Rule(name="c4_curly_brackets", column="heuristic_curly_brackets", above=0),
    Rule(name="c4_sentences", column="heuristic_sentences", below=5),
    Rule(name="c4_long_word", column="heuristic_longest_word", above=1000),
)
FINEWEB = (
    Rule(name="fineweb_line_ends", column="heuristic_ended_lines", below=0.12),
    Rule(name="fineweb_short_lines", column="heuristic_short_lines", above=0.67),
    Rule(name="fineweb_repeated_characters", column="heuristic_repeated_line_characters", above=0.1),
    Rule(name="fineweb_list", column="heuristic_lines_per_word", above=0.3),
)
CODE = (
    Rule(name="generated_code", column="code_generated", above=0),
    Rule(name="vendored_code", column="code_vendored", above=0),
    Rule(name="unlicensed_code", column="code_permissive", below=1),
)
RULE_SETS = {"code": CODE, "gopher_quality": QUALITY, "gopher_repetition": REPETITION, "c4": C4, "fineweb": FINEWEB}
LATE = ("divergence_", "language_evidence", "duplicate_near", "lines_")
"""Beginnings of columns that depend on which other documents are kept; the sets' rules come before them."""


def with_sets(rules: tuple[Rule, ...], names: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules with those of the named sets among them."""
    added = tuple(rule for name in names for rule in RULE_SETS[name])
    place = next((index for index, rule in enumerate(rules) if rule.column.startswith(LATE)), len(rules))
    return rules[:place] + added + rules[place:]
