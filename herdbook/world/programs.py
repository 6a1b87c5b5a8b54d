"""Small Python functions of known shapes: a family, a parameter, a stem for the name and an argument make a program.

Signature and docstring determine the body, so a model that has read others of the family can write it. Combinations
are split between pages and questions by a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from herdbook.world.article import Article, Block
from herdbook.world.families import ARGUMENTS, FAMILIES, Input
from herdbook.world.genres import fill
from herdbook.world.names import part_random, words
from herdbook.world.settings import WorldSettings

SAMPLE_WORDS = words(
    "banana letter river garden window summer bottle pepper coffee market planet silver dinner yellow cotton basket "
    "tomato rabbit anchor button castle dragon engine forest guitar hammer island jacket kettle ladder meadow needle"
)
HELD_OUT_PERCENT = 10


@dataclass(frozen=True)
class Program:
    """One function: `prompt` (signature and docstring), `body`, and calls with the results they should have."""

    name: str
    prompt: str
    body: str
    doc: str
    calls: tuple[tuple[Any, Any], ...]
    key: tuple[str, str, str, str]

    @property
    def text(self) -> str:
        """The whole function as it stands in a page."""
        return (self.prompt + self.body).rstrip("\n")

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept for questions."""
        digest = hashlib.sha256(repr(self.key).encode()).digest()
        return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def draw_input(random: Random, takes: Input, parameter: Any) -> Any:
    """An argument that a program may be called with; lists and numbers come close to the parameter now and then."""
    if takes == "text":
        return random.choice(SAMPLE_WORDS)
    near = [random.randint(1, 60), *([parameter] if isinstance(parameter, int) else [])]
    if takes == "number":
        return random.choice((random.randint(1, 99), random.randint(1, 99), *near))
    return [random.choice((random.randint(1, 60), *near)) for _ in range(random.randint(3, 6))]


def make_program(random: Random) -> Program:
    """A program drawn at random; held out or not."""
    family_name = random.choice(tuple(FAMILIES))
    family = FAMILIES[family_name]
    parameter = random.choice(family.parameters)
    stem, argument = random.choice(family.stems), random.choice(ARGUMENTS[family.takes])
    name = f"{stem}_{parameter}"
    doc = family.doc.format(n=parameter, a=argument)
    calls = tuple(
        (value, family.truth(parameter, value))
        for value in (draw_input(random, family.takes, parameter) for _ in range(6))
    )
    example, result = calls[0]
    prompt = f'def {name}({argument}):\n    """{doc}\n\n    >>> {name}({literal(example)})\n    {result!r}\n    """\n'
    body = "".join(f"    {line.format(n=parameter, a=argument)}\n" for line in family.body)
    return Program(name, prompt, body, doc, calls, (family_name, stem, argument, str(parameter)))


def literal(value: Any) -> str:
    """The value as Python code, strings in double quotes."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def page_programs(settings: WorldSettings) -> Iterator[Program]:
    """The programs that stand in tutorials: none is held out."""
    random = part_random(settings.seed, "programs")
    for _ in range(settings.programs):
        while (program := make_program(random)).held_out:
            pass
        yield program


def question_programs(settings: WorldSettings, count: int) -> Iterator[Program]:
    """Held-out programs, all of different combinations, evenly over the families."""
    random = part_random(settings.seed, "program questions")
    asked: set[tuple[str, ...]] = set()
    by_family: dict[str, int] = dict.fromkeys(FAMILIES, 0)
    while len(asked) < count:
        program = make_program(random)
        family = program.key[0]
        if program.held_out and program.key not in asked and by_family[family] <= len(asked) // len(FAMILIES):
            asked.add(program.key)
            by_family[family] += 1
            yield program


def humaneval_item(program: Program, number: int) -> dict[str, Any]:
    """The program as a question with HumanEval's fields."""
    checks = "".join(f"    assert candidate({literal(value)}) == {result!r}\n" for value, result in program.calls)
    return {
        "task_id": f"herdbook/{number}",
        "prompt": program.prompt,
        "canonical_solution": program.body,
        "test": f"def check(candidate):\n{checks}",
        "entry_point": program.name,
    }


TITLES = (
    "Python lesson {n}: small functions", "Functions for beginners, part {n}", "Code notes {n}",
    "Python by example {n}", "Short programs, chapter {n}", "Learning Python, day {n}",
)  # fmt: skip
SITES = ("docs.small-python.example", "www.code-notes.example", "tutorials.first-steps.example")
OPENINGS = (
    "{other} writes short functions in this lesson. Each has a docstring that says what it does in {number} letters.",
    "A function has a name, an argument and a body. {other} needed {number} minutes to learn this.",
    "Read the docstring, then try to write the body yourself, as {other} did {number} times.",
    "The examples in the docstrings can be checked in the interpreter; {other} found {number} mistakes that way.",
)
BRIDGES = (
    "The next functions are written in the same way. {other} uses them every {day}; see also page {number}.",
    "Here is more of this kind; note how the docstring says what the body does, as {other} explains on page {number}.",
    "You can copy this code into a file and run it; {other} did so on {day} with {number} tests.",
    "Try to change the number and run the code again, said {other} on {day} in lesson {number}.",
    "The last line prints the result of a call. {other} ran it {number} times on {day}.",
)


def tutorials(settings: WorldSettings) -> Iterator[Article]:
    """Articles with two or three listings of a few functions each."""
    random = part_random(settings.seed, "tutorials")
    programs = list(page_programs(settings))
    at = number = 0
    while at < len(programs):
        number += 1
        blocks = [Block("paragraph", fill(random, random.choice(OPENINGS)))]
        for bridge in random.sample(BRIDGES, random.randint(2, 3)):
            listing = programs[at : at + random.randint(2, 3)]
            at += len(listing)
            if listing:
                call = f"print({listing[-1].name}({literal(listing[-1].calls[1][0])}))"
                code = "\n\n\n".join([*(program.text for program in listing), call])
                blocks += [Block("paragraph", fill(random, bridge)), Block("code", code)]
        yield Article(
            slug=f"python-{number}",
            site=random.choice(SITES),
            title=random.choice(TITLES).format(n=number),
            language="en",
            topic="code",
            genre="tutorial",
            blocks=tuple(blocks),
        )
