"""The families that small Python programs come from: what may vary, and what the body is.

What a program should do is written a second time as a plain function (`truth`), so that examples and tests do not come
from the body they judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Input = Literal["number", "list", "text"]
ARGUMENTS: dict[Input, tuple[str, ...]] = {
    "number": ("x", "number", "value", "amount"),
    "list": ("items", "numbers", "values", "data"),
    "text": ("text", "word", "line", "name"),
}
SMALL, WIDE, LETTERS = tuple(range(2, 10)), tuple(range(2, 60)), tuple("abcdefghiklmnoprstuvwy")


@dataclass(frozen=True)
class Family:
    """Programs that differ in a parameter `{n}`, the argument `{a}` and the name only."""

    stems: tuple[str, ...]
    takes: Input
    parameters: tuple[Any, ...]
    doc: str
    body: tuple[str, ...]
    truth: Callable[[Any, Any], Any]  # (parameter, argument) → result


FAMILIES: dict[str, Family] = {
    "add": Family(
        ("add", "plus", "increase_by"), "number", WIDE, "Add {n} to {a}.", ("return {a} + {n}",), lambda n, a: a + n
    ),
    "subtract": Family(
        ("subtract", "minus", "decrease_by"),
        "number",
        WIDE,
        "Subtract {n} from {a}.",
        ("return {a} - {n}",),
        lambda n, a: a - n,
    ),
    "multiply": Family(
        ("multiply_by", "times"), "number", WIDE, "Multiply {a} by {n}.", ("return {a} * {n}",), lambda n, a: a * n
    ),
    "divide": Family(
        ("divide_by", "parts_of"),
        "number",
        WIDE,
        "Divide {a} by {n}, rounding down.",
        ("return {a} // {n}",),
        lambda n, a: (a - a % n) // n,
    ),
    "remainder": Family(
        ("remainder", "modulo"),
        "number",
        WIDE,
        "Return the remainder of {a} divided by {n}.",
        ("return {a} % {n}",),
        lambda n, a: a - n * (a // n),
    ),
    "multiple": Family(
        ("is_multiple_of", "divisible_by"),
        "number",
        WIDE,
        "Return True if {a} is a multiple of {n}.",
        ("return {a} % {n} == 0",),
        lambda n, a: a in range(0, 10_000, n),
    ),
    "greater": Family(
        ("is_greater_than", "above"),
        "number",
        WIDE,
        "Return True if {a} is greater than {n}.",
        ("return {a} > {n}",),
        lambda n, a: not a <= n,
    ),
    "less": Family(
        ("is_less_than", "below"),
        "number",
        WIDE,
        "Return True if {a} is less than {n}.",
        ("return {a} < {n}",),
        lambda n, a: not a >= n,
    ),
    "at_most": Family(
        ("at_most", "limit_to"),
        "number",
        WIDE,
        "Return {a}, but at most {n}.",
        ("return min({a}, {n})",),
        lambda n, a: n if a > n else a,
    ),
    "at_least": Family(
        ("at_least", "raise_to"),
        "number",
        WIDE,
        "Return {a}, but at least {n}.",
        ("return max({a}, {n})",),
        lambda n, a: n if a < n else a,
    ),
    "distance": Family(
        ("distance_from", "gap_to"),
        "number",
        WIDE,
        "Return the distance between {a} and {n}.",
        ("return abs({a} - {n})",),
        lambda n, a: a - n if a > n else n - a,
    ),
    "first": Family(
        ("first", "take"),
        "list",
        SMALL,
        "Return the first {n} elements of {a}.",
        ("return {a}[:{n}]",),
        lambda n, a: [a[i] for i in range(min(n, len(a)))],
    ),
    "last": Family(
        ("last", "tail"),
        "list",
        SMALL,
        "Return the last {n} elements of {a}.",
        ("return {a}[-{n}:]",),
        lambda n, a: a[max(0, len(a) - n) :],
    ),
    "skip": Family(
        ("skip", "drop_first"),
        "list",
        SMALL,
        "Return {a} without the first {n} elements.",
        ("return {a}[{n}:]",),
        lambda n, a: [v for i, v in enumerate(a) if i >= n],
    ),
    "every": Family(
        ("every", "step_by"),
        "list",
        SMALL,
        "Return every element of {a} whose index is a multiple of {n}.",
        ("return {a}[::{n}]",),
        lambda n, a: [v for i, v in enumerate(a) if i % n == 0],
    ),
    "add_each": Family(
        ("add_to_each", "shift_all_by"),
        "list",
        WIDE,
        "Add {n} to each element of {a}.",
        ("return [item + {n} for item in {a}]",),
        lambda n, a: list(map(n.__add__, a)),
    ),
    "multiply_each": Family(
        ("multiply_each_by", "scale_all_by"),
        "list",
        WIDE,
        "Multiply each element of {a} by {n}.",
        ("return [item * {n} for item in {a}]",),
        lambda n, a: list(map(n.__mul__, a)),
    ),
    "keep": Family(
        ("keep_above", "larger_than"),
        "list",
        WIDE,
        "Keep the elements of {a} that are greater than {n}.",
        ("return [item for item in {a} if item > {n}]",),
        lambda n, a: list(filter(n.__lt__, a)),
    ),
    "drop": Family(
        ("keep_below", "smaller_than"),
        "list",
        WIDE,
        "Keep the elements of {a} that are less than {n}.",
        ("return [item for item in {a} if item < {n}]",),
        lambda n, a: list(filter(n.__gt__, a)),
    ),
    "sum_plus": Family(
        ("sum_plus", "total_and"),
        "list",
        WIDE,
        "Return the sum of {a} plus {n}.",
        ("return sum({a}) + {n}",),
        lambda n, a: sum([*a, n]),
    ),
    "max_plus": Family(
        ("max_plus", "largest_and"),
        "list",
        WIDE,
        "Return the maximum of {a} plus {n}.",
        ("return max({a}) + {n}",),
        lambda n, a: sorted(a)[-1] + n,
    ),
    "contains": Family(
        ("contains", "has"),
        "list",
        WIDE,
        "Return True if {n} is in {a}.",
        ("return {n} in {a}",),
        lambda n, a: any(v == n for v in a),
    ),
    "append": Family(
        ("append", "end_with"),
        "list",
        WIDE,
        "Return {a} with {n} added at the end.",
        ("return {a} + [{n}]",),
        lambda n, a: [*a, n],
    ),
    "count_above": Family(
        ("count_above", "how_many_over"),
        "list",
        WIDE,
        "Count the elements of {a} that are greater than {n}.",
        ("count = 0", "for item in {a}:", "    if item > {n}:", "        count += 1", "return count"),
        lambda n, a: sum(v > n for v in a),
    ),
    "sum_above": Family(
        ("sum_above", "total_over"),
        "list",
        WIDE,
        "Add up the elements of {a} that are greater than {n}.",
        ("total = 0", "for item in {a}:", "    if item > {n}:", "        total += item", "return total"),
        lambda n, a: sum(v for v in a if v > n),
    ),
    "repeat": Family(
        ("repeat", "copies"),
        "text",
        SMALL,
        "Repeat {a} {n} times.",
        ("return {a} * {n}",),
        lambda n, a: "".join(a for _ in range(n)),
    ),
    "start": Family(
        ("first_letters", "start_of"),
        "text",
        SMALL,
        "Return the first {n} letters of {a}.",
        ("return {a}[:{n}]",),
        lambda n, a: "".join(c for i, c in enumerate(a) if i < n),
    ),
    "reverse": Family(
        ("reverse_and_cut", "backwards"),
        "text",
        SMALL,
        "Reverse {a} and return the first {n} letters.",
        ("return {a}[::-1][:{n}]",),
        lambda n, a: "".join(list(reversed(a))[:n]),
    ),
    "longer": Family(
        ("is_longer_than", "exceeds"),
        "text",
        SMALL,
        "Return True if {a} has more than {n} letters.",
        ("return len({a}) > {n}",),
        lambda n, a: bool(a[n:]),
    ),
    "count": Family(
        ("count", "number_of"),
        "text",
        LETTERS,
        "Count how often the letter {n} occurs in {a}.",
        ('return {a}.count("{n}")',),
        lambda n, a: sum(c == n for c in a),
    ),
    "remove": Family(
        ("remove", "without"),
        "text",
        LETTERS,
        "Remove the letter {n} from {a}.",
        ('return {a}.replace("{n}", "")',),
        lambda n, a: "".join(c for c in a if c != n),
    ),
    "starts": Family(
        ("starts_with", "begins_with"),
        "text",
        LETTERS,
        "Return True if {a} starts with the letter {n}.",
        ('return {a}.startswith("{n}")',),
        lambda n, a: a[0] == n,
    ),
    "has_letter": Family(
        ("has_letter", "uses"),
        "text",
        LETTERS,
        "Return True if the letter {n} is in {a}.",
        ('return "{n}" in {a}',),
        lambda n, a: n in set(a),
    ),
}
