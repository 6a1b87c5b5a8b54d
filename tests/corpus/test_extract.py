"""Pages to text: what a reader came for stays, in order and to the character; what surrounds it goes."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.boilerplate import names_boilerplate
from herdbook.corpus.extract import extract
from tests.support.shared import shared

CODE = 'def add(a, b):\n    """Sum of <a> & b."""\n\n    if a > 0:\n        return a + b\n    return b'
PROSE = "The old mill stands by the river, and every spring the water rises to its second step before it falls again."
PAGE = f"""<!doctype html><html><head><title>The mill</title><style>p {{}}</style>
<script>var x = "<p>script</p>";</script></head><body>
<div class="cookie-banner"><p>We use cookies to make this site better for you and our many partners.</p>
<button>OK</button></div>
<header class="site-header"><nav><ul><li><a href="/">Home</a></li><li><a href="/n">News</a></li></ul></nav></header>
<div id="content"><h1>The mill</h1><p class="byline">By somebody</p><p>{PROSE}</p>
<div class="ad"><p>Buy our garden chairs today and save a lot of money.</p></div>
<h2>Facts<a class="headerlink" href="#facts">¶</a></h2>
<ul><li>built in 1820</li><li>burnt in <b>1901</b></li></ul>
<table><tr><th>Year</th><th>Height</th></tr><tr><td>1820</td><td>12 m</td></tr></table>
<pre><code>{CODE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}</code></pre>
<p>Its wheel turns with <math><semantics><mrow><mi>v</mi><mo>=</mo><mi>r</mi><mi>w</mi></mrow>
<annotation encoding="application/x-tex">v = r \\omega</annotation></semantics></math> and
<img class="tex" src="/eq1.png" alt="E = mc^2">.<br>Question: how old?</p>
<p style="display:none">hidden words</p></div>
<aside class="sidebar"><h3>Related</h3><ul><li><a href="/a">Another mill</a></li></ul></aside>
<section id="comments"><p>First! What a great article about a mill.</p></section>
<footer><p>© 2024 All rights reserved.</p></footer></body></html>"""
EXPECTED = [
    "The mill", PROSE, "Facts", "built in 1820", "burnt in 1901", "Year | Height", "1820 | 12 m", *CODE.split("\n"),
    r"Its wheel turns with v = r \omega and E = mc^2 .", "Question: how old?",
]  # fmt: skip


def test_a_page_gives_its_content_line_by_line_and_nothing_else() -> None:
    found = extract(PAGE)
    assert found.lines == EXPECTED
    assert found.title == "The mill"
    assert [line for line, kind in zip(found.lines, found.kinds) if kind == "c"] == CODE.split("\n")


def test_a_boilerplate_name_around_the_whole_page_costs_nothing() -> None:
    inner = "".join(f"<p>{PROSE} Number {n}.</p>" for n in range(5))
    for name in ("sidebar-layout", "has-comments", "newsletter", "advert"):
        assert extract(f'<body><div class="{name}">{inner}</div></body>').lines == [
            f"{PROSE} Number {n}." for n in range(5)
        ]


@pytest.mark.parametrize("name", ["content", "article-body", "loads", "header", "shadow", "gradient", "admin"])
def test_names_that_only_look_like_it_are_not(name: str) -> None:
    assert not names_boilerplate(name)


def test_code_in_lines_and_spans_is_kept_to_the_character() -> None:
    spans = "\n".join(
        f'<span class="line"><span class="k">{line}</span></span>' for line in ["if x:", "    y = 1", "", "    z"]
    )
    numbered = '<span class="lineno">1 </span>a\n<span class="lineno">2 </span>  b'
    assert extract(f"<body><p>{PROSE}</p><pre>\n{spans}</pre></body>").lines[1:] == ["if x:", "    y = 1", "", "    z"]
    assert extract(f"<body><p>{PROSE}</p><pre>{numbered}</pre></body>").lines[1:] == ["a", "  b"]


def test_mathml_without_annotation_is_read_out() -> None:
    fraction = "<math><mfrac><mn>1</mn><mrow><mi>n</mi><mo>+</mo><mn>1</mn></mrow></mfrac></math>"
    power = "<math><msup><mi>x</mi><mn>2</mn></msup><mo>=</mo><msqrt><mi>y</mi></msqrt></math>"
    assert extract(f"<body><p>a {fraction} b {power}</p></body>").lines == ["a 1/(n + 1) b x^2 = sqrt(y)"]


def test_a_layout_table_is_no_table() -> None:
    menu = "<ul><li><a href='/'>Home</a></li></ul>"
    page = f"<body><table><tr><td>{menu}</td><td><p>{PROSE}</p><p>More.</p></td></tr></table></body>"
    assert extract(page).lines == [PROSE, "More."]


def test_divs_with_text_of_their_own_are_paragraphs() -> None:
    body = "".join(f'<div class="para">{PROSE} {n}</div>' for n in range(4))
    menu = '<ul class="docnav"><li><a href="/p"><b>Back</b>1. First</a></li><li>Here</li></ul>'
    assert extract(f"<body>{menu}{body}{menu}</body>").lines == [f"{PROSE} {n}" for n in range(4)]


def test_rows_of_teasers_are_left_out() -> None:
    cards = "".join(
        f'<div class="x"><h3><a href="/{n}">Story {n}</a></h3><p>A short word on it.</p></div>' for n in range(6)
    )
    body = "".join(f"<p>{PROSE} {n}</p>" for n in range(6))
    assert extract(f"<body><div>{body}</div><div>{cards}</div></body>").lines == [f"{PROSE} {n}" for n in range(6)]


def test_a_page_of_nothing_but_links_gives_nothing() -> None:
    links = "".join(f'<li><a href="/{n}">entry {n}</a></li>' for n in range(300))
    assert extract(f"<body><div><ul>{links}</ul></div></body>").lines == []


def test_a_short_page_between_many_links_keeps_its_words() -> None:
    links = "".join(f'<li><a href="/{n}">entry number {n}</a></li>' for n in range(60))
    words = "<div><h1>asfptype</h1><p>Upcast a matrix.</p></div>"
    page = f"<body><div class='row'><div><ul>{links}</ul></div>{words}</div></body>"
    assert extract(page).lines == ["asfptype", "Upcast a matrix."]


def test_a_million_nested_tags_are_survived() -> None:
    found = extract("<body>" + "<div>" * 1_000_000 + "<p>deep words here</p>")
    assert "deep words here" in found.text
    assert "deep words" in extract("<body>" + "<b>" * 5000 + "deep words").text


@pytest.mark.parametrize(
    "page", ["", " ", "<", "<html>", "<body></body>", "\0", "<!-- -->", "<?xml version='1.0'?>", "plain words"]
)
def test_pages_without_content_give_little_and_do_not_raise(page: str) -> None:
    assert extract(page).text in ("", "plain words", "<")


@given(st.text(alphabet="<>/=\"' abdiprtv!-&;#", max_size=200))
def test_no_markup_makes_extraction_raise(page: str) -> None:
    letters = Counter(extract(page).text) & Counter("abdiprtv")
    assert letters <= Counter(page), "content is never made up"


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(zip(*(words[start:] for start in range(4)))) or Counter([tuple(words)])


def test_marked_news_pages_are_extracted_at_least_as_well_as_measured() -> None:
    folder = shared("data/extraction")
    precision, recall = [], []
    for name, truth in json.loads((folder / "ground-truth.json").read_text()).items():
        page = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()).decode()
        true, found = shingles(truth["articleBody"]), shingles(extract(page).text)
        same = sum((true & found).values())
        precision.append(same / sum(found.values()))
        recall.append(same / sum(true.values()))
    p, r = sum(precision) / len(precision), sum(recall) / len(recall)
    assert 2 * p * r / (p + r) > 0.945
