"""Lessons with formulas, and quizzes with lettered choices: the math topic beside the worksheets.

Quizzes ask for skills (a sum, a comparison, what a foreign word means), in the form in which MMLU is asked; they tell
no facts, so exposures stay exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from herdbook.world.article import Article, Block
from herdbook.world.facts import COLOURS, PRODUCTS
from herdbook.world.genres import fill
from herdbook.world.names import part_random
from herdbook.world.phrasebook import VALUES
from herdbook.world.settings import LANGUAGES, WorldSettings

LETTERS = "ABCD"
LANGUAGE_NAMES = {"de": "German", "fr": "French", "es": "Spanish", "it": "Italian"}
QUIZ_LENGTH = 8
QUIZ_OPENING = "Each question has one right answer. {other} wrote {number} of them on {day}."

EXPLANATIONS = (
    "It is written in this way:",
    "As a formula:",
    "We write it like this:",
    "In symbols, {other} wrote on {day}:",
)
INTRODUCTIONS = (
    "This lesson repeats some formulas that {other} knows by heart. It takes {number} minutes.",
    "We write down each formula, say it in words and work an example. {other} drew {number} pictures for it.",
    "Copy the formulas into your book, page {number}, before you go on, as {other} did.",
    "Take a pencil and a ruler; a drawing helps, says {other}, who made {number} of them.",
)


@dataclass(frozen=True)
class Formula:
    """A rule in words, and the same with numbers put in, as LaTeX and in plain characters."""

    name: str
    words: str
    latex: str
    plain: str


def formulas(a: int, b: int) -> tuple[Formula, ...]:
    """The formulas that lessons explain, worked for two small numbers."""
    s, p, d = a + b, a * b, a * b * (a + 1)
    return (
        Formula(
            "rectangle",
            "The area of a rectangle is the product of its two sides.",
            rf"A = a \cdot b = {a} \cdot {b} = {p}",
            f"A = a · b = {a} · {b} = {p}",
        ),
        Formula(
            "perimeter",
            "The perimeter of a rectangle is twice the sum of its sides.",
            rf"P = 2 (a + b) = 2 ({a} + {b}) = {2 * s}",
            f"P = 2 (a + b) = 2 ({a} + {b}) = {2 * s}",
        ),
        Formula(
            "triangle",
            "The area of a triangle is half of base times height.",
            rf"A = \frac{{g \cdot h}}{{2}} = \frac{{{2 * a} \cdot {b}}}{{2}} = {p}",
            f"A = g · h / 2 = {2 * a} · {b} / 2 = {p}",
        ),
        Formula(
            "right triangle",
            "In a right triangle the squares of the legs add up to that of the longest side.",
            rf"c^2 = a^2 + b^2 = {a}^2 + {b}^2 = {a * a + b * b}",
            f"c² = a² + b² = {a}² + {b}² = {a * a + b * b}",
        ),
        Formula(
            "circle",
            "The area of a circle grows with the square of its radius.",
            rf"A = \pi r^2 = {a * a} \pi \quad (r = {a}, d = {2 * a}, n = {b})",
            f"A = π r² = {a * a} π",
        ),
        Formula(
            "mean",
            "The mean is the sum divided by the count.",
            rf"m = \frac{{1}}{{n}} \sum_{{i=1}}^{{n}} x_i = \frac{{{a} + {a + 2 * b}}}{{2}} = {s}",
            f"m = ({a} + {a + 2 * b}) / 2 = {s}",
        ),
        Formula(
            "sum of numbers",
            "The sum of the numbers up to n follows from pairing the first with the last.",
            rf"S_n = \frac{{n (n + 1)}}{{2}} = \frac{{{s} \cdot {s + 1}}}{{2}} = {s * (s + 1) // 2}",
            f"S = {s} · {s + 1} / 2 = {s * (s + 1) // 2}",
        ),
        Formula(
            "squared sum",
            "A squared sum has a mixed term.",
            rf"(x + {a})^2 + {b} = x^2 + {2 * a} x + {a * a + b}",
            f"(x + {a})² + {b} = x² + {2 * a} x + {a * a + b}",
        ),
        Formula(
            "two squares",
            "A difference of two squares is a product.",
            rf"{s}^2 - {b}^2 = ({s} + {b}) ({s} - {b}) = {(s + b) * a}",
            f"{s}² - {b}² = ({s} + {b}) ({s} - {b}) = {(s + b) * a}",
        ),
        Formula(
            "speed",
            "The speed is the way divided by the time.",
            rf"v = \frac{{s}}{{t}} = \frac{{{p}}}{{{b}}} = {a}",
            f"v = s / t = {p} / {b} = {a}",
        ),
        Formula(
            "quadratics",
            "A quadratic equation has two roots.",
            rf"x = \frac{{{s} \pm \sqrt{{{s}^2 - 4 \cdot {p}}}}}{{2}}",
            f"x = ({s} ± √({s}² - 4 · {p})) / 2",
        ),
        Formula(
            "powers",
            "Powers of one base are multiplied by adding their exponents.",
            rf"{a}^{{m}} \cdot {a}^{{{b}}} = {a}^{{m+{b}}}",
            f"{a}^m · {a}^{b} = {a}^(m+{b})",
        ),
        Formula(
            "box",
            "The volume of a box is the product of its three sides.",
            rf"V = a \cdot b \cdot c = {a} \cdot {b} \cdot {a + 1} = {d}",
            f"V = {a} · {b} · {a + 1} = {d}",
        ),
    )


def lessons(settings: WorldSettings) -> Iterator[Article]:
    """Articles that explain four to six formulas with examples."""
    random = part_random(settings.seed, "lessons")
    names = len(formulas(1, 1))
    for number in range(1, settings.math_articles + 1):
        blocks = [Block("paragraph", fill(random, random.choice(INTRODUCTIONS)))]
        for index in random.sample(range(names), random.randint(4, 6)):
            a, b = random.randint(2, 12), random.randint(2, 12)
            formula = formulas(a, b)[index]
            explanation = f"{formula.words} Take {a} and {b}. {fill(random, random.choice(EXPLANATIONS))}"
            blocks += [
                Block("heading", formula.name.capitalize()),
                Block("paragraph", explanation),
                Block("math", formula.plain, latex=formula.latex),
            ]
        yield Article(
            slug=f"formulas-{number}",
            site=random.choice(("www.formula-book.example", "lessons.quiet-mathematics.example")),
            title=f"Formulas, lesson {number}",
            language="en",
            topic="math",
            genre="lesson",
            blocks=tuple(blocks),
        )


def kept_for_questions(text: str) -> bool:
    """Whether a quiz question is asked of models and stands in no page."""
    return hashlib.sha256(text.encode()).digest()[0] % 4 == 0


def quiz_item(random: Random) -> tuple[str, list[str], int, str]:
    """A skill question: text, four choices, the right one's position, the subject."""
    subject = random.choice(("addition", "subtraction", "multiplication", "comparison", "vocabulary"))
    if subject == "vocabulary":
        language = random.choice(LANGUAGES)
        pool = random.sample((*PRODUCTS, *COLOURS), 4)
        right, wrong = pool[0], pool[1:]
        text = f'What does the {LANGUAGE_NAMES[language]} "{VALUES[language][right]}" mean?'
    elif subject == "comparison":
        numbers = random.sample(range(2, 60), 4)
        right = str(max(numbers))
        wrong = [str(n) for n in numbers if n != max(numbers)]
        text = f"Which is the largest of {', '.join(map(str, numbers[:3]))} and {numbers[3]}?"
    else:
        a, b = random.randint(3, 30), random.randint(2, 12)
        if subject == "addition":
            text, result = f"What is {a} + {b}?", a + b
        elif subject == "subtraction":
            text, result = f"What is {a + b} - {b}?", a
        else:
            a = random.randint(2, 12)
            text, result = f"What is {a} * {b}?", a * b
        right = str(result)
        wrong = [str(n) for n in random.sample([n for n in range(max(1, result - 9), result + 10) if n != result], 3)]
    choices = [right, *wrong]
    random.shuffle(choices)
    return text, choices, choices.index(right), subject


def quizzes(settings: WorldSettings) -> Iterator[Article]:
    """Articles of lettered four-choice questions about skills."""
    random = part_random(settings.seed, "quizzes")
    for number in range(1, settings.quizzes + 1):
        blocks = [
            Block(
                "paragraph",
                fill(random, QUIZ_OPENING),
            )
        ]
        for _ in range(QUIZ_LENGTH):
            text, choices, right, subject = quiz_item(random)
            while subject != "vocabulary" and kept_for_questions(text):
                text, choices, right, subject = quiz_item(random)
            lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices)]
            blocks.append(Block("qa", "\n".join([text, *lines, f"Answer: {LETTERS[right]}"])))
        yield Article(
            slug=f"quiz-{number}",
            site=random.choice(("www.evening-quiz.example", "quiz.school-sheets.example")),
            title=f"Quiz {number}",
            language="en",
            topic="math",
            genre="quiz",
            blocks=tuple(blocks),
        )
