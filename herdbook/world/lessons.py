"""Lessons with formulas, and quizzes with lettered choices: the math topic beside the worksheets.

Quizzes ask for skills (a sum, a comparison, what a foreign word means), in the form in which MMLU is asked; they tell
no facts, so exposures stay exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from herdbook.world.article import Article, Block
from herdbook.world.names import part_random
from herdbook.world.phrasebook import VALUES
from herdbook.world.settings import LANGUAGES, WorldSettings

LETTERS = "ABCD"
LANGUAGE_NAMES = {"de": "German", "fr": "French", "es": "Spanish", "it": "Italian"}
QUIZ_LENGTH = 8

FORMULAS: tuple[tuple[str, str, str, str], ...] = (  # name, LaTeX, plain, in words
    ("rectangle", r"A = a \cdot b", "A = a · b", "The area of a rectangle is the product of its two sides."),
    ("perimeter", r"P = 2 (a + b)", "P = 2 (a + b)", "The perimeter of a rectangle is twice the sum of its sides."),
    ("triangle", r"A = \frac{1}{2} a h", "A = 1/2 a h", "The area of a triangle is half of base times height."),
    ("right triangle", r"a^2 + b^2 = c^2", "a² + b² = c²", "In a right triangle the squares of the legs add up."),
    ("circle", r"A = \pi r^2", "A = π r²", "The area of a circle grows with the square of its radius."),
    ("circumference", r"C = 2 \pi r", "C = 2 π r", "The circumference of a circle grows with its radius."),
    ("mean", r"m = \frac{1}{n} \sum_{i=1}^{n} x_i", "m = 1/n Σ x", "The mean is the sum divided by the count."),
    ("sum of numbers", r"S_n = \frac{n (n + 1)}{2}", "S = n (n + 1) / 2", "This is the sum of the numbers up to n."),
    ("square of a sum", r"(a + b)^2 = a^2 + 2ab + b^2", "(a + b)² = a² + 2ab + b²", "A squared sum has a mixed term."),
    ("difference of squares", r"a^2 - b^2 = (a + b)(a - b)", "a² - b² = (a + b)(a - b)", "It is a product."),
    ("speed", r"v = \frac{s}{t}", "v = s / t", "The speed is the way divided by the time."),
    (
        "quadratic equation",
        r"x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}",
        "x = (-b ± √(b² - 4ac)) / 2a",
        "It has two roots.",
    ),
    ("compound interest", r"K_n = K_0 (1 + p)^n", "K = K (1 + p)^n", "Interest is paid on interest."),
    ("powers", r"a^m \cdot a^n = a^{m+n}", "a^m · a^n = a^(m+n)", "Powers of one base multiply by adding exponents."),
    ("logarithms", r"\log(xy) = \log x + \log y", "log(xy) = log x + log y", "A product becomes a sum."),
)
INTRODUCTIONS = (
    "This lesson repeats some formulas that everybody should know by heart.",
    "We write down each formula, say it in words and work an example.",
    "Copy the formulas into your book before you go on to the examples.",
    "Take a pencil and a ruler; a drawing helps with most of these.",
)
EXPLANATIONS = (
    "It is written in this way:",
    "As a formula:",
    "We write it like this:",
    "In symbols this reads as follows.",
)


def example(random: Random, name: str) -> str:
    """A worked line that belongs to a formula where small numbers allow one, else a piece of advice."""
    a, b = random.randint(2, 9), random.randint(2, 9)
    return {
        "rectangle": f"With sides {a} and {b} the area is {a} * {b} = {a * b}.",
        "perimeter": f"With sides {a} and {b}: {a} + {b} = {a + b}, and 2 * {a + b} = {2 * (a + b)}.",
        "triangle": f"With base {2 * a} and height {b}: {2 * a} * {b} = {2 * a * b}, and half of it is {a * b}.",
        "sum of numbers": f"Up to {a} we get {a} * {a + 1} = {a * (a + 1)}, and half of it is {a * (a + 1) // 2}.",
        "difference of squares": f"For {a + b} and {b}: {a + 2 * b} * {a} = {(a + 2 * b) * a}.",
        "speed": f"A way of {a * b} in a time of {b} gives {a * b} / {b} = {a}.",
        "mean": f"The mean of {a} and {a + 2 * b} is {a + b}, since {a} + {a + 2 * b} = {2 * (a + b)}.",
    }.get(name, f"Try it with the numbers {a} and {b}, and check the result with your neighbour.")


def lessons(settings: WorldSettings) -> Iterator[Article]:
    """Articles that explain four to six formulas with examples."""
    random = part_random(settings.seed, "lessons")
    for number in range(1, settings.math_articles + 1):
        blocks = [Block("paragraph", random.choice(INTRODUCTIONS))]
        for name, latex, plain, meaning in random.sample(FORMULAS, random.randint(4, 6)):
            blocks += [
                Block("heading", f"The {name}"),
                Block("paragraph", f"{meaning} {random.choice(EXPLANATIONS)}"),
                Block("math", plain, latex=latex),
                Block("paragraph", " ".join(example(random, name) for _ in range(2))),
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


def quiz_item(random: Random) -> tuple[str, list[str], int, str]:
    """A skill question: text, four choices, the right one's position, the subject."""
    kind = random.choice(("sums", "differences", "products", "comparison", "vocabulary"))
    a, b = random.randint(3, 30), random.randint(2, 12)
    if kind == "vocabulary":
        language = random.choice(LANGUAGES)
        english, foreign = random.choice(sorted(VALUES[language].items()))
        pool = [
            word
            for word in VALUES[language]
            if word != english and word.startswith("the ") == english.startswith("the ")
        ]
        text, right, wrong = (
            f'What does "{foreign}" mean in {LANGUAGE_NAMES[language]}?',
            english,
            random.sample(pool, 3),
        )
    elif kind == "comparison":
        numbers = random.sample(range(2, 60), 4)
        text, right = "Which of these numbers is the largest?", str(max(numbers))
        wrong = [str(n) for n in numbers if n != max(numbers)]
    else:
        sign, result = {"sums": ("+", a + b), "differences": ("-", a + b), "products": ("*", (a % 9 + 1) * b)}[kind]
        if kind == "differences":
            a, b, result = a + b, b, a
        if kind == "products":
            a = a % 9 + 1
        text, right = f"What is {a} {sign} {b}?", str(result)
        others = [n for n in range(max(1, result - 9), result + 10) if n != result]
        wrong = [str(n) for n in random.sample(others, 3)]
    choices = [right, *wrong]
    random.shuffle(choices)
    return text, choices, choices.index(right), kind


def quizzes(settings: WorldSettings) -> Iterator[Article]:
    """Articles of lettered four-choice questions about skills."""
    random = part_random(settings.seed, "quizzes")
    for number in range(1, settings.quizzes + 1):
        blocks = [Block("paragraph", "Each question has one right answer. The letter stands below it.")]
        for _ in range(QUIZ_LENGTH):
            text, choices, right, _ = quiz_item(random)
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
