"""Errands with tools (§4.3.5): the writer calls, the calls are carried out, and what comes to the right answer is kept.

Single, nested, parallel and multi-step errands are all the same loop; which one an errand is, its request says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from herdbook.evaluate.toolbox import Corpus, Toolbox
from herdbook.evaluate.verify import verify_all
from herdbook.posttrain.probe_questions import read_question
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.desk import Desk, need, user
from herdbook.posttrain.synthesis.text_settings import ToolsSettings
from herdbook.posttrain.writer import Answer, Message
from herdbook.tokens.tools import answer_message, read_calls, with_tools

EXCERPT = 1500


def function(name: str, description: str, argument: str, about: str) -> dict[str, Any]:
    """The JSON schema of a function of one text."""
    properties = {argument: {"type": "string", "description": about}}
    parameters = {"type": "object", "properties": properties, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    function("search", "Searches the documents for sentences.", "query", "What to look for."),
    function("calculator", "Works out an arithmetic expression.", "expression", "The expression, such as (3 + 4) * 2."),
    function("python", "Runs Python code and gives what it prints.", "code", "The code."),
]
"""What errands made of documents may call."""


@dataclass
class Way:
    """One way an errand is carried out."""

    errand: Row
    messages: list[Message]
    number: int
    calls: int = 0
    failed: int = 0
    """Calls that gave an error."""
    answer: str = ""
    ended: bool = False


def make(settings: ToolsSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs of errands with their calls and what these gave; and how many came to the right answer."""
    rows = [row for row in desk.requests_of(settings.tasks, settings) if "final" in row and row.get("step", 1) == 1]
    figures: dict[str, Any] = {}
    if not rows:
        rows, figures["no_question"] = made_errands(settings, desk)
    toolbox = Toolbox(corpus_of(desk))
    ways = [Way(row, list(row["messages"]), number) for row in rows for number in range(settings.tries)]
    going = ways
    for turn in range(settings.turns + 1):
        going = step(going, toolbox, settings, desk, turn)
        if not going:
            break
    checks = [{"id": way.errand["id"], "check": way.errand["final"]} for way in ways]
    verdicts = verify_all(checks, [way.answer for way in ways])
    right = [way for way, one in zip(ways, verdicts) if one.correct and way.ended and way.calls]
    kept: list[Way] = []
    for row in rows:
        mine = sorted((way for way in right if way.errand is row), key=lambda way: (way.failed, way.calls, way.number))
        different = {str(way.messages): way for way in reversed(mine)}
        kept += [way for way in mine if different[str(way.messages)] is way][: settings.keep]
    solved = {str(way.errand["id"]): str(way.errand.get("shape", "made")) for way in right}
    shapes = Counter(str(row.get("shape", "made")) for row in rows)
    figures |= {
        "errands": len(rows),
        "unanswered": sum(not way.calls and not way.answer for way in ways if way.number == 0),
        "right": round(len(right) / len(ways), 4),
        "solved": round(len(solved) / len(rows), 4),
        "solved_of": {name: round(Counter(solved.values())[name] / count, 4) for name, count in shapes.items()},
        "calls": sum(way.calls for way in ways),
        "failed_calls": sum(way.failed for way in ways),
    }
    return [_dialog(way) for way in kept], figures


def step(ways: Sequence[Way], toolbox: Toolbox, settings: ToolsSettings, desk: Desk, turn: int) -> list[Way]:
    """One turn of each way: an answer, or calls that are carried out; returns those that go on."""
    calling = []
    for way, some in _answered(ways, settings, desk, turn):
        text = some.text.strip()
        names = [tool["function"]["name"] for tool in way.errand["tools"]]
        calls = read_calls(text, names)
        way.messages = [*way.messages, answer_message(text, way.errand["tools"])]
        if calls and turn < settings.turns:
            calling.append((way, calls))
        elif not calls:
            way.answer, way.ended = text, some.ended
    given = iter(toolbox.run([call for _, calls in calling for call in calls]))
    for way, calls in calling:
        results = [next(given) for _ in calls]
        way.calls += len(calls)
        way.failed += sum(one.startswith("error:") or "Error" in one for one in results)
        way.messages = [*way.messages, {"role": "ipython", "content": "\n".join(results)}]
    return [way for way, _ in calling]


def _answered(ways: Sequence[Way], settings: ToolsSettings, desk: Desk, turn: int) -> list[tuple[Way, Answer]]:
    """The next answer of each way; those of the same number are asked together, and numbers have seeds of their own."""
    found = []
    for number in range(settings.tries):
        mine = [way for way in ways if way.number == number]
        dialogs = [with_tools(way.messages, way.errand["tools"]) for way in mine]
        answers = desk.write(dialogs, settings, shift=1000 * turn + number)
        found += [(way, some[0]) for way, some in zip(mine, answers, strict=True) if some]
    return found


def corpus_of(desk: Desk) -> Corpus | None:
    """What a search looks in: the documents that feed the stage, else the pages of the world the requests came from."""
    if desk.documents:
        return Corpus(text for _, text in desk.all_texts())
    world = desk.requests.parent if desk.requests is not None else None
    return Corpus.load(world) if world is not None and (world / "truth.parquet").is_file() else None


def made_errands(settings: ToolsSettings, desk: Desk) -> tuple[list[Row], int]:
    """Errands that the judge makes of documents, and of how many it could make none."""
    texts = need(desk.texts(settings), "tools has neither errands among its requests nor documents to make some of")
    prompts = [desk.prompts.fill("tool_question", excerpt=text[:EXCERPT]) for _, text in texts]
    rows = []
    for (id, _), made in zip(texts, desk.ask(prompts, read_question), strict=True):
        if made:
            final = {"kind": "text", "values": [made[1]]}
            rows.append({"id": id, "messages": [user(made[0])], "final": final, "tools": TOOLS})
    return need(rows, "tools: the judge made no errand that could be read"), len(texts) - len(rows)


def _dialog(way: Way) -> Row:
    return {
        "id": f"{way.errand['id']}/{way.number}",
        "task": "tool",
        "messages": way.messages,
        "tools": way.errand["tools"],
        "calls": way.calls,
    }
