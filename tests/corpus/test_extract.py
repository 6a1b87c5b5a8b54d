"""Pages to text: what a reader came for stays, in order and to the character; what surrounds it goes."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from herdbook.corpus.boilerplate import names_boilerplate
from herdbook.corpus.extract import extract
from herdbook.corpus.phrases import CALL, no_text, other_stories
from herdbook.corpus.strip import strip
from herdbook.corpus.tree import REPEATED, TAME, Tree, mended
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


def test_mathml_without_annotation_is_written_as_latex() -> None:
    fraction = "<math><mfrac><mn>1</mn><mrow><mi>n</mi><mo>+</mo><mn>1</mn></mrow></mfrac></math>"
    power = "<math><msup><mi>x</mi><mn>2</mn></msup><mo>=</mo><msqrt><mi>y</mi></msqrt></math>"
    assert extract(f"<body><p>a {fraction} b {power}</p></body>").lines == [r"a \frac{1}{n + 1} b x^2 = \sqrt{y}"]


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


def test_other_stories_and_calls_to_share_are_left_out_and_quoted_posts_stay() -> None:
    body = "".join(f"<p>{PROSE} {n}</p>" for n in range(6))
    quote = f'<div class="social-embed"><blockquote><p>{PROSE}</p>A reader</blockquote></div>'
    other = "<div><p>MORE STORIES LIKE THIS ONE</p></div><p>Another mill has burnt down near the sea.</p>"
    stamp = "<p>Published Monday, November 18, 2019 8:22AM EST</p><p>Share this with a friend!</p>"
    page = f"<body><div>{stamp}{body}{quote}{other}<h3>Lees ook:</h3><p>Een molen.</p></div></body>"
    assert extract(page).lines == [f"{PROSE} {n}" for n in range(6)] + [PROSE, "A reader"]


def test_a_thread_keeps_every_post_and_an_article_loses_its_comments() -> None:
    posts = "".join(f'<div class="comment reply-{n % 2}"><p>{PROSE} {n}</p></div>' for n in range(12))
    assert extract(f"<body><h1>Mills</h1><div>{posts}</div></body>").lines[1:] == [f"{PROSE} {n}" for n in range(12)]
    body = "".join(f"<p>{PROSE} {n}</p>" for n in range(20))
    few = '<ol class="comment-list"><li class="comment"><p>First!</p></li><li class="comment"><p>No.</p></li></ol>'
    assert extract(f"<body><div>{body}</div>{few}</body>").lines == [f"{PROSE} {n}" for n in range(20)]


@pytest.mark.parametrize(
    "line",
    ["Related Stories", "Most read in Sport", "Don't miss", "Das könnte Sie auch interessieren", "À lire aussi :",
     "i più letti", "Artículos relacionados", "Leia também", "Читайте также:", "Czytaj też",
     "Top stories", "Lo más leído", "As mais lidas"],
)  # fmt: skip
def test_headings_over_other_stories_are_known(line: str) -> None:
    assert other_stories(line) and not other_stories(
        f"{line} were what the inspector asked for first, and he was right."
    )


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


def test_a_page_that_opens_bold_text_for_every_block_again_stays_small() -> None:
    opened = "".join(f"<b id={n}>" for n in range(2 * TAME))
    page = f"<body><p>{opened}</p>" + "<p>word" * 2 * TAME
    assert len(mended(page)) < 20 * len(page), "millions of elements otherwise"
    assert extract(page).text.count("word") == 2 * TAME
    sound = "<p><b>a</b>" * 2 * TAME
    assert mended(sound).count("<b>") == 2 * TAME > REPEATED


def test_code_keeps_what_a_highlighter_calls_comment_or_tag() -> None:
    spans = '<span class="hljs-comment"># why</span>\n<span class="token tag">a</span> = <span class="meta">1</span>'
    numbers = '<span class="linenos">7 </span>b<a class="headerlink" href="#">¶</a><input type="checkbox">'
    page = f"<body><p>{PROSE}</p><pre>{spans}</pre><pre>{numbers}\n2</pre></body>"
    assert extract(page).lines[1:] == ["# why", "a = 1", "b", "2"]


def test_rows_of_a_tree_say_what_the_parser_says() -> None:
    page = f"{PAGE}<a id='x'/><p title='a > b <i>'>1 &lt; 2 &amp;amp; 3</p><td>x<br/>y<o:p>z</o:p>"
    tree, parsed = Tree(strip(page)), LexborHTMLParser(strip(page).replace("<a id='x'/>", "<a id='x'></a>"))
    seen = [node.tag for node in parsed.body.traverse() if node.tag not in ("img", "br", "button", "-text")]
    inside = {"semantics", "mrow", "mi", "mo", "annotation", "math", "code"}
    assert [tag for tag in tree.tags if tag != "code"] == [tag for tag in seen if tag not in inside]
    for row, tag in enumerate(tree.tags):
        assert tree.names[tree.opens[row]] == tag
        assert tree.closes[row] == tree.opens[row] or tree.names[tree.closes[row]] == f"/{tag}"
        assert row < tree.ends[row] <= (tree.ends[tree.parents[row]] if row else len(tree.tags))
    assert "1 < 2 &amp; 3" in tree.texts


STRIPPED = [
    ("a<script>b</script>c", "ac"),
    ("a<SCRIPT x='<p>'>b</Script >c", "ac"),
    ("a<!-- <script> -->b</script>c", "ab</script>c"),
    ("a<script>'<!--'</script>b", "ab"),
    ("a<script>b", "a<script>b"),
    ("<svg><svg></svg>b</svg>c", "<svg>b</svg>c"),
    ('<script type="math/tex">x<2</script>', "<math-tex> x&lt;2 </math-tex>"),
    ("<textarea><!-- </textarea>b-->", None),
    ("a<script>b</SCRIPT>c<script>d</script>e", "ace"),
    ("<styles>a</styles>", None),
    ("<style/>a", None),
    ("a<!--b", None),
]


@pytest.mark.parametrize(("page", "wanted"), STRIPPED)
def test_scripts_and_comments_are_taken_off_as_a_browser_would_read_them(page: str, wanted: str | None) -> None:
    assert strip(page) == (page if wanted is None else wanted)


@pytest.mark.parametrize(
    "piece", ["<svg>", "<script", "<?", "<script>", "<!--", "<select></select>", "</script>", "<style/>"]
)
def test_stripping_takes_time_in_proportion_to_the_page(piece: str) -> None:
    start = time.process_time()
    strip(piece * 40_000)
    assert time.process_time() - start < 3.0


PIECES = [
    "<p>",
    "</p>",
    "<script>",
    "</script>",
    "<!--",
    "-->",
    "<style>",
    "</STYLE>",
    "one ",
    "two ",
    "<b>",
    "</b>",
    "<",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_stripping_changes_no_text_outside_scripts(page: str) -> None:
    def words(html: str) -> list[str]:
        root = LexborHTMLParser(f"<body>{html}</body>")
        root.strip_tags(["script", "style"])
        return root.text().split()

    if page.count("<script>") == page.count("</script>") and page.count("<style>") == page.count("</STYLE>"):
        assert words(strip(page)) == words(page) or "<!--" in page or "<<" in page


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
    assert 2 * p * r / (p + r) >= 0.962


def test_words_marked_as_code_belong_to_the_element_around_them() -> None:
    tree = Tree("<body><p>call <code class='x'>add</code>, <kbd>press <b>Q</b></kbd></p><p>z</p></body>")
    assert tree.tags == ["body", "p", "b", "p"]
    assert [tree.tags[parent] for parent in tree.parents[1:]] == ["body", "p", "body"]
    assert tree.text == [0, len("call add,") + len("press"), 1, 1]
    assert Tree("<body><p>ab <math><mi>x</mi></math> c</p></body>").text == [0, len("ab") + len("x") + len("c")]


def test_marked_words_are_read_as_unmarked_ones_but_for_advertisements_and_numbers_of_lines() -> None:
    page = (
        "<body><p>{} call <code class='x'>add</code><span class=\"k\">(</span><tt>2</tt><var id=n>n</var>)</p></body>"
    )
    unmarked = "<body><p>{} call add(2n)</p></body>"
    assert Tree(page.format("")).tags == Tree(unmarked.format("")).tags == ["body", "p"]
    assert extract(page.format(PROSE)).lines == extract(unmarked.format(PROSE)).lines
    assert extract(page.format(PROSE + '<span class="ad">Buy</span>')).lines == extract(unmarked.format(PROSE)).lines


def test_raw_text_and_odd_names_do_not_shift_what_is_tag_and_what_is_text() -> None:
    odd = "<p>one</p><xmp>a < b > c < d</xmp><p b<c=1>two</p><di<v>three</di<v><p>four</p>"
    for page in (
        odd,
        odd.replace("a < b > c < d", "a > b < c"),
        odd.replace("a < b > c < d", "1 > 2 > 3 > 4"),
        odd + "<plaintext>5 > 4 < 6",
    ):
        tree = Tree(f"<body>{page}</body>")
        assert len(tree.names) == len(tree.texts) == len(tree.sizes)
        found = extract(f"<body>{page}</body>").lines
        assert [word for word in ("one", "two", "three", "four") if any(word in line for line in found)] == [
            "one", "two", "three", "four"
        ]  # fmt: skip


def test_instructions_are_taken_off_as_the_comments_browsers_take_them_for() -> None:
    assert strip("<?xml version='1.0'?><p>a<?php echo 1 ?>b</p>") == "<p>ab</p>"


def test_rows_in_cells_and_cells_left_out_keep_the_order_of_a_row() -> None:
    row = "<table><tr><td>one<td><table><tr><td>in<td>side</table><td hidden>no<td>two<tr><td>x<td>y</table>"
    assert extract(f"<body><p>{PROSE}</p>{row}</body>").lines == [PROSE, "one | in | side | two", "x | y"]


@pytest.mark.parametrize(
    "line", ["View all 12 comments", "(see all)", "17 comments", "Image 1 of 9", "Tap here to subscribe"]
)
def test_calls_are_no_text_and_told_by_their_first_letters(line: str) -> None:
    assert no_text(line) == (CALL.fullmatch(line) is not None)
