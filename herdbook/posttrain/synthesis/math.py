"""Worked mathematics (§4.3.3): solutions filtered by their end and gone through by the judge; mistakes corrected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from herdbook.evaluate.answers import final_number
from herdbook.posttrain.judging import read_verdict
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.desk import Desk, assistant, mistaken, need, user
from herdbook.posttrain.synthesis.math_settings import MathSettings, TreeSettings
from herdbook.posttrain.synthesis.steps import Steps, draw_ends, right_ends
from herdbook.posttrain.synthesis.tree import Search, run


def make(settings: MathSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs of right solutions (and of mistakes with their correction), and how many were right."""
    rows = need(desk.requests_of(settings.tasks, settings), f"math finds no requests of the tasks {settings.tasks}")
    solutions = draw_ends([(row, ()) for row in rows], settings, desk, settings.solutions)
    right = judged(rows, solutions, settings)
    kept: list[list[Steps]] = []
    for some, good in zip(solutions, right):
        different = dict.fromkeys(steps for steps, one in zip(some, good) if one)
        kept.append(sorted(different, key=lambda steps: (len("".join(steps)), steps)))
    figures: dict[str, Any] = {
        "problems": len(rows),
        "right": round(sum(sum(good) for good in right) / max(sum(len(good) for good in right), 1), 4),
        "solved": round(sum(any(good) for good in right) / len(rows), 4),
        "cut_off": sum(not steps for some in solutions for steps in some),
    }
    if settings.verify:
        kept, figures["verified"] = _verified(rows, kept, solutions, right, desk)
    dialogs = [
        _row(row, f"{row['id']}/{number}", [*row["messages"], assistant("".join(steps))])
        for row, some in zip(rows, kept)
        for number, steps in enumerate(some[: settings.keep])
    ]
    if settings.mistakes != "no":
        found, figures["mistakes"] = corrections(rows, solutions, right, kept, settings, desk)
        dialogs += found
    return dialogs, figures


def judged(rows: Sequence[Row], solutions: Sequence[Sequence[Steps]], settings: MathSettings) -> list[list[bool]]:
    """Which solutions are right: by a request's check; without one, those that end as `agree` of them do."""
    checked = [place for place, row in enumerate(rows) if row.get("check")]
    by_check = iter(right_ends([rows[place] for place in checked], [solutions[place] for place in checked]))
    return [
        next(by_check) if row.get("check") else by_majority(some, settings.agree) for row, some in zip(rows, solutions)
    ]


def by_majority(solutions: Sequence[Steps], agree: float) -> list[bool]:
    """Which solutions end with the number that at least `agree` of all end with (Wang and others 2023)."""
    texts = ["".join(steps) for steps in solutions]
    number = majority(texts, agree)
    return [number is not None and final_number(text) == number for text in texts]


def majority(solutions: Sequence[str], agree: float) -> Fraction | None:
    """The number that at least `agree` of all solutions end with; None where there is none. Empty ones have no end."""
    counts = Counter(end for text in solutions if (end := final_number(text)) is not None)
    number, times = counts.most_common(1)[0] if counts else (None, 0)
    return number if times >= agree * len(solutions) else None


def _verified(
    rows: Sequence[Row],
    kept: list[list[Steps]],
    solutions: Sequence[Sequence[Steps]],
    right: Sequence[Sequence[bool]],
    desk: Desk,
) -> tuple[list[list[Steps]], dict[str, float]]:
    """The kept solutions that the judge finds valid; and how often it says so of right and of wrong ends."""
    wrong = [next((s for s, good in zip(some, oks) if s and not good), None) for some, oks in zip(solutions, right)]
    asked = [(place, steps, True) for place, some in enumerate(kept) for steps in some]
    asked += [(place, steps, False) for place, steps in enumerate(wrong) if steps]
    prompts = [
        desk.prompts.fill("math_verify", problem=str(rows[place]["messages"][-1]["content"]), solution="".join(steps))
        for place, steps, _ in asked
    ]
    valid = [one == "valid" for one in desk.ask(prompts, read_verdict("valid", "invalid"))]
    good: list[list[Steps]] = [[] for _ in rows]
    for (place, steps, ends_right), said in zip(asked, valid):
        if ends_right and said:
            good[place].append(steps)
    said_of_right = [said for (_, _, one), said in zip(asked, valid) if one]
    said_of_wrong = [said for (_, _, one), said in zip(asked, valid) if not one]
    return good, {
        "valid_of_right": round(sum(said_of_right) / max(len(said_of_right), 1), 4),
        "valid_of_wrong": round(sum(said_of_wrong) / max(len(said_of_wrong), 1), 4),
    }


def corrections(
    rows: Sequence[Row],
    solutions: Sequence[Sequence[Steps]],
    right: Sequence[Sequence[bool]],
    kept: Sequence[Sequence[Steps]],
    settings: MathSettings,
    desk: Desk,
) -> tuple[list[Row], dict[str, int]]:
    """Dialogs of a wrong solution, which is read and not learnt, that it is wrong, and a right one."""
    told = user(desk.prompts.text("math_mistake"))
    wrong = {
        place: [*rows[place]["messages"], assistant("".join(steps)), told]
        for place, (some, good) in enumerate(zip(solutions, right))
        if (steps := next((one for one, ok in zip(some, good) if one and not ok), None))
    }
    if settings.mistakes == "samples":
        mended = {place: kept[place][0] for place in wrong if kept[place]}
    else:
        places = list(wrong)
        asked = [({**rows[place], "messages": wrong[place]}, ()) for place in places]
        ends = draw_ends(asked, settings, desk, settings.solutions, 1)
        good = judged([rows[place] for place in places], ends, settings)
        mended = {
            place: steps
            for place, some, oks in zip(places, ends, good)
            if (steps := next((one for one, ok in zip(some, oks) if ok), None))
        }
    dialogs = [
        _row(
            rows[place],
            f"{rows[place]['id']}/mistake",
            [*rows[place]["messages"], mistaken(wrong[place][-2]["content"]), told, assistant("".join(steps))],
        )
        for place, steps in mended.items()
    ]
    return dialogs, {"wrong": len(wrong), "mended": len(mended)}


def tree(settings: TreeSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs of hard problems that a search over steps solved, and what it took."""
    rows = need(desk.requests_of(settings.tasks, settings), f"tree finds no requests of the tasks {settings.tasks}")
    first = draw_ends([(row, ()) for row in rows], settings, desk, settings.tries)
    right = right_ends(rows, first)
    hard = [row for row, good in zip(rows, right) if sum(good) < settings.hard_below * max(len(good), 1)]
    searches = [Search(settings.explore, settings.widen) for _ in hard]

    def drawn(starts: list[tuple[int, Steps]], turn: int) -> list[Steps]:
        ends = draw_ends([(hard[place], start) for place, start in starts], settings, desk, 1, 1000 + turn)
        return [some[0] if some else () for some in ends]

    def good(ends: list[tuple[int, Steps]]) -> list[bool]:
        return [one[0] for one in right_ends([hard[place] for place, _ in ends], [[steps] for _, steps in ends])]

    ends = run(searches, settings.simulations, drawn, good, desk.value(hard))
    plain: dict[str, int] = {}
    if settings.compare:
        never_down = [Search(settings.explore, float("inf")) for _ in hard]
        plain["ends_by_drawing"] = run(never_down, settings.simulations, drawn, good)
        plain["solved_by_drawing"] = sum(bool(one.right) for one in never_down)
    dialogs = [
        _row(row, str(row["id"]), [*row["messages"], assistant("".join(search.best))])
        for row, search in zip(hard, searches)
        if search.best
    ]
    figures = {"problems": len(rows), "hard": len(hard), "solved": len(dialogs), "ends": ends, **plain}
    return dialogs, figures


def _row(row: Row, id: str, messages: list[dict[str, Any]]) -> Row:
    return {"id": id, "task": row["task"], "messages": messages}
