"""MathML to LaTeX: known pairs, and round trips through latex2mathml, which reads the LaTeX that we wrote."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree, html

from herdbook.corpus.extract import extract
from herdbook.corpus.mathml import linear_math

latex2mathml = pytest.importorskip("latex2mathml.converter")


def written(markup: str) -> str:
    return linear_math(etree.fromstring(f'<math xmlns="http://www.w3.org/1998/Math/MathML">{markup}</math>'))


PAIRS = [
    ("<mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac>", r"\frac{a}{b + 1}"),
    ("<msqrt><mi>x</mi><mo>−</mo><mi>y</mi></msqrt>", r"\sqrt{x - y}"),
    ("<mroot><mi>x</mi><mn>3</mn></mroot>", r"\sqrt[3]{x}"),
    ("<msubsup><mi>x</mi><mi>i</mi><mn>10</mn></msubsup>", r"x_i^{10}"),
    ("<msup><mrow><mi>a</mi><mi>b</mi></mrow><mn>2</mn></msup>", r"{ab}^2"),
    ("<msup><mi>f</mi><mo>′</mo></msup><mo>&#x2061;</mo><mo>(</mo><mi>x</mi><mo>)</mo>", "f'(x)"),
    (
        "<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover><mi>i</mi>",
        r"\sum_{i = 1}^n i",
    ),
    ("<munder><mi>lim</mi><mrow><mi>x</mi><mo>→</mo><mn>0</mn></mrow></munder>", r"\lim_{x \to 0}"),
    ("<mover><mi>x</mi><mo>^</mo></mover><mover><mrow><mi>A</mi><mi>B</mi></mrow><mo>¯</mo></mover>",
     r"\hat{x}\overline{AB}"),
    ("<munder><mi>x</mi><mo>_</mo></munder>", r"\underline{x}"),
    ("<mover><mo>→</mo><mi>f</mi></mover>", r"\xrightarrow{f}"),
    ("<mi>sin</mi><mo>&#x2061;</mo><mi>α</mi><mo>≤</mo><mi>rank</mi>", r"\sin\alpha \leq \mathrm{rank}"),
    ("<mo>-</mo><mi>x</mi>", "-x"),
    ("<mi>ℝ</mi><mo>,</mo><mi mathvariant='bold'>v</mi>", r"\mathbb{R}, \mathbf{v}"),
    ("<mi>𝐀</mi><mo>∈</mo><mi>𝔤</mi>", r"\mathbf{A} \in \mathfrak{g}"),
    ("<mfenced><mi>a</mi><mi>b</mi></mfenced>", "(a, b)"),
    ("<mfenced open='[' close=''><mfrac><mn>1</mn><mn>2</mn></mfrac></mfenced>", r"\left[ \frac{1}{2} \right."),
    ("<mo>(</mo><mfrac linethickness='0'><mi>n</mi><mi>k</mi></mfrac><mo>)</mo>", r"\binom{n}{k}"),
    ("<mo>[</mo><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr></mtable><mo>]</mo>",
     r"\begin{bmatrix} 1 & 0 \end{bmatrix}"),
    ("<mo>{</mo><mtable><mtr><mtd><mn>1</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd></mtr></mtable>",
     r"\begin{cases} 1 \\ 0 \end{cases}"),
    ("<mmultiscripts><mi>C</mi><mn>6</mn><none/><mprescripts/><none/><mn>14</mn></mmultiscripts>", r"{}^{14}C_6"),
    ("<mtext>if 5% of</mtext><mspace width='1em'/><mi>x</mi>", r"\text{if 5\% of}\quad x"),
    ("<menclose notation='box'><mi>x</mi></menclose><mphantom><mi>y</mi></mphantom>", r"\boxed{x}"),
    ("<mfrac><mi>x</mi></mfrac><mi>y</mi>", "xy"),  # no whole fraction: nothing is lost
    ("<semantics><mi>x</mi><annotation-xml><ci>x</ci></annotation-xml></semantics>", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("markup", "wanted"), PAIRS)
def test_known_formulas(markup: str, wanted: str) -> None:
    assert written(markup) == wanted


def test_its_own_latex_comes_first_and_markup_of_pages_is_read() -> None:
    assert (
        written('<semantics><mi>x</mi><annotation encoding="application/x-tex">y_1</annotation></semantics>') == "y_1"
    )
    found = html.fromstring("<p><math alttext='z^2'><mi>x</mi></math></p>").find("math")
    assert linear_math(found) == "z^2"
    root = "<math><msqrt><mi>y</mi><mo>&PlusMinus;</mo><mspace width='1em'/><mn>2</mn></msqrt></math>"
    prose = "The miller kept the wheel of the old mill going through the winter, as his father had done. " * 3
    assert r"a \sqrt{y \pm \quad 2} b" in extract(f"<body><p>{prose}</p><p>a {root} b</p></body>").text


FORMULAS = [
    r"\frac{-b \pm \sqrt{b^2 - 4ac}}{2a}", r"\sqrt[3]{x_i + y}", r"\sum_{i=1}^{n} i^2 = \frac{n(n+1)}{2}",
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}", r"\begin{vmatrix} a & b \\ c & d \end{vmatrix}",
    r"\left( \frac{a}{b} \right)^2", r"\sin(\alpha) \leq \log_2 x", r"\hat{x} + \overline{ab} + \vec{v}",
    r"\mathbb{R}^n \in \mathbf{x}", r"\lim_{x \to 0} f'(x)", r"\text{if } x > 0", r"\binom{n}{k}",
    r"\int_0^\infty e^{-x^2} dx", r"\begin{cases} a & x>0 \\ b & x<0 \end{cases}", r"x \neq y \quad p \Rightarrow q",
    r"\forall \epsilon > 0 \exists \delta", r"A \cup B \subseteq C \setminus D",
    r"\nabla \cdot \vec{E} = \frac{\rho}{\varepsilon_0}", r"\prod_{k=1}^{\infty} \left( 1 - \frac{x^2}{k^2} \right)",
    r"a_{i_{j}} \otimes b^{c^{d}}", r"\lfloor x \rfloor + \lceil y \rceil", r"\langle u, v \rangle = 0",
    r"x \mapsto x^{n-1}", r"\mathcal{L}(\theta) = -\log p", r"\max_{x \in X} f(x)", r"\dot{x} = \ddot{y}",
    r"P(A \mid B) = \frac{P(B \mid A) P(A)}{P(B)}", r"\partial_t u = \Delta u", r"e^{i\pi} + 1 = 0",
    r"\tilde{x} \sim \mathcal{N}(0, 1)",
]  # fmt: skip


def shape(node: Any) -> Any:
    """A formula's elements without attributes, rows of one, spaces, and the names latex2mathml varies."""
    name = etree.QName(node).localname
    children = [found for child in node if (found := shape(child)) is not None]
    if name == "mspace":
        return None
    if name in ("mrow", "math", "mstyle", "mtd") and len(children) == 1:
        return children[0]
    if name in ("mrow", "math", "mtd"):
        flat = []
        for child in children:
            flat += list(child[1:]) if child[0] == "mrow" else [child]
        return ("mrow", *flat)
    text = re.sub(r"[\s\u2061\u00a0]+", "", node.text or "").replace("ϵ", "ε").replace("|", "∣")
    name = {"mo": "m", "mi": "m", "mn": "m", "munder": "msub", "munderover": "msubsup"}.get(name, name)
    return (name, *children) if children else (name, text)


def converted(formula: str) -> Any:
    return etree.fromstring(latex2mathml.convert(formula).encode())


@pytest.mark.parametrize("formula", FORMULAS)
def test_what_is_written_reads_as_what_was_meant(formula: str) -> None:
    again = linear_math(converted(formula))
    assert shape(converted(again)) == shape(converted(formula)), again


LEAVES = st.sampled_from(["x", "y", "n", "2", "10", r"\alpha", r"\beta", r"\infty", r"\mathbb{R}", r"\mathrm{rank}"])
OPERATORS = st.sampled_from(["+", "-", "=", r"\leq", r"\times", r"\in", r"\to", r"\cup", ","])


def built(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """LaTeX with formulas in the places of a template, which are marked by digits."""
    return st.tuples(*parts).map(lambda found: re.sub(r"<(\d)>", lambda place: found[int(place[1])], template))


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        built(r"\frac{<0>}{<1>}", inner, inner),
        built(r"\sqrt{<0>}", inner),
        built(r"\sqrt[<0>]{<1>}", LEAVES, inner),
        built(r"{<0> k}^{<1>}", inner, inner),
        built(r"(<0>) <1>", inner, inner),
        built(r"<0>_{<1>}", LEAVES, inner),
        built(r"<0>_{<1>}^{<2>}", LEAVES, inner, inner),
        built("<0> <1> <2>", inner, OPERATORS, inner),
        built(r"\sum_{<0>}^{<1>} k", inner, inner),
        built(r"\begin{pmatrix} <0> & <1> \\ <2> & 1 \end{pmatrix}", inner, inner, inner),
    )


@settings(max_examples=80, deadline=None)
@given(st.recursive(LEAVES, grown, max_leaves=8))
def test_formulas_of_any_build_read_as_what_was_meant(formula: str) -> None:
    again = linear_math(converted(formula))
    assert shape(converted(again)) == shape(converted(formula)), again


ELEMENTS = ["mfrac", "msup", "msubsup", "mover", "munder", "munderover", "mroot", "mfenced", "mtable", "mtr", "mrow"]
ELEMENTS += ["mmultiscripts", "msqrt", "mstyle", "menclose", "mtd", "unknown"]
PIECES = ["<mi>ж</mi>", "<mi>ж</mi>", "<mo>(</mo>", "<mo>}</mo>", "<mtext> {</mtext>", "<none/>", "<mprescripts/>"]


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.sampled_from(PIECES),
        lambda inner: st.tuples(st.sampled_from(ELEMENTS), st.lists(inner, max_size=4)).map(
            lambda found: f"<{found[0]}>{''.join(found[1])}</{found[0]}>"
        ),
    )
)
def test_no_markup_raises_or_loses_a_letter(markup: str) -> None:
    assert linear_math(etree.fromstring(f"<math>{markup}</math>")).count("ж") == markup.count("ж")
