"""Code in other languages and in words (§4.3.1): translated and explained, and brought back to see whether it held.

What runs only in one direction is checked by the way back: code that was translated to another language is translated
to Python again and must pass the tests; code that was explained is written again from the words alone and must do the
same.
"""

from __future__ import annotations

import ast
from typing import Any

from herdbook.posttrain.judging import fenced, read_verdict
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.code_check import check_all, static
from herdbook.posttrain.synthesis.desk import Desk, assistant, need, user
from herdbook.posttrain.synthesis.settings import ExplainSettings, TranslateSettings


def translate(settings: TranslateSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs that translate Python; kept are those whose way back passes the tests."""
    rows = desk.requests_of(settings.tasks, settings)
    rows = [row for row in rows if row.get("reference") and (row.get("check") or {}).get("tests")]
    need(rows, f"translate finds no requests of the tasks {', '.join(settings.tasks)} with a reference and tests")
    targets = [desk.pick(settings.languages, str(row["id"])) for row in rows]
    asked = [
        desk.prompts.fill("code_translate", source="Python", target=target, code=block("python", str(row["reference"])))
        for row, target in zip(rows, targets)
    ]
    there = [
        fenced(some[0].text, target.lower()) if some and some[0].ended else None
        for some, target in zip(desk.write([[user(one)] for one in asked], settings), targets, strict=True)
    ]
    ready = [place for place, code in enumerate(there) if code]
    returning = [
        desk.prompts.fill(
            "code_translate",
            source=targets[place],
            target="Python",
            code=block(targets[place].lower(), str(there[place])),
        )
        for place in ready
    ]
    back = [
        fenced(some[0].text, "python") if some else None
        for some in desk.write([[user(one)] for one in returning], settings)
    ]
    tests = [str(rows[place]["check"]["tests"]) for place in ready]
    findings = check_all(back, tests, seconds=settings.seconds)
    kept = [place for place, finding in zip(ready, findings) if finding.passed]
    dialogs = [
        {
            "id": f"{rows[place]['id']}/{targets[place]}",
            "task": "translation",
            "language": "code",
            "messages": [user(asked[place]), assistant(block(targets[place].lower(), str(there[place])))],
        }
        for place in kept
    ]
    return dialogs, {"asked": len(rows), "translated": len(ready), "came_back_right": len(kept)}


def explain(settings: ExplainSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs that explain code; kept are those from whose words the same code was written again."""
    pieces = [(id, code) for id, text in desk.texts(settings) if (code := piece_of(text, settings.excerpt, desk, id))]
    need(pieces, "explain finds no documents that are Python with functions or classes short enough")
    asked = [
        desk.prompts.fill("code_explain", language=settings.language, code=block(settings.language.lower(), code))
        for _, code in pieces
    ]
    words = [
        some[0].text.strip() if some and some[0].ended else ""
        for some in desk.write([[user(one)] for one in asked], settings)
    ]
    ready = [place for place, said in enumerate(words) if said and pieces[place][1] not in said]
    again_asked = [
        desk.prompts.fill("code_again", language=settings.language, description=words[place]) for place in ready
    ]
    again = [
        fenced(some[0].text, "python") if some else None
        for some in desk.write([[user(one)] for one in again_asked], settings)
    ]
    whole = [(place, code) for place, code in zip(ready, again) if code and static(code).passed]
    judged = [
        desk.prompts.fill("code_faithful", language=settings.language, code=pieces[place][1], again=code)
        for place, code in whole
    ]
    said = desk.ask(judged, read_verdict("same", "different"))
    kept = [place for (place, _), verdict in zip(whole, said) if verdict == "same"]
    dialogs = [
        {"id": pieces[place][0], "task": "code", "messages": [user(asked[place]), assistant(words[place])]}
        for place in kept
    ]
    return dialogs, {"asked": len(pieces), "explained": len(ready), "written_again": len(whole), "same": len(kept)}


def piece_of(text: str, longest: int, desk: Desk, id: str) -> str | None:
    """A whole top-level function or class of a module, chosen by a hash; None where there is none short enough."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found = [
        code
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (code := ast.get_source_segment(text, node))
    ]
    short = [code for code in found if 40 <= len(code) <= longest]
    return desk.pick(short, id) if short else None


def block(language: str, code: str) -> str:
    """Code in a fence."""
    return f"```{language}\n{code.strip()}\n```"
