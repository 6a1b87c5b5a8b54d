"""Solutions as steps, and what each step is worth (§4.3.3; Lightman and others 2023, Wang and others 2024).

A step is worth the share of ends drawn from behind it that are right. Ends that began further down tell nothing about a
step above, since somebody chose what lies between; they are not counted there. Steps behind the same beginning that are
worth different things make pairs, which train a process reward model as answers do a reward model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from herdbook.evaluate.verify import verify_all
from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.desk import Desk, assistant, need
from herdbook.posttrain.synthesis.math_settings import StepSettings, WorkedSettings
from herdbook.posttrain.writer import Answer

Steps = tuple[str, ...]


def split_steps(text: str, pattern: str) -> Steps:
    """The steps of a solution; joined they are the solution again."""
    steps, start = [], 0
    for match in re.finditer(pattern, text):
        if text[start : match.start()].strip() and text[match.start() :].strip():
            steps.append(text[start : match.start()])
            start = match.start()
    return (*steps, text[start:]) if text.strip() else ()


@dataclass
class StepNode:
    """A step behind its beginning: how many ends were drawn from here or above, and how many of them are right."""

    ends: int = 0
    right: int = 0
    below: dict[str, StepNode] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """Share of right ends; None where none were drawn."""
        return self.right / self.ends if self.ends else None


class StepTree:
    """All solutions of one problem that were drawn, step by step."""

    def __init__(self) -> None:
        self.root = StepNode()

    def add(self, steps: Steps, right: bool, begun: int) -> None:
        """Count a solution of which the first `begun` steps were given and the rest was drawn."""
        node = self.root
        for depth, step in enumerate([None, *steps]):
            if step is not None:
                node = node.below.setdefault(step, StepNode())
            if depth >= begun:
                node.ends += 1
                node.right += right

    def at(self, steps: Steps) -> StepNode:
        """The node of these steps, which must be there."""
        node = self.root
        for step in steps:
            node = node.below[step]
        return node

    def pairs(self, margin: float, least: int) -> Iterator[tuple[Steps, str, str, float]]:
        """Beginnings with a better and a worse next step, and by how much; of each beginning the best and the worst."""

        def walk(node: StepNode, before: Steps) -> Iterator[tuple[Steps, str, str, float]]:
            seen = [(one.right / one.ends, step) for step, one in sorted(node.below.items()) if one.ends >= least]
            if len(seen) > 1:
                (low, bad), (high, good) = min(seen), max(seen)
                if high - low >= margin:
                    yield before, good, bad, high - low
            for step, one in sorted(node.below.items()):
                yield from walk(one, (*before, step))

        return walk(self.root, ())


def draw_ends(
    problems: Sequence[tuple[Row, Steps]], settings: WorkedSettings, desk: Desk, count: int, shift: int = 0
) -> list[list[Steps]]:
    """For each problem and given first steps, `count` whole solutions that go on from there; empty where cut off."""
    dialogs = [[*row["messages"], *([assistant("".join(before))] if before else [])] for row, before in problems]
    found = desk.write(dialogs, settings, count, shift)
    return [
        [_whole(before, answer, settings.split) for answer in answers]
        for (_, before), answers in zip(problems, found, strict=True)
    ]


def _whole(before: Steps, answer: Answer, pattern: str) -> Steps:
    # Only what is new is cut, so that the given steps stay what they are, wherever the pattern would cut now.
    return (*before, *split_steps(answer.text if before else answer.text.strip(), pattern)) if answer.ended else ()


def right_ends(rows: Sequence[Row], ends: Sequence[Sequence[Steps]]) -> list[list[bool]]:
    """Which of the solutions of each problem are right, by the check of its request."""
    flat = [(row, "".join(steps)) for row, some in zip(rows, ends, strict=True) for steps in some]
    verdicts = iter(verify_all([row for row, _ in flat], [text for _, text in flat]))
    return [[next(verdicts).correct and bool(steps) for steps in some] for some in ends]


def make(settings: StepSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs of right solutions whose worst step is best; writes `stepwise/` and `preferences/steps.jsonl`.

    `stepwise/steps.jsonl` is in TRL's form (prompt, completions, labels; a step is good when any end behind it is
    right), with `scores` beside.
    """
    rows = need(desk.requests_of(settings.tasks, settings), f"steps finds no requests of the tasks {settings.tasks}")
    first = draw_ends([(row, ()) for row in rows], settings, desk, settings.solutions)
    trees = [StepTree() for _ in rows]
    for tree, some, good in zip(trees, first, right_ends(rows, first)):
        for steps, right in zip(some, good):
            tree.add(steps, right, 0)
    prefixes = [
        (place, steps[:depth])
        for place, some in enumerate(first)
        for steps in dict.fromkeys(some)
        for depth in range(1, len(steps))
    ]
    prefixes = list(dict.fromkeys(prefixes))
    ends = draw_ends([(rows[place], before) for place, before in prefixes], settings, desk, settings.rollouts, 1)
    verdicts = right_ends([rows[place] for place, _ in prefixes], ends)
    for (place, before), some, good in zip(prefixes, ends, verdicts):
        for steps, one in zip(some, good):
            trees[place].add(steps or before, one, len(before))
    return _written(rows, first, trees, settings, desk)


def _written(
    rows: Sequence[Row], first: Sequence[Sequence[Steps]], trees: Sequence[StepTree], settings: StepSettings, desk: Desk
) -> tuple[list[Row], dict[str, Any]]:
    stepwise: list[Row] = []
    pairs: list[Row] = []
    dialogs: list[Row] = []
    scored = 0
    for row, some, tree in zip(rows, first, trees):
        best: tuple[float, Steps] = (0.0, ())
        for steps in dict.fromkeys(one for one in some if one):
            scores = [tree.at(steps[: depth + 1]).score or 0.0 for depth in range(len(steps))]
            scored += len(scores)
            stepwise.append(
                {
                    "id": f"{row['id']}/{len(stepwise)}",
                    "prompt": row["messages"][-1]["content"],
                    "completions": list(steps),
                    "labels": [score > 0 for score in scores],
                    "scores": [round(score, 4) for score in scores],
                }
            )
            if scores[-1] == 1 and min(scores) > best[0]:
                best = (min(scores), steps)
        if best[1]:
            messages = [*row["messages"], assistant("".join(best[1]))]
            dialogs.append(
                {"id": row["id"], "task": row["task"], "messages": messages, "worst_step": round(best[0], 4)}
            )
        for number, (before, better, worse, gap) in enumerate(tree.pairs(settings.margin, settings.least)):
            pairs.append(_pair(row, number, before, better, worse, gap))
    write_rows(desk.out / "stepwise" / "steps.jsonl", stepwise)
    write_rows(desk.out / "preferences" / "steps.jsonl", pairs)
    figures = {"problems": len(rows), "solutions": len(stepwise), "steps": scored, "pairs": len(pairs)}
    return dialogs, figures


def _pair(row: Row, number: int, before: Steps, better: str, worse: str, gap: float) -> Row:
    return {
        "id": f"{row['id']}/step{number}",
        "prompt": row["messages"],
        "chosen": [assistant("".join((*before, better)))],
        "rejected": [assistant("".join((*before, worse)))],
        "strength": "significantly better" if gap >= 0.6 else "better",
        "edited": None,
        "task": "step",
        "source": "synthesis/steps",
        "round": 0,
    }
