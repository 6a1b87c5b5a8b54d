"""The page's Markdown against markdown-it's, which follows CommonMark and GitHub's tables; and against its own source.

What the page leaves out on purpose is switched off in the peer: HTML, references, entities, pictures, code by
indentation, underlined headings. Line breaks in a paragraph stay breaks in both.
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from tests.inference.page.desk import Desk

SAMPLES = (
    "plain text",
    "two\nlines",
    "two\n\nparagraphs",
    "hard\\\nbreak and  \nspaces",
    "*em* **strong** ***both*** _em_ __strong__ ~~gone~~",
    "**bold *em* bold** *em **bold** em* ***a* b** ***a** b*",
    "snake_case_word 5*3*2 a * b * c 2**3",
    "*a**b* **a*b** *a*b*c* __init__ x__y__z",
    "**“quoted”** *(paren)*x **.**a",
    "``code with ` tick`` ` a ` `  ` `unclosed *em*",
    "`a\nb` and *a\nb*",
    "\\*not em\\* \\# \\` \\\\ \\a",
    '[link](https://example.org) [t](https://example.org/a_(b) "title") [t](<https://example.org/x y>)',
    "[*em* `code`](https://example.org/?a=1&b=2) [a [b] c](https://example.org)",
    "[a](xx(()) [b] (c) [c]",
    "[not *a](https://example.org) link*",
    "<https://example.org/a?b=c> <http://x.example>",
    "# one\n## two ##\n### three #x\n#no\n####### seven\n#",
    "# *em* `c`\ntext",
    "---\n***\n_ _ _\n--\ntext\n---\ntext",
    "> quote\n> more\nlazy\n\n> other\n>\n> two\n> > deep",
    "> - a\n> - b\n\n> ```\n> code\n> ```\nafter",
    "- a\n- b\n* c\n+ d",
    "- a\n\n- b\n- c",
    "- a\n\n  more of a\n- b",
    "- a\n  - b\n    - c\n  - d\n- e",
    "1. a\n2. b\n\n3) c\n\n7. seven\n8. eight",
    "1. a\n   - b\n   - c\n2. d\n   ```py\n   x = 1\n     y\n   ```",
    "- a\nlazy\n- b\n\nafter",
    "text\n- a\n1. b\ntext\n2. no list",
    "-\n- \n-   wide\n-no",
    "- # heading\n- > quote\n- ---\n- | not | table",
    "10. ten\n11. eleven\n    - nested",
    "- a\n\n\n- b\n\n\n\ntext",
    "```\nplain <b>&amp;\n```",
    "```python title\nx = '`'\n\n    y\n```\nafter",
    "~~~\n```\n~~~",
    "````\n```\n````\n```\nunclosed\n\n# no",
    "``` a`b\ntext",
    "  ```\n  two\n   three\n x\n  ```",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "a | b\n:-- | --:\n1 | 2 | 3\n4\n\nafter",
    "| a |\n|:-:|\n| **x** `y` |\n> quote",
    "| a | b |\n|---|\n| 1 | 2 |",
    "| a \\| b | `c \\| d` |\n|---|---|\n| \\\\ | \\* |",
    "text\n| a | b |\n|---|---|\n| 1 | 2 |",
    "- | a |\n  |---|\n  | 1 |",
    "<b>html</b> <!-- c --> &amp; &lt; <div>\n\n<div>\n*em*\n</div>",
    "a\tb\n\n-\ttab\n\n\t- nested?",
    "é*é*é **日本語**。 *日本*語 «*x*»",
    "emoji 🐄**🐄**🐄 *a🐄*b",
    "* * *\n- - x\n+ + y",
    "**unclosed *one* _two",
    "*a `*` b* **a [x](https://example.org) b**",
    "!x [ ![a",
    "",
    "\n\n\n",
    "   indented\n  more",
    "a\r\nb\r\n\r\n- c\r\n- d",
)


def page_shapes(desk: Desk, sources: list[str]) -> list[Any]:
    """What the page makes of each source, as lists."""
    return [tidy(shape) for shape in desk.probe("shapes", sources)]


@pytest.fixture(scope="module")
def peer() -> Any:
    """markdown-it with our choices."""
    from markdown_it import MarkdownIt

    rules = ["reference", "html_block", "html_inline", "entity", "image", "code", "lheading"]
    return MarkdownIt("commonmark", {"breaks": True}).enable(["table", "strikethrough"]).disable(rules)


def peer_shape(peer: Any, source: str) -> Any:
    """What markdown-it makes of it, as lists."""
    from lxml import html

    def shape(element: Any) -> Any:
        name = element.tag.replace("s", "del") if element.tag == "s" else element.tag
        told = {key: element.get(key) for key in ("href", "start") if element.get(key)}
        if re.fullmatch(r"https?://[^/?#]+", told.get("href", "")):
            told["href"] += "/"  # as browsers write it
        if style := re.search(r"text-align:(\w+)", element.get("style", "")):
            told["align"] = style[1]
        children: list[Any] = [element.text or ""]
        for child in element:
            children += [shape(child), child.tail or ""]
        if name == "a" and children == [""]:
            children = [told["href"]]  # a link without a text could not be clicked
        if name == "pre" and (language := re.search(r"language-(\S+)", element[0].get("class", ""))):
            told["language"] = language[1]
        return [name, told, children]

    return tidy(shape(html.fragment_fromstring(peer.render(source), create_parent="div"))[2])


BLOCKS = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "blockquote",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "pre",
    "hr",
    "br",
}


def tidy(children: list[Any], preformatted: bool = False) -> list[Any]:
    """Texts that touch joined, and space that no reader sees taken away."""
    joined: list[Any] = []
    for child in children:
        if isinstance(child, str) and joined and isinstance(joined[-1], str):
            joined[-1] += child
        elif isinstance(child, str):
            joined.append(child)
        else:
            joined.append([child[0], child[1], tidy(child[2], preformatted or child[0] == "pre")])
    if preformatted:  # a last newline is not seen; the peer leaves it away where the code is not closed
        return [child.rstrip("\n") if isinstance(child, str) else child for child in joined if child not in ("", "\n")]
    for index, child in enumerate(joined):
        if not isinstance(child, str):
            continue
        text = re.sub(r"[ \t\n]+", " ", child)
        before, after = (joined[at] if 0 <= at < len(joined) else ["p"] for at in (index - 1, index + 1))
        text = text.lstrip(" ") if before[0] in BLOCKS else text
        joined[index] = text.rstrip(" ") if after[0] in BLOCKS else text
    return [child for child in joined if child != ""]


def test_samples_are_read_as_by_commonmark(desk: Desk, peer: Any) -> None:
    for source, ours in zip(SAMPLES, page_shapes(desk, list(SAMPLES)), strict=True):
        assert ours == peer_shape(peer, source), source


INLINE = [
    "*",
    "**",
    "_",
    "__",
    "***",
    "`",
    "``",
    "[",
    "]",
    "(",
    ")",
    "](<https://a.example>)",
    "\\",
    "a",
    "b",
    " ",
    ".",
    "é",
    "~~c",
    "\n",
    "<",
    "!",
]
LINES = [
    "",
    "a",
    "b *c*",
    "> q",
    "> - x",
    ">",
    "- i",
    "  - j",
    "* k",
    "1. n",
    "2. m",
    "   in",
    "    deep",
    "# h",
    "---",
    "```",
    "~~~",
]
TABLES = [
    "",
    "a",
    "| a | b |",
    "|---|---|",
    ":-- | -:",
    "|-",
    "x | y",
    "| `c` | *d* | e |",
    "# h",
    "```",
    "\\| z",
    "- i",
    "> q",
]


def made(pieces: list[str], between: str, seed: int, n: int, most: int) -> list[str]:
    """Random sources out of pieces."""
    chance = random.Random(seed)
    return [between.join(chance.choices(pieces, k=chance.randint(1, most))) for _ in range(n)]


def test_random_inlines_are_read_as_by_commonmark(desk: Desk, peer: Any) -> None:
    sources = ["a" + source for source in made(INLINE, "", 1, 800, 14)]
    for source, ours in zip(sources, page_shapes(desk, sources), strict=True):
        assert ours == peer_shape(peer, source), source


def test_random_blocks_are_read_as_by_commonmark(desk: Desk, peer: Any) -> None:
    sources = made(LINES, "\n", 2, 600, 7)
    for source in made(TABLES, "\n", 6, 600, 6):  # but not behind a quote or list: there tables may follow at once
        sources.append(re.sub(r"(?m)^([->].*)$", r"\1\n", source))
    for source, ours in zip(sources, page_shapes(desk, sources), strict=True):
        assert ours == peer_shape(peer, source), source


def test_bare_addresses_become_links_without_the_sentence_around_them(desk: Desk) -> None:
    cases = {
        "see https://example.org/a.": "https://example.org/a",
        "(https://example.org/a_(b))": "https://example.org/a_(b)",
        "**https://example.org/x**": "https://example.org/x",
        "https://example.org/?q=1&r=2, and": "https://example.org/?q=1&r=2",
        "https://example.org/a_b_c": "https://example.org/a_b_c",
        "xhttps://example.org": None,
        "`https://example.org`": None,
        "https://": None,
        "ftp://example.org": None,
    }
    assert desk.probe("firstLinks", list(cases)) == list(cases.values())


def test_every_shown_character_knows_its_place_in_the_source(desk: Desk) -> None:
    """Random sources and all samples: the text at the place given is the text shown."""
    sources = [*SAMPLES, *made(INLINE, "", 3, 300, 14), *made(LINES + TABLES, "\n", 4, 300, 7)]
    sources = [source for source in sources if "\\|" not in source]
    assert desk.probe("misplaced", sources) == []


def test_growing_text_ends_up_as_if_it_had_come_at_once(desk: Desk) -> None:
    """Blocks that did not change are kept; the result must not depend on how the text came."""
    sources = made(LINES + TABLES, "\n", 5, 60, 10) + list(SAMPLES)
    assert desk.probe("grownOtherwise", sources) == []


def test_no_text_makes_the_page_hang(desk: Desk) -> None:
    """100,000 characters of the worst kind each: were time quadratic, this would not end; and depth is bounded."""
    assert 12 < desk.probe("deepest") < 150
