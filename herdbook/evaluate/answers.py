"""Finding the answer in what a model wrote, and deciding whether it is the right one.

A worked solution ends with `#### 42`; where it does not, the last number counts. Numbers are compared as numbers
(1,200.00 = 1200), in any script's digits, since MGSM's models may answer in Bengali or Thai ones.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![\d)]\s)[-−])?\s?[$€£¥]?\s?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?:\s?/\s?\d+(?![\d.]))?"
)
LETTER = re.compile(r"(?:answer|option|choice)\s*(?:is|:)?\s*\(?([A-J])\b", re.IGNORECASE)
LONE_LETTER = re.compile(r"(?<![A-Za-z'’])\(?([A-J])(?![A-Za-z'’])")
LATEX_NOISE = re.compile(
    r"\\left|\\right|\\displaystyle|\\,|\\!|\\;|\\ |\\\$|\$|\^\\circ|\^\{\\circ\}|\\%|%|\\mbox\{[^}]*\}"
)
SHORT_FRACTION = re.compile(r"\\frac(?:\{([^{}]*)\}|(\w))(?:\{([^{}]*)\}|(\w))")
LATEX_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit)\s*\{([^{}]*)\}")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")


def western_digits(text: str) -> str:
    """`text` with the decimal digits of every script, and full-width signs, as ASCII."""
    return "".join(
        str(unicodedata.decimal(char)) if not char.isascii() and unicodedata.decimal(char, None) is not None else char
        for char in unicodedata.normalize("NFKC", text)
    )


def numbers(text: str) -> list[Fraction]:
    """Every number in `text`, in order: thousands separators, decimals, simple fractions, currency signs."""
    found = []
    for match in NUMBER.finditer(western_digits(text)):
        plain = re.sub(r"[\s$€£¥,]", "", match.group()).replace("−", "-")
        try:
            above, _, below = plain.partition("/")
            found.append(Fraction(above) / (Fraction(below) if below else 1))
        except (ValueError, ZeroDivisionError):
            continue
    return found


def final_number(text: str) -> Fraction | None:
    """The number after the first `####`; without one, the last number in `text`; None when there is none."""
    before, mark, after = text.partition("####")
    if mark:
        marked = numbers(after.strip().split("\n")[0])
        if marked:
            return marked[0]
    found = numbers(before)
    return found[-1] if found else None


def same_number(text: str, expected: str | int | float | Fraction) -> bool:
    """Whether `text`'s final number equals the expected answer's."""
    wanted = expected if isinstance(expected, Fraction) else final_number(str(expected))
    return wanted is not None and final_number(text) == wanted


def choice_letter(text: str) -> str | None:
    """The letter of the choice a text settles on: after `answer is`, else the first letter that stands alone."""
    found = LETTER.search(text) or LONE_LETTER.search(text)
    return found.group(1).upper() if found else None


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{…}` of `text` holds, braces balanced; None when there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return text[begin:]


def plain_math(text: str) -> str:
    """A LaTeX answer without what does not change its meaning: spacing, delimiters' sizes, units, text marks."""
    text = text.strip().rstrip(".").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = LATEX_WORDS.sub(r"\1", LATEX_NOISE.sub("", text))
    for _ in range(3):  # nested fractions open from the inside
        text = SHORT_FRACTION.sub(lambda m: f"({m[1] or m[2]})/({m[3] or m[4]})", text)
    text = THOUSANDS.sub("", text)
    text = re.sub(r"\((-?\w+)\)/\((\w+)\)", r"\1/\2", text)
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text)
    if re.match(r"^[a-zA-Z]\s*=[^=]+$", text):
        text = text.split("=", 1)[1]
    return re.sub(r"\s+", "", text).lower()


def same_math(text: str, expected: str) -> bool:
    r"""Whether the answer in `text` (its last `\boxed{}`, else its last line's end) is the expected LaTeX one."""
    given = boxed(text)
    if given is None:
        lines = text.strip().splitlines()
        given = re.split(r"answer is:?|=", lines[-1])[-1] if lines else ""
    left, right = plain_math(given), plain_math(expected)
    if left == right:
        return True
    try:
        return Fraction(left) == Fraction(right)
    except (ValueError, ZeroDivisionError):
        return False


def holds_text(text: str, expected: str) -> bool:
    """Whether the first line of `text` holds the expected answer as whole words, whatever their case."""

    def plain(value: str) -> str:
        lines = unicodedata.normalize("NFKC", value).strip().split("\n")
        return " ".join(lines[0].split()).rstrip(".").casefold()

    return re.search(rf"(?<!\w){re.escape(plain(expected))}(?!\w)", plain(text)) is not None
