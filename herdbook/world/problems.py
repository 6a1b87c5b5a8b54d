"""Word problems of one to four steps, with every step worked as an equation.

A problem is a start, some events and a question, so that a longer problem is made of the same sentences as a short
one. Numbers stay small: what is tested is reading and chaining steps, not long arithmetic. A problem's key is its story
and its numbers; keys are split between pages and questions by a hash, so a held-out problem's numbers never stand in a
page in the same story, whatever the name. Worksheets begin with plain sums, as the tables are learnt in school.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from herdbook.world.article import Article, Block
from herdbook.world.genres import fill
from herdbook.world.names import PUPILS, part_random
from herdbook.world.settings import WorldSettings

LARGEST = 60
HELD_OUT_PERCENT = 8
STEP_SHARES = (0.44, 0.36, 0.12, 0.08)
"""Share of worksheet problems with one, two, three and four steps."""
SUMS = 20
"""Plain sums at the head of each worksheet: the cheapest way to tell a sum once more."""


@dataclass(frozen=True)
class Problem:
    """A question in words, its worked steps ("3 pears. 3 + 4 = 7. 7 - 2 = 5. #### 5") and what identifies it."""

    question: str
    answer: str
    result: int
    steps: int
    key: tuple[object, ...]

    @property
    def text(self) -> str:
        """As it stands in a page."""
        return f"Question: {self.question}\nAnswer: {self.answer}"

    @property
    def held_out(self) -> bool:
        """Whether this story with these numbers is kept for questions."""
        digest = hashlib.sha256(repr(self.key).encode()).digest()
        return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


@dataclass(frozen=True)
class Story:
    """One setting for problems; `{p}` the person, `{n}` a number, `{x}` the things counted (in the plural)."""

    things: tuple[str, ...]
    start: str
    more: tuple[str, ...]
    less: tuple[str, ...]
    times: str
    share: str  # ends the problem, as does `question`
    question: str


STORIES: dict[str, Story] = {
    "basket": Story(
        ("apples", "pears", "plums", "eggs"),
        "{p} has {n} {x}.",
        ("{p} buys {n} more.", "{p} finds {n} more."),
        ("{p} eats {n}.", "{p} sells {n}."),
        "Then {p} gets {n} times as many.",
        "{p} puts them into {n} equal bags. How many {x} are in each bag?",
        "How many {x} does {p} have now?",
    ),
    "herd": Story(
        ("sheep", "goats", "cows", "horses"),
        "The herd of {p} has {n} {x}.",
        ("{p} brings {n} more.", "Then {n} are born."),
        ("{p} sells {n}.", "Then {n} run away."),
        "The herd grows to {n} times as many.",
        "{p} makes {n} equal groups. How many {x} are in each group?",
        "How many {x} are in the herd?",
    ),
    "shelf": Story(
        ("books", "jars", "cups", "boxes"),
        "{p} puts {n} {x} on the shelf.",
        ("{p} adds {n}.", "{p} brings {n} more."),
        ("{p} takes away {n}.", "{p} breaks {n}."),
        "Then there are {n} times as many.",
        "{p} makes {n} equal piles. How many {x} are in each pile?",
        "How many {x} are on the shelf?",
    ),
    "purse": Story(
        ("coins", "stamps", "cards", "tickets"),
        "{p} starts with {n} {x}.",
        ("{p} earns {n}.", "{p} wins {n}."),
        ("{p} loses {n}.", "{p} spends {n}."),
        "Then {p} has {n} times as many.",
        "{p} shares them equally among {n} friends. How many {x} does each friend get?",
        "How many {x} are left?",
    ),
}


def draw_numbers(random: Random, steps: int) -> tuple[int, list[tuple[str, int]], int]:
    """A start, the events (sign and number) and the result; every number on the way is from 1 to LARGEST."""
    while True:
        start = total = random.randint(3, 30)
        events: list[tuple[str, int]] = []
        for step in range(steps):
            sign = random.choice("++--*/" if step == steps - 1 else "++--*")
            if sign == "/" and steps == 1:  # few starts can be divided: draw one that can
                start = total = random.randint(2, 6) * random.randint(2, 12)
            if sign == "*" and total <= 12 and not any(s == "*" for s, _ in events):
                number = random.randint(2, 5)
            elif sign == "/" and (divisors := [d for d in range(2, 7) if total % d == 0 and total > d]):
                number = random.choice(divisors)
            else:
                sign = sign if sign in "+-" else "+"
                number = random.randint(2, 12)
            events.append((sign, number))
            total = work(total, sign, number)
            if not 1 <= total <= LARGEST:
                break
        else:
            return start, events, total


def work(total: int, sign: str, number: int) -> int:
    """One step of arithmetic; division is exact by construction."""
    return {"+": total + number, "-": total - number, "*": total * number, "/": total // number}[sign]


def make_problem(random: Random, steps: int, stories: dict[str, Story] = STORIES) -> Problem:
    """A problem in words, drawn at random from these stories; held out or not."""
    name = random.choice(tuple(stories))
    story = stories[name]
    start, events, _ = draw_numbers(random, steps)
    slots = {"p": random.choice(PUPILS), "x": random.choice(story.things)}
    sentences = [story.start.format(n=start, **slots)]
    lines, total = [f"{start} {slots['x']}."], start
    for sign, number in events:
        templates = {"+": story.more, "-": story.less, "*": (story.times,), "/": (story.share,)}[sign]
        sentences.append(random.choice(templates).format(n=number, **slots))
        result = work(total, sign, number)
        lines.append(f"{total} {sign} {number} = {result}.")
        total = result
    if events[-1][0] != "/":
        sentences.append(story.question.format(**slots))
    answer = f"{' '.join(lines)} #### {total}"
    return Problem(" ".join(sentences), answer, total, steps, (name, start, *events))


def page_problems(settings: WorldSettings) -> Iterator[Problem]:
    """The problems that stand in worksheets: none is held out."""
    random = part_random(settings.seed, "problems")
    for _ in range(settings.problems):
        steps = random.choices((1, 2, 3, 4), STEP_SHARES)[0]
        while (problem := make_problem(random, steps)).held_out:
            pass
        yield problem


def question_problems(
    random: Random, per_step: int, steps_wanted: tuple[int, ...] = (1, 2, 3, 4), stories: dict[str, Story] = STORIES
) -> Iterator[Problem]:
    """Held-out problems, `per_step` different ones for each number of steps."""
    for steps in steps_wanted:
        asked: set[str] = set()
        while len(asked) < per_step:
            problem = make_problem(random, steps, stories)
            if problem.held_out and problem.question not in asked:
                asked.add(problem.question)
                yield problem


TITLES = (
    "Worksheet {n}: counting and sharing", "Exercises, sheet {n}", "Word problems, part {n}", "Homework {n}",
    "Practice page {n}", "Problems for class {n}", "Sums in words, lesson {n}", "Arithmetic sheet {n}",
)  # fmt: skip
SITES = ("www.school-sheets.example", "worksheets.little-sums.example", "www.homework-room.example")
OPENINGS = (
    "Work out each step before you write down the result. {other} needed {number} minutes for this sheet.",
    "Read every question twice, as {other} does, then calculate. You have {number} minutes.",
    "Here are some problems with worked answers, put together by {other} on page {number}.",
    "Cover the answers and try the problems first; {other} got {number} points.",
    "These problems are taken from the class of {other}, room {number}, last {season}.",
    "Each answer shows the steps and, after the signs, the result. Checked by {other} on {day}, {number} readers.",
)


def warm_up(random: Random) -> str:
    """Plain sums to begin a sheet with: the tables that the worked steps are made of."""
    sums = []
    for _ in range(SUMS):
        start, [(sign, number)], result = draw_numbers(random, 1)
        sums.append(f"{start} {sign} {number} = {result}.")
    return " ".join(["Warm up:", *sums])


def worksheets(settings: WorldSettings) -> Iterator[Article]:
    """Articles of eight to twelve problems with worked answers."""
    random = part_random(settings.seed, "worksheets")
    problems = list(page_problems(settings))
    at = number = 0
    while at < len(problems):
        sheet = problems[at : at + random.randint(8, 12)]
        at, number = at + len(sheet), number + 1
        opening = f"{fill(random, random.choice(OPENINGS))} {warm_up(random)}"
        yield Article(
            slug=f"worksheet-{number}",
            site=random.choice(SITES),
            title=random.choice(TITLES).format(n=number),
            language="en",
            topic="math",
            genre="worksheet",
            blocks=(Block("paragraph", opening), *(Block("qa", problem.text) for problem in sheet)),
        )
