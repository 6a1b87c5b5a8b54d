"""Tools that answers may call, and what their calls give: a calculator, a search over documents, Python (§4.3.5).

Everything is local and bounded: the calculator reads an expression and never runs code, the search is BM25 (Robertson
and Zaragoza 2009) over sentences, and programs run in the sandbox. A call that cannot be done gives a line that says
why, as a person's interpreter would, so that a model can mend it.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from herdbook.evaluate.sandbox import Program, SandboxSettings, run_programs
from herdbook.settings import UserError
from herdbook.tokens.tools import Call, read_calls

LONGEST_EXPRESSION = 200
LARGEST_POWER = 64
MOST_OUTPUT = 400  # characters of what a call gave that a model is shown
TAG = "<|python_tag|>"
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class AnyName:
    """Holds every name: for reading calls of tools that are not listed."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def read_answer_calls(answer: str) -> list[Call]:
    """The calls an answer consists of, in Llama 3's JSON format; none when it is anything else."""
    return read_calls(answer.strip().removeprefix(TAG).strip(), AnyName()) or []


def calculate(expression: str) -> Fraction:
    """The exact value of an arithmetic expression of numbers, `+ - * / // % **` and brackets.

    Raises UserError for anything else, for division by zero, and for powers above 64.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise UserError(f"the expression has {len(expression)} characters; at most {LONGEST_EXPRESSION} are read")
    text = expression.replace("×", "*").replace("·", "*").replace("÷", "/").replace("−", "-").replace("^", "**")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = error if isinstance(error, UserError) else "no arithmetic expression"
        raise UserError(f"cannot calculate {expression[:60]!r}: {said}") from None
    except ZeroDivisionError:
        raise UserError(f"cannot calculate {expression[:60]!r}: division by zero") from None


def _value(node: ast.AST) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Fraction(str(number))
        case ast.UnaryOp(op=op, operand=inner) if type(op) in OPERATORS:
            return Fraction(OPERATORS[type(op)](_value(inner)))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, power = _value(left), _value(right)
            if power.denominator != 1 or abs(power) > LARGEST_POWER or abs(base) > 10**6:
                raise UserError(f"powers are whole, at most {LARGEST_POWER}")
            return Fraction(base ** int(power))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return Fraction(OPERATORS[type(op)](_value(left), _value(right)))
    raise UserError("no arithmetic expression")


def shown(value: Fraction) -> str:
    """A number as a calculator shows it: whole, or with up to ten significant digits."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"


def same_argument(given: Any, wanted: Any, key: str) -> bool:
    """Whether two arguments mean the same: expressions by value, texts without case, marks and small words."""
    if key == "expression":
        try:
            return calculate(str(given)) == calculate(str(wanted))
        except UserError:
            return False
    if key == "code":
        return code_tree(str(given)) == code_tree(str(wanted))
    if isinstance(wanted, str):
        return terms(str(given)) == terms(wanted)
    return bool(given == wanted)


def code_tree(code: str) -> str:
    """Code up to how it is laid out."""
    try:
        return ast.dump(ast.parse(code.strip()))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return " ".join(code.split())


def same_calls(calls: Sequence[Call], wanted: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are the wanted calls `{"name", "arguments"}`, in any order, each once."""
    left = list(wanted)
    for call in calls:
        match = next(
            (one for one in left if one["name"] == call.name and _same(call.arguments, one["arguments"])), None
        )
        if match is None:
            return False
        left.remove(match)
    return not left


def _same(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return set(given) == set(wanted) and all(same_argument(given[key], wanted[key], key) for key in wanted)


SMALL_WORDS = frozenset(
    ("a", "an", "and", "are", "by", "does", "for", "from", "in", "is", "of", "on", "the", "to", "was", "what", "when")
)


def terms(text: str) -> list[str]:
    """The words of a text that a search looks for, in order."""
    return [word for word in re.findall(r"\w+", text.casefold()) if word not in SMALL_WORDS]


class Corpus:
    """Sentences to search, best first by BM25."""

    def __init__(self, texts: Iterable[str], k: float = 1.2, b: float = 0.75) -> None:
        """`texts` are documents; each of their lines is cut into sentences. `k` and `b` are BM25's constants."""
        lines = (line for text in texts for line in text.split("\n"))
        found = (part.strip() for line in lines for part in re.split(r"(?<=[.!?])\s+(?=[A-ZÄÖÜ0-9])", line))
        self.sentences = list(dict.fromkeys(part for part in found if part))
        self.k, self.b = k, b
        self.places: dict[str, list[tuple[int, int]]] = {}
        self.lengths = []
        for place, sentence in enumerate(self.sentences):
            counts = Counter(terms(sentence))
            self.lengths.append(sum(counts.values()))
            for term, count in counts.items():
                self.places.setdefault(term, []).append((place, count))
        self.mean = max(1.0, sum(self.lengths) / max(1, len(self.lengths)))

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """The documents of a folder: a world's pages that are to be kept (`truth.parquet`), else Parquet, JSON lines
        and text files. Raises UserError when it holds none."""
        texts = list(read_texts(folder))
        if not texts:
            raise UserError(
                f"{folder}: no documents to search; looked for Parquet and JSON lines with 'text', and .txt"
            )
        return cls(texts)

    def search(self, query: str, count: int = 1) -> list[str]:
        """The `count` best sentences for a query; fewer when fewer hold any of its words."""
        total = len(self.sentences)
        weighed: dict[int, float] = {}
        for term in dict.fromkeys(terms(query)):
            places = self.places.get(term, ())
            rarity = math.log(1 + (total - len(places) + 0.5) / (len(places) + 0.5))
            for place, times in places:
                norm = self.k * (1 - self.b + self.b * self.lengths[place] / self.mean)
                weighed[place] = weighed.get(place, 0.0) + rarity * times * (self.k + 1) / (times + norm)
        best = sorted(weighed, key=lambda place: (-weighed[place], place))[:count]
        return [self.sentences[place] for place in best]


def read_texts(folder: Path) -> Iterable[str]:
    """The texts of a folder's documents; of a world's pages, those that curation is to keep."""
    truth = folder / "truth.parquet"
    if truth.is_file():
        import pyarrow.parquet as pq

        rows = pq.read_table(truth, columns=["clean_text", "keep"]).to_pylist()
        yield from (row["clean_text"] for row in rows if row["keep"])
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            if "text" in pq.read_schema(path).names:
                yield from (str(text) for text in pq.read_table(path, columns=["text"]).column("text").to_pylist())
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as file:
                rows = (json.loads(line) for line in file if line.strip())
                yield from (str(row["text"]) for row in rows if "text" in row)
        elif path.suffix == ".txt":
            yield path.read_text(encoding="utf-8")


class Toolbox:
    """Runs calls of `calculator(expression)`, `search(query)` and `python(code)`."""

    def __init__(self, corpus: Corpus | None = None, sandbox: SandboxSettings | None = None, results: int = 1) -> None:
        """`corpus`: what `search` looks in; `results`: sentences that a search shows."""
        self.corpus, self.results = corpus, results
        self.sandbox = sandbox or SandboxSettings(seconds=5.0, memory_mb=256)

    def run(self, calls: Sequence[Call]) -> list[str]:
        """What each call gives, as the text that goes back under the role ipython."""
        code = [str(call.arguments.get("code", "")) if call.name == "python" else None for call in calls]
        programs = [Program(one, "") for one in code if one is not None]
        outcomes = iter(run_programs(programs, self.sandbox) if programs else [])
        given = []
        for call, one in zip(calls, code):
            if one is None:
                given.append(self._simple(call))
                continue
            outcome = next(outcomes)
            said = outcome.output if outcome.passed else f"{outcome.output}{outcome.reason}: {outcome.detail}"
            given.append(said.strip()[:MOST_OUTPUT] or "(no output)")
        return given

    def _simple(self, call: Call) -> str:
        wanted = {"calculator": "expression", "search": "query"}.get(call.name)
        if wanted is None:
            return f"error: no tool is called {call.name[:40]!r}; there are calculator, search and python"
        argument = call.arguments.get(wanted)
        if not isinstance(argument, str | int | float) or not str(argument).strip():
            return f"error: {call.name} needs {wanted!r}, a text"
        if call.name == "search":
            if self.corpus is None:
                return "error: there is nothing to search in"
            return "\n".join(self.corpus.search(str(argument), self.results)) or "nothing found"
        try:
            return shown(calculate(str(argument)))
        except UserError as error:
            return f"error: {error}"
