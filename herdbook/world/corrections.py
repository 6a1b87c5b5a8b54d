"""Requests to mend a program: what was asked, a wrong answer, what a test says of it, and then the right one (§4.3.1).

A model learns to use an error it is told only from dialogs in which somebody does. What is wrong is what small models
get wrong: a number, a letter or a name copied badly, the argument of another function, the body of another family. What
is said is said as the maker of code says it (`posttrain/prompts/code_repair.txt`), so what is learnt here is of use
there. No program is run: what a wrong one gives is known from its family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from herdbook.world.asked import program_request
from herdbook.world.families import ARGUMENTS, FAMILIES, Family
from herdbook.world.programs import Program, make_program
from herdbook.world.request import Request, Split, said

MENDED = (
    "This does not work yet.\n\n{feedback}\n\nFind out why, then answer with the whole corrected code in one block."
)
FAILED = "The tests end with:\n{error}"
LINTED = "A linter finds:\nline {line}: undefined name '{name}'"

Wrong = tuple[str, str]
"""A wrong answer, and what is told about it."""


def family_of(program: Program) -> tuple[Family, Any]:
    """The family and the parameter a program was made of."""
    family = FAMILIES[program.key[0]]
    return family, next(one for one in family.parameters if str(one) == program.key[3])


def body_of(family: Family, parameter: Any, argument: str) -> str:
    """A family's body, indented."""
    return "\n".join(f"    {line.format(n=parameter, a=argument)}" for line in family.body)


def other(random: Random, values: tuple[Any, ...], than: Any) -> Any:
    """One of `values` that is another."""
    return random.choice([value for value in values if value != than])


def failing(program: Program, family: Family, parameter: Any) -> str | None:
    """What the first failing of the tests that are shown (every other one) says of this family's body."""
    for value, result in program.calls[::2]:
        got = family.truth(parameter, value)
        if got != result:
            return FAILED.format(error=f"AssertionError: {program.name}({value!r}) gives {got!r}, not {result!r}")
    return None


def misnamed(random: Random, program: Program, answer: str) -> Wrong | None:
    """Another parameter throughout, so the function asked for is not there."""
    family, parameter = family_of(program)
    wrong, argument = other(random, family.parameters, parameter), program.key[2]
    text = answer.replace(program.name, f"{program.key[1]}_{wrong}").replace(
        program.doc, family.doc.format(n=wrong, a=argument)
    )
    text = text.replace(body_of(family, parameter, argument), body_of(family, wrong, argument))
    return text, FAILED.format(error=f"NameError: name '{program.name}' is not defined")


def miscopied(random: Random, program: Program, answer: str) -> Wrong | None:
    """Another parameter in the body."""
    family, parameter = family_of(program)
    return _with_body(program, answer, family, other(random, family.parameters, parameter))


def mistaken(random: Random, program: Program, answer: str) -> Wrong | None:
    """The body of another family."""
    family, parameter = family_of(program)
    near = [one for one in FAMILIES.values() if one.takes == family.takes and parameter in one.parameters]
    return _with_body(program, answer, other(random, tuple(near), family), parameter)


def _with_body(program: Program, answer: str, family: Family, parameter: Any) -> Wrong | None:
    told = failing(program, family, parameter)
    if told is None:
        return None  # by chance the tests do not tell it
    right = body_of(*family_of(program), program.key[2])
    return answer.replace(right, body_of(family, parameter, program.key[2])), told


def undefined(random: Random, program: Program, answer: str) -> Wrong | None:
    """A body about an argument that the function does not have."""
    family, parameter = family_of(program)
    name = other(random, ARGUMENTS[family.takes], program.key[2])
    body = body_of(family, parameter, name)
    text = answer.replace(body_of(family, parameter, program.key[2]), body)
    before = text[: text.index(body)].count("\n")
    line = next(at for at, line in enumerate(family.body, before + 1) if "{a}" in line)
    return text, LINTED.format(line=line, name=name)


MISTAKES: tuple[Callable[[Random, Program, str], Wrong | None], ...] = (misnamed, miscopied, mistaken, undefined)


def repair_requests(random: Random, split: Split) -> Iterator[Request]:
    """Programs of this side that were answered wrongly, without end."""
    while True:
        program = make_program(random)
        if program.held_out != (split == "test"):
            continue
        plain, mistake = program_request(random, program), random.choice(MISTAKES)
        found = mistake(random, program, plain.reference)
        if found:
            wrong, told = found
            messages = (*plain.messages, said("assistant", wrong), said("user", MENDED.format(feedback=told)))
            more = {**plain.more, "mistake": mistake.__name__}
            yield Request("repair", messages, plain.reference, plain.check, plain.difficulty, more=more)
