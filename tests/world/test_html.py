"""Whatever a site's look, what it shows is what the article says."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html as lxml_html

from herdbook.world.article import Article, Block
from herdbook.world.html import Look, block_html, code_html, text_html
from herdbook.world.labels import LABELS
from herdbook.world.sites import TEMPLATES, Frame, Site, make_site, page_html
from tests.support.worlds import tiny_pages

LOOKS = [
    Look("plain", code, math, entities, wrapped, head, answers)  # type: ignore[arg-type]
    for code, math, entities, wrapped, head, answers in itertools.product(
        ("plain", "spans", "lines"),
        ("mathml", "image"),
        (False, True),
        (False, True),
        (False, True),
        ("breaks", "paragraphs"),
    )
][::5]
# What HTML itself changes or forbids is left out: controls, carriage returns, surrogates.
TEXT = st.text(
    st.characters(blacklist_categories=("Cc", "Cs", "Cn"), blacklist_characters="\u2028\u2029\x85"), max_size=80
)
CODE = st.lists(TEXT.map(lambda line: " " * (len(line) % 9) + line), min_size=1, max_size=6).map("\n".join)


def shown(markup: str) -> lxml_html.HtmlElement:
    return lxml_html.fromstring(f"<div>{markup}</div>")


@given(TEXT, st.sampled_from(LOOKS))
@settings(max_examples=150, deadline=None)
def test_any_line_of_text_reads_back(text: str, look: Look) -> None:
    assert shown(f"<p>{text_html(text, look)}</p>").text_content().split() == text.split()


@given(CODE, st.sampled_from(LOOKS))
@settings(max_examples=150, deadline=None)
def test_any_code_reads_back_to_the_character(code: str, look: Look) -> None:
    assert shown(code_html(code, look)).xpath("string(.//pre)") == code


def test_python_keeps_its_indentation_under_highlighting() -> None:
    code = 'def f(a: int) -> str:\n    """Says <a> & "b".\n\n      More.\n    """\n'
    code += '    return f"{a}  # not a comment"  # a comment\n\tpass'
    for look in LOOKS:
        assert shown(code_html(code, look)).xpath("string(.//pre)") == code
    assert "<span" in code_html(code, replace(LOOKS[0], code="spans"))


def test_formulas_carry_their_latex() -> None:
    block = Block("math", text="a < b²", latex=r'\frac{a}{b} < "c" & d')
    picture = shown(block_html(block, Look("plain", math="image")))
    assert picture.xpath("//img/@alt") == [block.latex]
    mathml = shown(block_html(block, Look("plain", math="mathml")))
    assert mathml.xpath("//annotation[@encoding='application/x-tex']/text()") == [block.latex]
    assert "".join(mathml.xpath("//mrow//text()")) == "a<b²"


@pytest.mark.parametrize("look", LOOKS)
def test_tables_lists_and_answers_keep_cells_items_and_lines(look: Look) -> None:
    table = Block("table", items=(("Name", "Größe"), ("a & b", "<3>")))
    cells = shown(block_html(table, look)).xpath("//tr")
    assert [[cell.text_content() for cell in row] for row in cells] == [list(row) for row in table.items]
    items = Block("list", items=(("one",), ("two & three",)))
    assert [item.text_content() for item in shown(block_html(items, look)).xpath("//li")] == ["one", "two & three"]
    answers = Block("qa", text="Question: how many?\nAnswer: 3 < 4 #### 3")
    found = shown(block_html(answers, look))
    lines = [piece.strip() for piece in found.itertext() if piece.strip()]
    assert lines == answers.text.split("\n")


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize("language", sorted(LABELS))
def test_every_template_shows_the_whole_article_once_and_in_order(template: str, language: str) -> None:
    blocks = tuple(Block("paragraph", text=f"Sentence {number} of this täxt & more.") for number in range(7))
    article = Article("a", "www.a.example", "A title", language, "general", "news", blocks)
    look = Look(template, entities=template == "plain")
    site = Site("www.a.example", look, look, "2022-01-01", "A")
    frame = Frame(site, "/a", "2022-05-05", "xx", "utf-8", (("/b", "Another page"),), seed=3)
    page = lxml_html.document_fromstring(page_html(article, frame))
    assert page.get("lang") == "xx"
    text = " ".join(page.text_content().split())
    places = [text.index(block.text) for block in blocks]
    assert places == sorted(places)
    assert all(text.count(block.text) == 1 for block in blocks)
    assert [heading.text_content() for heading in page.xpath("//h1")] == ["A title"]
    assert LABELS[language].rights in text


def test_a_site_changes_its_look_once() -> None:
    site = make_site("www.code.example", 1)
    assert site.look("2021-01-01") == site.old
    assert site.look("2024-01-01") == site.new
    assert {site.old.math, site.new.math} == {"image", "mathml"}


def test_the_tiny_world_shows_every_template() -> None:
    hosts = sorted({page.article.site for page in tiny_pages()})
    sites = [make_site(host, number) for number, host in enumerate(hosts)]
    assert {look.template for site in sites for look in (site.old, site.new)} == set(TEMPLATES)
