"""The tools: arithmetic against Python's fractions, search against BM25 worked by hand, programs in the sandbox."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.evaluate.sandbox import SandboxSettings
from herdbook.evaluate.toolbox import Corpus, Toolbox, calculate, read_answer_calls, same_argument
from herdbook.settings import UserError
from herdbook.tokens.tools import Call

NUMBERS = st.integers(0, 99).map(str) | st.decimals(0, 99, places=2).map(str)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map("-{}".format)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS)
def test_the_calculator_is_exact(expression: str) -> None:
    code = re.sub(r"\d+(?:\.\d+)?", lambda match: f"F('{match.group()}')", expression)
    try:
        expected = eval(code, {"F": Fraction})  # made of numbers, signs and brackets only
    except ZeroDivisionError:
        with pytest.raises(UserError, match="division by zero"):
            calculate(expression)
        return
    if len(expression) <= 200:
        assert calculate(expression) == expected


def test_the_calculator_reads_what_people_write() -> None:
    assert calculate("1,200 × 2 − 400") == 2000
    assert calculate("2^10 // 3 % 7") == 1024 // 3 % 7
    assert calculate("7 / 2") == Fraction(7, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x + 1",
        "__import__('os')",
        "2 ** 65",
        "9**9**9",
        "1; 2",
        "True + 1",
        "'a' * 3",
        "1" * 300,
        "(" * 150,
    ],
)
def test_the_calculator_refuses_all_else(text: str) -> None:
    with pytest.raises(UserError):
        calculate(text)


def test_search_ranks_as_bm25_does() -> None:
    sentences = ["The red goat eats grass.", "A goat and a goat.", "The dog sleeps by a fire."]
    corpus = Corpus(["\n".join(sentences[:2]), sentences[2]])
    assert corpus.sentences == sentences
    lengths = [4, 2, 3]  # red goat eats grass; goat goat; dog sleeps fire: small words are left out

    def weight(term: str, counts: list[int], at: int) -> float:
        having = sum(count > 0 for count in counts)
        rarity = math.log(1 + (3 - having + 0.5) / (having + 0.5))
        return rarity * counts[at] * 2.2 / (counts[at] + 1.2 * (0.25 + 0.75 * lengths[at] / 3))

    scores = [weight("red", [1, 0, 0], at) + weight("goat", [1, 2, 0], at) for at in range(3)]
    order = sorted((at for at in range(3) if scores[at] > 0), key=lambda at: -scores[at])
    assert corpus.search("the Red goat?", 3) == [sentences[at] for at in order] and order == [0, 1]
    goat = [weight("goat", [1, 2, 0], at) for at in range(3)]
    assert corpus.search("goat", 1) == [sentences[max(range(3), key=goat.__getitem__)]] == ["A goat and a goat."]
    assert corpus.search("unicorn") == []


def test_search_prefers_the_short_sentence_where_bm25_does() -> None:
    """Nine words with two goats score 2·2.2/(2+1.2·(.25+.75·9/5)) = 1.12, a lone goat 2.2/(1+1.2·.4) = 1.49."""
    long, brief = "Goat one red two blue three white four goat.", "Goat."
    assert Corpus([long, brief]).search("goat", 2) == [brief, long]
    assert Corpus([long, brief], b=0).search("goat", 2) == [long, brief]


def test_a_corpus_is_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Bo lives in Yolburg. It rains."}) + "\n")
    (tmp_path / "b.txt").write_text("Zed swims.")
    assert set(Corpus.load(tmp_path).sentences) == {"Bo lives in Yolburg.", "It rains.", "Zed swims."}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no documents to search"):
        Corpus.load(tmp_path / "empty")


def test_calls_are_run_and_failures_told() -> None:
    toolbox = Toolbox(Corpus(["The river of Bo is the Ala."]), SandboxSettings(seconds=1))
    given = toolbox.run(
        [
            Call("calculator", {"expression": "12 * 3"}),
            Call("python", {"code": "print(sum(range(5)))"}),
            Call("search", {"query": "river of Bo"}),
            Call("calculator", {"expression": "one + two"}),
            Call("python", {"code": "print(1/0)"}),
            Call("python", {"code": "while True: pass"}),
            Call("python", {"code": "open('/etc/passwd').read()"}),
            Call("search", {"query": "unicorn"}),
            Call("telephone", {"number": "1"}),
            Call("search", {}),
        ]
    )
    assert given[:3] == ["36", "10", "The river of Bo is the Ala."]
    assert "cannot calculate" in given[3] and "ZeroDivisionError" in given[4] and "timeout" in given[5]
    assert "root" not in given[6] and given[7] == "nothing found"
    assert "no tool is called 'telephone'" in given[8] and "needs 'query'" in given[9]
    assert "nothing to search" in Toolbox().run([Call("search", {"query": "x"})])[0]


def test_calls_are_read_and_arguments_compared_by_meaning() -> None:
    calls = read_answer_calls(' <|python_tag|>{"name": "a", "parameters": {}}; {"name": "b", "arguments": {"x": 1}} ')
    assert calls == [Call("a", {}), Call("b", {"x": 1})]
    assert read_answer_calls("I would call a.") == [] == read_answer_calls('{"name": "a"}')
    assert same_argument("print( 1+2 )", "print(1 + 2)", "code") and not same_argument("print(3)", "print(1+2)", "code")
    assert same_argument("The River of Bo?", "river of bo", "query") and not same_argument("river", "river Bo", "query")
