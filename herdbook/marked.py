"""YAML that remembers where every value stands, so that an error can name its line.

PyYAML composes the node graph; values are made here, by YAML 1.2's rules (`no` is a word, not a boolean, and
`2e-3` is a number). A key given twice is an error, because the first value would vanish without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_INTEGER = re.compile(r"[-+]?\d[\d_]*")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d[\d_]*(\.\d*)?)([eE][-+]?\d+)?")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands (`recipe.yaml:12` or the command line), and what to do about it."""

    where: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Marked:
    """A YAML value, with the place it came from; mappings and lists hold further `Marked` values."""

    value: Scalar | dict[str, Marked] | list[Marked]
    origin: str
    line: int = 0
    plain: bool = field(default=True, compare=False)
    """Written without quotes, so it may be read again as a number after placeholders are filled in."""

    def bare(self) -> Any:
        """The value without its marks."""
        if isinstance(self.value, dict):
            return {key: item.bare() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.bare() for item in self.value]
        return self.value

    def at(self, path: tuple[str | int, ...]) -> Marked:
        """The deepest value that stands on `path`; steps that lead nowhere are ignored."""
        here = self
        for step in path:
            below = here.value
            if isinstance(below, dict) and str(step) in below:
                here = below[str(step)]
            elif isinstance(below, list) and isinstance(step, int) and step < len(below):
                here = below[step]
        return here

    def problem(self, message: str) -> Problem:
        """A mistake at this value."""
        return Problem(self.origin, message, self.line)

    def map_text(self, change: Callable[[Marked, str], Scalar]) -> Marked:
        """The same tree with `change(node, text)` in place of every text."""
        if isinstance(self.value, dict):
            return replace(self, value={key: item.map_text(change) for key, item in self.value.items()})
        if isinstance(self.value, list):
            return replace(self, value=[item.map_text(change) for item in self.value])
        return replace(self, value=change(self, self.value)) if isinstance(self.value, str) else self


def read_scalar(text: str) -> Scalar:
    """What an unquoted YAML 1.2 scalar means; `1e6` is the integer, because whole numbers are often written so."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text.replace("_", ""))
        return int(number) if number.is_integer() and "." not in text else number
    return _SPECIAL.get(text.lower(), text)


def parse(text: str, name: str, problems: list[Problem]) -> Marked | None:
    """The tree of a YAML text that is called `name` in messages; mistakes are added to `problems`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        said = " ".join(part for part in (error.context, error.problem) if part)
        problems.append(Problem(f"{name}:{line}", f"not valid YAML: {said}", line))
        return None
    except yaml.YAMLError as error:
        problems.append(Problem(name, f"not valid YAML: {' '.join(str(error).split())}"))
        return None
    return _Builder(name, problems).build(root, root.start_mark.line + 1) if root else None


def parse_value(text: str, origin: str, problems: list[Problem]) -> Marked | None:
    """The tree of a value given on the command line; every node of it has the same `origin`."""
    found: list[Problem] = []
    tree = parse(text, origin, found)
    problems += [Problem(origin, item.message) for item in found]
    if found:
        return None
    return _at_origin(tree, origin) if tree else Marked(None, origin)


def _at_origin(node: Marked, origin: str) -> Marked:
    value = node.value
    if isinstance(value, dict):
        value = {key: _at_origin(item, origin) for key, item in value.items()}
    elif isinstance(value, list):
        value = [_at_origin(item, origin) for item in value]
    return replace(node, value=value, origin=origin, line=0)


class _Builder:
    """Turns PyYAML's nodes into `Marked` values, collecting mistakes instead of stopping at the first."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        self.name, self.problems = name, problems
        self.open: set[int] = set()

    def build(self, node: yaml.Node, line: int) -> Marked:
        origin = f"{self.name}:{line}"
        if not node.tag.startswith("tag:yaml.org,2002:") or ":python/" in node.tag:
            self.problems.append(Problem(origin, f"recipes have no YAML tags, and here stands {node.tag!r}", line))
        if id(node) in self.open:
            self.problems.append(Problem(origin, "a YAML alias that holds itself", line))
            return Marked(None, origin, line)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return Marked(self.mapping(node), origin, line)
            if isinstance(node, yaml.SequenceNode):
                return Marked([self.build(item, item.start_mark.line + 1) for item in node.value], origin, line)
            assert isinstance(node, yaml.ScalarNode)
            plain = node.style is None
            return Marked(read_scalar(node.value) if plain else node.value, origin, line, plain)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode) -> dict[str, Marked]:
        found: dict[str, Marked] = {}
        merged: dict[str, Marked] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(f"{self.name}:{line}", "a key must be a word", line))
                continue
            if key.value == "<<" and key.style is None:
                merged |= dict(self.merge(value, line))
                continue
            if key.value in found:
                first = found[key.value].line
                said = f"the key {key.value!r} stands here a second time (first in line {first}); keep one of them"
                self.problems.append(Problem(f"{self.name}:{line}", said, line))
                continue
            found[key.value] = self.build(value, line)
        return {**merged, **found}

    def merge(self, value: yaml.Node, line: int) -> Iterator[tuple[str, Marked]]:
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for part in reversed(parts):
            below = self.build(part, line).value
            if isinstance(below, dict):
                yield from below.items()
            else:
                self.problems.append(Problem(f"{self.name}:{line}", "'<<' takes a mapping or a list of them", line))
