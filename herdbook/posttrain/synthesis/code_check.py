"""What can be said of Python code without knowing what it is for, and tests as statements that can be parted.

Three looks, the cheapest first: does it parse, does a linter find errors, do its tests pass in the sandbox (§4.3.1).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from herdbook.evaluate.sandbox import Program, SandboxSettings, run_programs
from herdbook.settings import UserError

HARMLESS = ("UnusedImport", "UnusedVariable", "RedefinedWhileUnused", "ImportStarUsed", "FStringMissingPlaceholders")
"""What the linter sees that does not make code wrong."""


@dataclass(frozen=True)
class Finding:
    """What became of a piece of code."""

    stage: str
    """passed, or where it stopped: empty, parse, lint, test, timeout."""

    told: str = ""
    """What to tell its writer."""

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong."""
        return self.stage == "passed"


def check_all(
    codes: Sequence[str | None], tests: Sequence[str], lint: bool = True, seconds: float = 10.0
) -> list[Finding]:
    """What becomes of each piece of code with its tests; those that parse and lint are run together."""
    found = [static(code, lint) for code in codes]
    running = [place for place, one in enumerate(found) if one.passed]
    programs = [Program(codes[place] or "", telling(tests[place])) for place in running]
    for place, outcome in zip(running, run_programs(programs, SandboxSettings(seconds=seconds)) if programs else []):
        if not outcome.passed:
            stage = "timeout" if outcome.reason == "timeout" else "test"
            told = (outcome.detail or outcome.reason).strip()[:600]
            found[place] = Finding(stage, f"The tests end with:\n{told}")
    return found


def static(code: str | None, lint: bool = True) -> Finding:
    """Whether code parses and has no errors that are seen without running it."""
    if code is None or not code.strip():
        return Finding("empty", "There is no block of code in the answer.")
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        return Finding("parse", f"It is no valid Python ({error.__class__.__name__}: {str(error)[:200]}{where}).")
    if lint and (said := linted(tree)):
        return Finding("lint", "A linter finds:\n" + "\n".join(said[:5]))
    return Finding("passed")


def linted(tree: ast.Module) -> list[str]:
    """What pyflakes finds that makes code wrong, a line each."""
    try:
        from pyflakes import checker
    except ImportError:
        raise UserError(
            "code.lint needs pyflakes; install it with: pip install 'herdbook[synthesis]', or say `lint: false`"
        ) from None
    messages = sorted(checker.Checker(tree).messages, key=lambda one: (one.lineno, one.col))
    return [
        f"line {one.lineno}: {one.message % one.message_args}" for one in messages if type(one).__name__ not in HARMLESS
    ]


def assertions(tests: str) -> list[str]:
    """The `assert` statements of tests, wherever they stand, in order; none where it is no Python."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    return [ast.unparse(node) for node in sorted(found, key=lambda node: node.lineno)]


def telling(tests: str) -> str:
    """Tests whose failing comparisons say what was got and what was wanted; as they are where they do not parse."""
    try:
        return ast.unparse(_Telling().visit(ast.parse(tests)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return tests


class _Telling(ast.NodeTransformer):
    """Gives each bare `assert a == b` a message; both sides are worked out once, as before."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Add the message where there is none."""
        test = node.test
        if node.msg or not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
            return node
        asked, wanted = ast.unparse(test.left), ast.unparse(test.comparators[0])
        told = f"assert (_got := ({asked})) == (_want := ({wanted})), '%s gives %r, not %r' % ({asked!r}, _got, _want)"
        return ast.parse(told).body[0]


def halves(tests: str) -> tuple[str, str]:
    """Tests parted in two that have every other assertion each; the second is empty where there are not two to part."""
    try:
        count = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(tests)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return tests, ""
    if count < 2:
        return tests, ""
    return ast.unparse(_Every(0).visit(ast.parse(tests))), ast.unparse(_Every(1).visit(ast.parse(tests)))


class _Every(ast.NodeTransformer):
    """Leaves every other assertion, beginning with the first (0) or the second (1)."""

    def __init__(self, rest: int) -> None:
        self.rest, self.seen = rest, -1

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Keep it or put nothing in its place."""
        self.seen += 1
        return node if self.seen % 2 == self.rest else ast.Pass()
