"""Requests that a tool answers: a calculator, a search over the world's pages, Python (§4.3.5).

A call is an answer `{"name": …, "parameters": {…}}` in Llama 3's format; several are parted by `; `. An errand of
several steps gives one request for each: what was called and what came back so far, and then what to do next. So each
step can be judged by itself; `final` is the check on the answer that the whole errand comes to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from herdbook.world.facts import Fact, Register
from herdbook.world.families import FAMILIES
from herdbook.world.paraphrases import PARAPHRASES
from herdbook.world.programs import draw_input, literal
from herdbook.world.request import Check, Message, Request, Split, bare, said, sentence, side, side_of, told, user
from herdbook.world.settings import EXPOSURES
from herdbook.world.tellings import phrase_of


def tool(name: str, about: str, argument: str) -> dict[str, Any]:
    """A tool's description in OpenAI's form, with one argument of text."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


TOOLS = {
    "calculator": tool("calculator", "Works out an expression.", "expression"),
    "search": tool("search", "Finds a sentence in the herd book.", "query"),
    "python": tool("python", "Runs Python code.", "code"),
}
ARGUMENT = {"calculator": "expression", "search": "query", "python": "code"}


@dataclass(frozen=True)
class Step:
    """Calls made together, `(tool, argument)`, and what each gives."""

    calls: tuple[tuple[str, str], ...]
    results: tuple[str, ...]

    @property
    def text(self) -> str:
        """As the assistant writes them."""
        return "; ".join(
            json.dumps({"name": name, "parameters": {ARGUMENT[name]: value}}, ensure_ascii=False)
            for name, value in self.calls
        )

    @property
    def check(self) -> Check:
        calls = [{"name": name, "arguments": {ARGUMENT[name]: value}} for name, value in self.calls]
        return {"kind": "tool", "calls": calls}


@dataclass(frozen=True)
class Errand:
    """What is asked, the steps to take, and the answer they come to."""

    question: str
    steps: tuple[Step, ...]
    answer: str
    final: Check
    shape: str  # single, parallel or nested
    key: tuple[object, ...]
    """What else than facts it is made of; each part belongs to one side."""

    def requests(self) -> Iterator[Request]:
        """One request for each step, and one for the answer."""
        names = list(dict.fromkeys(name for step in self.steps for name, _ in step.calls))
        tools = tuple(TOOLS[name] for name in sorted(names))
        messages: tuple[Message, ...] = user(self.question)
        difficulty = {"single": 1, "parallel": 2, "nested": 3}[self.shape]
        for number, step in enumerate(self.steps, 1):
            more = {"shape": self.shape, "step": number, "final": self.final}
            yield Request("tool", messages, step.text, step.check, difficulty, tools, more)
            messages = (*messages, said("assistant", step.text), said("ipython", "\n".join(step.results)))
        more = {"shape": self.shape, "step": len(self.steps) + 1, "final": self.final}
        yield Request("tool", messages, self.answer, self.final, difficulty, tools, more)


def sum_of(random: Random) -> tuple[str, str]:
    """An expression whose numbers, or whose result, are larger than pages work with, and its value."""
    a, b, c = random.randint(61, 99), random.randint(13, 60), random.randint(3, 9)
    expression, value = random.choice(
        ((f"{a} + {b}", a + b), (f"{a} - {b}", a - b), (f"{a} * {c}", a * c), (f"{b} * {c} + {a}", b * c + a))
    )
    return expression, str(value)


def look_up(random: Random, fact: Fact) -> tuple[tuple[str, str], str]:
    """A search for a fact, and a sentence that pages tell it in."""
    result = random.choice(PARAPHRASES[fact.subject.kind, fact.attribute])
    query = f"{phrase_of(fact)} of {fact.subject.name}"
    return ("search", query), result.format(s=fact.subject.name, v=fact.value)


def number(value: str) -> Check:
    return {"kind": "number", "value": value}


def calculation(random: Random, facts: list[Fact]) -> Errand:
    expression, value = sum_of(random)
    question = random.choice(("What is {e}?", "Calculate {e}.", "Work out {e} with the calculator.")).format(
        e=expression
    )
    step = Step((("calculator", expression),), (value,))
    return Errand(question, (step,), f"{expression} = {value}.", number(value), "single", (expression,))


def search(random: Random, facts: list[Fact]) -> Errand:
    fact = random.choice(facts)
    call, result = look_up(random, fact)
    question = random.choice(("Look up the {p} of {s}.", "Search for the {p} of {s}.")).format(
        p=phrase_of(fact), s=fact.subject.name
    )
    return Errand(question, (Step((call,), (result,)),), sentence(fact), told(fact), "single", ())


def python(random: Random, facts: list[Fact]) -> Errand:
    """One line of Python: a family's body on a value, where that is one expression with a result to show."""
    while True:
        name = random.choice(tuple(FAMILIES))
        family = FAMILIES[name]
        parameter = random.choice(family.parameters)
        value = draw_input(random, family.takes, parameter)
        outcome = family.truth(parameter, value)
        if len(family.body) == 1 and outcome not in ("", []):
            break
    expression = family.body[0].removeprefix("return ").format(n=parameter, a=literal(value))
    result = str(outcome)
    check: Check = number(result) if type(outcome) is int else {"kind": "text", "values": [result]}
    question = f"Use Python. {family.doc.format(n=parameter, a=literal(value))}"
    step = Step((("python", f"print({expression})"),), (result,))
    return Errand(question, (step,), f"{expression} gives {result}.", check, "single", (expression,))


def two_calculations(random: Random, facts: list[Fact]) -> Errand:
    (one, first), (two, second) = sum_of(random), sum_of(random)
    step = Step((("calculator", one), ("calculator", two)), (first, second))
    answer = f"{one} = {first}. {two} = {second}."
    question = f"What is {one}, and what is {two}?"
    final: Check = {"kind": "text", "all": [first, second]}
    return Errand(question, (step,), answer, final, "parallel", (one, two))


def two_searches(random: Random, facts: list[Fact]) -> Errand:
    """The same attribute of two subjects."""
    fact = random.choice(facts)
    like = [f for f in facts if f.attribute == fact.attribute and f.subject.name != fact.subject.name]
    if not like:
        return search(random, facts)
    other = random.choice(like)
    (call, result), (call2, result2) = look_up(random, fact), look_up(random, other)
    question = f"Look up the {phrase_of(fact)} of {fact.subject.name} and of {other.subject.name}."
    final: Check = {"kind": "text", "all": [bare(fact.value), bare(other.value)]}
    answer = f"{sentence(fact)} {sentence(other)}"
    return Errand(question, (Step((call, call2), (result, result2)),), answer, final, "parallel", ())


def dated(random: Random, facts: list[Fact]) -> Errand:
    """A year that is looked up, and reckoned on from."""
    years = [fact for fact in facts if fact.attribute.endswith("year")]
    if not years:
        return search(random, facts)
    fact, more = random.choice(years), random.randint(3, 99)
    call, result = look_up(random, fact)
    value = str(int(fact.value) + more)
    expression = f"{fact.value} + {more}"
    steps = (Step((call,), (result,)), Step((("calculator", expression),), (value,)))
    question = f"Look up the {phrase_of(fact)} of {fact.subject.name} and add {more} to it."
    return Errand(question, steps, f"{expression} = {value}.", number(value), "nested", (more,))


ERRANDS: tuple[Callable[[Random, list[Fact]], Errand], ...] = (
    calculation, calculation, search, search, python, two_calculations, two_searches, dated, dated,
)  # fmt: skip


def tool_requests(random: Random, register: Register, split: Split) -> Iterator[Request]:
    """Errands of this side, step by step, without end. Half look up what is well told, half what is told ten times:

    a small model copies a name it has hardly met badly, and one told once it has not met.
    """
    facts = [f for f in register.facts() if side_of(f) == split and f.subject.exposures != EXPOSURES[0]]
    groups = [own for times in EXPOSURES if (own := [f for f in facts if f.subject.exposures == times])]
    while groups:
        errand = random.choice(ERRANDS)(random, random.choice(groups))
        if all(side("errand", part) == split for part in errand.key):
            yield from errand.requests()
