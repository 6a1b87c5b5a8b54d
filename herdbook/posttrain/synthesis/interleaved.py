"""Mathematics in turns of words and code (§4.3.3): what is reckoned is run, and words and code must come to the same.

The blocks of a solution are one program, in their order. A solution is kept where that program runs, where the last
number that it prints is the one that the words end with, and where that end is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from herdbook.evaluate.answers import final_number
from herdbook.evaluate.sandbox import Outcome, Program, SandboxSettings, run_programs
from herdbook.evaluate.verify import verify_all
from herdbook.posttrain.judging import fences
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.desk import Desk, assistant, need, user
from herdbook.posttrain.synthesis.math import majority
from herdbook.posttrain.synthesis.math_settings import InterleavedSettings


def make(settings: InterleavedSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs of problems with solutions whose code was run, and at which look the others fell."""
    rows = need(
        desk.requests_of(settings.tasks, settings), f"interleaved finds no requests of the tasks {settings.tasks}"
    )
    asked = [desk.prompts.fill("math_interleaved", problem=str(row["messages"][-1]["content"])) for row in rows]
    dialogs = [[*row["messages"][:-1], user(words)] for row, words in zip(rows, asked)]
    answers = desk.write(dialogs, settings, settings.solutions)
    drawn = [(place, one.text.strip()) for place, some in enumerate(answers) for one in some if one.ended]
    coded = [(place, text, code) for place, text in drawn if (code := program_of(text))]
    outcomes = run([code for _, _, code in coded], settings.seconds)
    ran = [(place, text, one.output) for (place, text, _), one in zip(coded, outcomes) if one.passed]
    agreed = [(place, text) for place, text, output in ran if words_and_code_agree(text, output)]
    votes = [majority([one.text if one.ended else "" for one in some], settings.agree) for some in answers]
    right = [one for one, good in zip(agreed, ends_right(rows, agreed, votes)) if good]
    kept: dict[int, list[str]] = {}
    for place, text in sorted(right, key=lambda one: (one[0], len(one[1]), one[1])):
        some = kept.setdefault(place, [])
        if text not in some and len(some) < settings.keep:
            some.append(text)
    made = [
        {
            "id": f"{rows[place]['id']}/{number}",
            "task": rows[place]["task"],
            "messages": [*dialogs[place], assistant(one)],
        }
        for place, some in kept.items()
        for number, one in enumerate(some)
    ]
    counts = {"solutions": len(drawn), "with_code": len(coded), "ran": len(ran), "agreed": len(agreed)}
    return made, {"problems": len(rows), **counts, "right": len(right), "solved": len(kept)}


def program_of(solution: str) -> str:
    """The solution's blocks of Python as one program; empty where it has none."""
    return "\n\n".join(code for tag, code in fences(solution) if tag.lower() in ("", "python", "py")).strip()


def run(codes: Sequence[str], seconds: float) -> list[Outcome]:
    """What becomes of each program."""
    return run_programs([Program(code, "") for code in codes], SandboxSettings(seconds=seconds)) if codes else []


def words_and_code_agree(solution: str, output: str) -> bool:
    """Whether the words behind the last block end with the last number that the code printed."""
    printed, said = final_number(output), final_number(solution.rpartition("```")[2])
    return printed is not None and printed == said


def ends_right(rows: Sequence[Row], found: Sequence[tuple[int, str]], votes: Sequence[Fraction | None]) -> list[bool]:
    """By each request's check; without one, by the end that its solutions agree on."""
    checked = [(place, text) for place, text in found if rows[place].get("check")]
    verdicts = iter(verify_all([rows[place] for place, _ in checked], [text for _, text in checked]))
    return [
        next(verdicts).correct
        if rows[place].get("check")
        else votes[place] is not None and final_number(text) == votes[place]
        for place, text in found
    ]
