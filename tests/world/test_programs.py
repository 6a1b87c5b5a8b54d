"""Programs: each runs against its tests and its own doctest, and held-out ones stand in no page."""

from __future__ import annotations

import ast
import doctest
from itertools import pairwise
from random import Random
from typing import Any

from herdbook.world.families import FAMILIES
from herdbook.world.programs import (
    Program,
    humaneval_item,
    make_program,
    page_programs,
    question_programs,
    tutorials,
)
from herdbook.world.settings import WorldSettings

TINY = WorldSettings.tiny()


def run(program: Program) -> None:
    item = humaneval_item(program, 0)
    scope: dict[str, Any] = {}
    exec(item["prompt"] + item["canonical_solution"] + "\n" + item["test"], scope)
    scope["check"](scope[item["entry_point"]])


def test_every_program_passes_its_tests_and_doctest() -> None:
    random, families = Random(0), set()
    for _ in range(600):
        program = make_program(random)
        run(program)
        scope: dict[str, Any] = {}
        exec(program.text, scope)
        examples = doctest.DocTestFinder().find(scope[program.name], globs=scope)
        assert examples[0].examples
        assert doctest.DocTestRunner(verbose=False).run(examples[0]).failed == 0
        families.add(program.key[0])
    assert families == set(FAMILIES) and len(FAMILIES) >= 20


def test_tests_notice_a_wrong_body() -> None:
    caught = 0
    programs = list(question_programs(TINY, 40))
    for program, other in pairwise(programs):
        item = humaneval_item(program, 0)
        scope: dict[str, Any] = {}
        body = other.body.replace(other.key[2], program.key[2])
        try:
            exec(item["prompt"] + body + item["test"], scope)
            scope["check"](scope[item["entry_point"]])
        except Exception:
            caught += 1
    assert caught >= 36


def test_held_out_combinations_stand_in_no_page() -> None:
    settings = WorldSettings()
    pages = {program.key for program in page_programs(settings)}
    asked = list(question_programs(settings, 66))
    assert not pages & {program.key for program in asked}
    assert len({program.key for program in asked}) == 66
    assert {program.key[0] for program in asked} == set(FAMILIES) <= {key[0] for key in pages}
    text = "\n".join(article.clean_text() for article in tutorials(settings))
    assert not any(program.prompt.splitlines()[0] in text and program.held_out for program in asked)


def test_signature_and_docstring_determine_the_body() -> None:
    random = Random(2)
    bodies: dict[tuple[str, str], set[str]] = {}
    for _ in range(5000):
        program = make_program(random)
        signature = program.prompt.splitlines()[0]
        bodies.setdefault((signature, program.doc), set()).add(program.body)
    assert all(len(found) == 1 for found in bodies.values())


def test_listings_are_python_that_runs() -> None:
    found = 0
    for article in tutorials(TINY):
        for block in article.blocks:
            if block.kind == "code":
                tree = ast.parse(block.text)
                found += sum(isinstance(node, ast.FunctionDef) for node in tree.body)
                exec(block.text, {"print": lambda *_: None})
    assert found == TINY.programs
