"""Monte Carlo tree search over steps (§4.3.3): UCT of Kocsis and Szepesvári, with progressive widening (Coulom 2007).

A simulation goes down from the problem, at each step to the successor with the highest upper bound, until a step that
may have one more successor. From there a whole end is drawn; its next step becomes the new successor (or an old one, if
it says the same), and what the end is worth counts for all steps on the way. A process reward, where there is one,
speaks beside the end, so that the search is led before any end was right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Steps = tuple[str, ...]


@dataclass
class Node:
    """A step as the search sees it."""

    visits: int = 0
    value: float = 0.0
    """Sum of what the simulations through it were worth."""
    drawn: int = 0
    """Ends drawn from right behind it; they need not all have begun differently."""
    below: dict[str, Node] = field(default_factory=dict)
    last: bool = False
    """Whether a solution ends here."""

    @property
    def mean(self) -> float:
        """What a simulation through it was worth on average."""
        return self.value / self.visits if self.visits else 0.0


class Search:
    """The search for a solution of one problem; `next_start` and `learn` take turns, so that many run in step."""

    def __init__(self, explore: float, widen: float) -> None:
        self.root, self.explore, self.widen = Node(), explore, widen
        self.right: list[Steps] = []
        """Right solutions, in the order they were found, each once."""

    def next_start(self) -> Steps:
        """The steps from behind which the next end is to be drawn."""
        node, steps = self.root, []
        # Where nothing was worth anything yet, going down would only bind the search to its first steps.
        while node.below and node.value > 0 and node.drawn >= self.widen * math.sqrt(node.visits):
            open_ones = {step: one for step, one in node.below.items() if not one.last}
            if not open_ones:
                break
            step = max(open_ones, key=lambda name: (self._bound(node, open_ones[name]), name))
            steps.append(step)
            node = node.below[step]
        return tuple(steps)

    def _bound(self, above: Node, node: Node) -> float:
        return node.mean + self.explore * math.sqrt(math.log(max(above.visits, 1)) / node.visits)

    def learn(self, start: Steps, steps: Steps, right: bool, worth: float) -> None:
        """Take in a solution that began with `start`: whether it is right, and what it is worth in 0 … 1.

        `steps` equal to `start` is an end that was cut off: it counts for the steps above, and adds none.
        """
        assert steps[: len(start)] == start
        node = self.root
        node.visits, node.value = node.visits + 1, node.value + worth
        for step in start:
            node = node.below[step]
            node.visits, node.value = node.visits + 1, node.value + worth
        node.drawn += 1
        for step in steps[len(start) : len(start) + 1]:
            node = node.below.setdefault(step, Node())
            node.visits, node.value = node.visits + 1, node.value + worth
        if len(steps) == len(start) + 1:
            node.last = True
        if right and steps not in self.right:
            self.right.append(steps)

    @property
    def best(self) -> Steps | None:
        """Of the right solutions the one whose steps were worth most on the way; None where none was found."""

        def worth(steps: Steps) -> tuple[float, int]:
            node, total, seen = self.root, 0.0, 0
            for step in steps:
                if step not in node.below:
                    break
                node = node.below[step]
                total, seen = total + node.mean, seen + 1
            return (total / max(seen, 1), -len(steps))

        return max(self.right, key=worth) if self.right else None


def run(
    searches: Sequence[Search],
    simulations: int,
    draw: Callable[[list[tuple[int, Steps]], int], list[Steps]],
    judge: Callable[[list[tuple[int, Steps]]], list[bool]],
    value: Callable[[list[tuple[int, Steps]]], list[float]] | None = None,
    enough: int = 1,
) -> int:
    """Search all problems at once, a simulation of each at a time, until each has `enough` right solutions.

    `draw` gives a whole solution to each (problem, first steps) in the given round, empty where it was cut off;
    `judge` tells which are right; `value` is a process reward in 0 … 1 of first steps. Returns ends drawn.
    """
    drawn = 0
    for turn in range(simulations):
        active = [place for place, one in enumerate(searches) if len(one.right) < enough]
        if not active:
            break
        starts = [(place, searches[place].next_start()) for place in active]
        whole = draw(starts, turn)
        ends = [steps or start for (_, start), steps in zip(starts, whole, strict=True)]
        drawn += len(ends)
        judged = judge([(place, steps) for (place, _), steps in zip(starts, ends)])
        good = [right and bool(steps) for right, steps in zip(judged, whole)]  # what is cut off may look right
        led = None
        if value is not None:
            led = value([(place, steps[: len(start) + 1]) for (place, start), steps in zip(starts, ends)])
        for number, ((place, start), steps) in enumerate(zip(starts, ends)):
            worth = float(good[number]) if led is None else max(float(good[number]), led[number])
            searches[place].learn(start, steps, good[number], worth)
    return drawn
