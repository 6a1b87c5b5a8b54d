"""Programs with execution feedback (§4.3.1): solutions that fail are told why and mended, what passes is kept.

Problems are requests with tests, or made of documents. Tests are half of a request's own, the other half being the
truth that the loop's own error is measured by; or the writer writes them, and the request's own are the truth.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from herdbook.evaluate.verify import code_of
from herdbook.posttrain.judging import fenced
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.code_check import Finding, assertions, check_all, halves
from herdbook.posttrain.synthesis.desk import Desk, assistant, mistaken, need, user
from herdbook.posttrain.synthesis.settings import CodeSettings
from herdbook.posttrain.writer import Message

_PROBLEM = re.compile(r"^\W*problem\W{0,4}(\S.*)", re.IGNORECASE | re.DOTALL | re.MULTILINE)
SHORTEST = 40
"""Characters below which a problem says nothing."""


@dataclass
class Task:
    """A problem at work: its dialog so far, the tests it is held against, and what became of it."""

    id: str
    messages: list[Message]
    tests: str = ""
    truth: str = ""
    """Hidden tests; empty where nobody knows the truth."""
    tries: list[str] = field(default_factory=list)
    codes: list[str | None] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether its last solution passes its tests."""
        return bool(self.findings) and self.findings[-1].passed


def make(settings: CodeSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs of problems with working solutions, and how often the loop was wrong before and after repair."""
    tasks, figures = problems(settings, desk)
    answer(tasks, settings, desk, 0)
    if settings.tests == "model":
        figures["without_tests"] = write_tests(tasks, settings, desk)
    check(tasks, settings)
    answered = [task for task in tasks if task.findings]
    failed = [sum(not task.passed for task in answered)]
    for turn in range(1, settings.repairs + 1):
        again = [task for task in answered if not task.passed]
        if not again:
            break
        answer(again, settings, desk, turn)
        check(again, settings)
        failed.append(sum(not task.passed for task in answered))
    kept = [task for task in answered if task.passed]
    count = max(len(answered), 1)
    figures |= {
        "problems": len(answered),
        "no_answer": len(tasks) - len(answered),
        "first": dict(Counter(task.findings[0].stage for task in answered)),
        "error_first": round(failed[0] / count, 4),
        "error_after": round(failed[-1] / count, 4),
        "failed_by_round": failed,
        **truth(answered, kept, settings),
    }
    return [_dialog(task, settings) for task in kept], figures


def problems(settings: CodeSettings, desk: Desk) -> tuple[list[Task], dict[str, Any]]:
    """Problems of requests; without such, made by the writer of documents."""
    rows = desk.requests_of(settings.tasks, settings)
    if rows:
        tasks = []
        for row in rows:
            own = named(row.get("check") or {})
            shown, hidden = halves(own) if settings.tests == "given" else ("", own)
            tasks.append(Task(str(row["id"]), list(row["messages"]), shown, hidden))
        return tasks, {}
    texts = need(desk.texts(settings), "code has neither requests of its tasks nor documents to make problems of")
    asked = [
        [user(desk.prompts.fill("code_problem", language=settings.language, excerpt=text[:1500]))] for _, text in texts
    ]
    tasks = []
    for (id, _), answers in zip(texts, desk.write(asked, settings), strict=True):
        problem = read_problem(answers[0].text) if answers else None
        if problem:
            told = desk.prompts.fill("code_solution", problem=problem, language=settings.language)
            tasks.append(Task(id, [user(told)]))
    return tasks, {"no_problem": len(texts) - len(tasks)}


def named(check: Row) -> str:
    """The tests of a check, about the function by its name where they call it `candidate`, as HumanEval does."""
    tests, name = str(check.get("tests", "")), check.get("entry_point")
    return re.sub(r"\bcandidate\b", str(name), tests) if name else tests


def read_problem(reply: str) -> str | None:
    """The problem of a reply; None where it has no title line, or says hardly anything."""
    found = _PROBLEM.search(reply)
    problem = found[1].strip() if found else ""
    return problem if len(problem) >= SHORTEST else None


def answer(tasks: Sequence[Task], settings: CodeSettings, desk: Desk, turn: int) -> None:
    """Have each task answered: at first, or once more after what was found wrong."""
    dialogs = [_asked(task, settings, desk) for task in tasks]
    for task, answers in zip(tasks, desk.write(dialogs, settings, shift=1000 * turn), strict=True):
        text = answers[0].text.strip() if answers and answers[0].ended else ""
        task.tries.append(text)
        task.codes.append(code_of(text) if text else None)


def _asked(task: Task, settings: CodeSettings, desk: Desk) -> list[Message]:
    if not task.findings or settings.repair == "again":
        return task.messages
    feedback = desk.prompts.fill("code_repair", feedback=task.findings[-1].told)
    return [*task.messages, assistant(task.tries[-1] or "…"), user(feedback)]


def write_tests(tasks: Sequence[Task], settings: CodeSettings, desk: Desk) -> int:
    """Have tests written for each task; returns for how many there are none that can be run."""
    ready = [task for task in tasks if task.codes[-1]]
    asked = [
        desk.prompts.fill("code_tests", problem=str(task.messages[-1]["content"]), solution=str(task.codes[-1]))
        for task in ready
    ]
    for task, answers in zip(ready, desk.write([[user(one)] for one in asked], settings), strict=True):
        written = fenced(answers[0].text, "python") if answers else None
        task.tests = "\n".join(assertions(written or ""))
    return sum(not task.tests for task in tasks)


def check(tasks: Sequence[Task], settings: CodeSettings) -> None:
    """Note what becomes of each task's last solution; one without tests is not judged, and so never kept."""
    ready = [task for task in tasks if task.tests]
    found = check_all(
        [task.codes[-1] for task in ready], [task.tests for task in ready], settings.lint, settings.seconds
    )
    for task, finding in zip(ready, found, strict=True):
        task.findings.append(finding)


def truth(answered: Sequence[Task], kept: Sequence[Task], settings: CodeSettings) -> dict[str, float]:
    """By hidden tests: how many first answers were wrong, and how many of those that the loop keeps."""
    known = [task for task in answered if task.truth]
    if not known:
        return {}
    first = check_all([task.codes[0] for task in known], [task.truth for task in known], False, settings.seconds)
    mine = [task for task in kept if task.truth]
    last = check_all([task.codes[-1] for task in mine], [task.truth for task in mine], False, settings.seconds)
    return {
        "wrong_first": round(sum(not one.passed for one in first) / len(known), 4),
        "wrong_kept": round(sum(not one.passed for one in last) / max(len(mine), 1), 4),
    }


def _dialog(task: Task, settings: CodeSettings) -> Row:
    messages = [*task.messages, assistant(task.tries[-1])]
    if settings.keep == "whole" and settings.repair == "dialog":
        messages = list(task.messages)
        for text, finding in zip(task.tries, task.findings, strict=True):
            messages += [assistant(text)] if finding.passed else [mistaken(text or "…"), user(finding.told)]
    return {"id": task.id, "task": "program", "messages": messages, "tries": len(task.tries), "tests": task.tests}
