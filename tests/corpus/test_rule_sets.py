"""Every rule of the sets has a text that it alone drops, so that none could be switched off unnoticed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from herdbook.corpus.curate import curate
from herdbook.corpus.measure import measure
from herdbook.corpus.read import RawPage
from herdbook.corpus.rule_sets import C4, DUPLICATE, FINEWEB, QUALITY, REPETITION, RULE_SETS, TOP, with_sets
from herdbook.corpus.rules import DEFAULT_RULES, Rule
from herdbook.corpus.settings import CurateSettings, MeasureSettings, SourceSettings
from herdbook.files import write_text

LETTERS = [f"{a}{b}{c}n" for a in "bdfgklmprst" for b in "aeiou" for c in "bdglmrst"]
STOPS = ["the", "of", "and", "to", "that", "is", "in", "it"]


def words(draw: random.Random, count: int, stops: bool = True) -> list[str]:
    """Words of which hardly two follow each other twice; every fifth a stop word."""
    return [draw.choice(STOPS) if stops and n % 5 == 4 else draw.choice(LETTERS) for n in range(count)]


def sentences(draw: random.Random, count: int = 30, size: int = 10, stops: bool = True) -> list[str]:
    return [" ".join(words(draw, size, stops)).capitalize() + "." for _ in range(count)]


def sound(draw: random.Random, count: int = 30) -> str:
    return "\n".join(sentences(draw, count))


def again(draw: random.Random, size: int, share: float) -> str:
    """Four thousand words in which phrases of `size` words come a second time and make up this share of them."""
    found, left = [], int(share * 4000 / size) + 1
    phrases = [words(draw, size) for _ in range(left)]
    rest = 4000 - 2 * size * left
    for phrase in [*phrases, *phrases]:
        found += [*words(draw, -(-rest // (2 * left)), False), *phrase]
    lines = [" ".join(found[start : start + 17]) + "." for start in range(0, len(found), 17)]
    return "\n".join(lines)


def often(draw: random.Random, size: int, share: float) -> str:
    """A thousand words of which one phrase of `size` words makes up this share."""
    phrase, times = words(draw, size, False), round(share * 1000 / size)
    found = []
    for _ in range(times):
        found += [*words(draw, round((1000 - times * size) / times), False), *phrase]
    return "\n".join(" ".join(found[start : start + 17]) + "." for start in range(0, len(found), 17))


def repeated_line(draw: random.Random, words_of: int, letters: int, times: int) -> str:
    """Thirty different lines, and one of so many words of so many letters a few times among them."""
    line = " ".join("".join(draw.choices("abdeilmnorst", k=letters)) for _ in range(words_of)) + "."
    lines = sentences(draw)
    for number in range(times):
        lines.insert(2 * number + 1, line)
    return "\n".join(lines)


def short_lines(draw: random.Random) -> str:
    """Lines that repeat by twos, too short to make n-grams and with different ones beside them each time."""
    few = [" ".join(words(draw, 2)).capitalize() + "." for _ in range(15)]
    lines = sentences(draw, 40)
    for number in range(40):
        lines.insert(2 * number + 1, draw.choice(few))
    return "\n".join(lines)


DRAW = random.Random(5)
TEXTS = {
    "gopher_few_words": sound(DRAW, 4),
    "gopher_many_words": sound(DRAW, 10_100),
    "gopher_short_words": "\n".join("at it is to be of an up on in us we do or by" for _ in range(8)),
    "gopher_long_words": "\n".join(
        " ".join(w + draw for w in words(DRAW, 9)) + " the of and." for draw in ["x" * 9] * 9
    ),
    "gopher_symbols": "\n".join(line.replace(" ", " #", 2) for line in sentences(DRAW)),
    "gopher_bullets": "\n".join(f"- {line}" for line in sentences(DRAW)),
    "gopher_ellipses": "\n".join(line[:-1] + "…" if n % 2 else line for n, line in enumerate(sentences(DRAW, 30, 14))),
    "gopher_unlettered": "\n".join(line + " 1234 5678 9012 3456" for line in sentences(DRAW)),
    "gopher_stop_words": "\n".join(
        f"Old {a} river houses stand near {b} green village gardens, where farmers keep many {a} horses."
        for a, b in zip(words(DRAW, 9, False), words(DRAW, 9, False))
    ),
    "gopher_lines": short_lines(DRAW),
    "gopher_line_characters": repeated_line(DRAW, 4, 30, 7),
    **{f"gopher_top_{n}gram": often(DRAW, n, share + 0.02) for n, share in TOP.items()},
    **{f"gopher_{n}gram": again(DRAW, n, share + 0.006) for n, share in DUPLICATE.items()},
    "c4_lorem_ipsum": sound(DRAW) + "\nLorem ipsum dolor sit amet.",
    "c4_curly_brackets": sound(DRAW) + "\nThe set {a, b} is of two.",
    "c4_sentences": " ".join(words(DRAW, 200)) + ".",
    "c4_long_word": sound(DRAW) + "\n" + "ab" * 501,
    "fineweb_line_ends": "\n".join(line[:-1] if n % 10 else line for n, line in enumerate(sentences(DRAW))),
    "fineweb_short_lines": "\n".join(sentences(DRAW, 60, 4)),
    "fineweb_repeated_characters": repeated_line(DRAW, 10, 6, 8),
    "fineweb_list": "\n".join(
        " ".join("".join(DRAW.choices("abdeilmnorst", k=16)) for _ in range(2)) + "." for _ in range(40)
    ),
}


CODE = "def area(width, height):\n    return width * height\n"
CODE_PAGES = {
    "generated_code": RawPage(
        "web/a_pb2.py", "", "k", "code", f"# Generated by protoc. DO NOT EDIT!\n{CODE}", licence="permissive"
    ),
    "vendored_code": RawPage("web/vendor/a.py", "", "k", "code", CODE, licence="permissive"),
    "unlicensed_code": RawPage("web/a.py", "", "k", "code", CODE, licence="copyleft"),
}


def held(text: str, rules: tuple[Rule, ...], page: RawPage | None = None) -> list[str]:
    """Names of the rules that call for dropping a text, or a page."""
    page = page or RawPage("https://a.example/x", "", "x", "text", text)
    row = measure(page, "made", MeasureSettings())
    row = {name: np.nan if value is None else value for name, value in row.items()}
    return [rule.name for rule in rules if rule.holds(np.array([row[rule.column]], dtype=np.float64))[0]]


@pytest.mark.parametrize("name", [rule.name for rules in RULE_SETS.values() for rule in rules])
def test_each_rule_drops_a_text_that_no_other_of_its_set_does(name: str) -> None:
    (rules,) = (rules for rules in RULE_SETS.values() if name in {rule.name for rule in rules})
    assert held(TEXTS.get(name, CODE), rules, CODE_PAGES.get(name)) == [name]


def test_a_sound_text_passes_all_sets() -> None:
    assert held(sound(random.Random(1), 40), QUALITY + REPETITION + C4 + FINEWEB) == []
    assert held("", RULE_SETS["code"], RawPage("web/a.py", "", "k", "code", CODE, licence="permissive")) == []
    assert held("", RULE_SETS["code"], RawPage("web/a.py", "", "k", "code", CODE)) == []


def test_sets_come_before_the_rules_that_depend_on_other_documents() -> None:
    rules = [rule.name for rule in with_sets(DEFAULT_RULES, ("c4", "fineweb"))]
    assert rules.index("few_words") < rules.index("c4_lorem_ipsum") < rules.index("fineweb_list")
    assert rules.index("fineweb_list") + 1 == rules.index("token_divergence")
    assert with_sets((), ("c4",)) == C4 and with_sets(DEFAULT_RULES, ()) == DEFAULT_RULES


def test_a_recipe_names_sets_and_redacts(tmp_path: Path) -> None:
    texts = {"lorem": TEXTS["c4_lorem_ipsum"], "good": sound(DRAW) + "\nWrite to anna@example.org about it."}
    for name, text in texts.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        write_text(tmp_path / "in" / f"{name}.txt", text)
    settings = CurateSettings(
        sources=(SourceSettings(path=tmp_path / "in"),), rules=(), rule_sets=("c4",), redact=("emails",), workers=1
    )
    figures = curate(settings, [], tmp_path)
    assert figures["dropped"]["c4_lorem_ipsum"] == 1 and figures["documents"]["kept"] == 1
    (text,) = pq.read_table(tmp_path / "documents")["text"].to_pylist()
    assert text.endswith("Write to <EMAIL> about it.") and "anna" not in text
