"""A page as flat arrays in document order, which everything after parsing works on.

A parser mends the markup and writes it out again; cut at its tags, the well-formed result is read in one pass. That is
quicker than asking the parsed tree for its elements one by one, and what is left out of it is stepped over in one jump.
What is never content gets no row; code and formulas are one token each. The parser is lexbor, which builds the tree
that browsers do; pages on which it would take quadratic time or memory are left to libxml2, which gives up on them.
"""

from __future__ import annotations

import html as entities
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from lxml import etree
from selectolax.lexbor import LexborHTMLParser

from herdbook.corpus.mathml import linear_math


def names(words: str) -> frozenset[str]:
    """A set of tags, written as one line."""
    return frozenset(words.split())


CODE = names("pre listing xmp plaintext")
DROP = names(
    "applet audio button canvas datalist dialog embed frameset head iframe input link map meta meter noembed noframes "
    "noscript object progress rp rt script select style svg template textarea video"
)
RAW = names("script style xmp iframe noembed noframes plaintext")
"""Elements in which markup is text; strip.py has left few of them."""
VOID = names("area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr")
_SPECIAL = CODE | (DROP - VOID) | RAW | {"math"}
NAME = re.compile(r"[a-zA-Z][\w:-]*")
NO_TEXT = re.compile(r"<!--.*?-->|<[!?][^>]*>", re.DOTALL)
TITLE = re.compile(r"<title(?: [^>]*)?>([^<]*)")
ATTRIBUTE = re.compile(r' ([^\s="]+)="([^"]*)"')
TELLING = re.compile(r' (class|id|role|style|hidden|aria-hidden)="([^"]*)"')
"""The attributes that say what an element is for."""
HIGHLIGHTED = re.compile(r'<span class="(?!ad"|ln")(?:\w\w?|pre)">([^<]*)</span>')
"""Words of code as highlighters mark them, up to half of a page's elements: as good as unmarked."""
FORMATTING = re.compile(r"<(/?)(b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)\b", re.IGNORECASE)
"""Elements that a browser opens again in every block until they are closed."""
TAME = 3000
"""Tags up to which nothing a page does takes long,"""
WILD = 20_000
"""and from which a page that only nests takes seconds;"""
REPEATED = 50
"""in between, elements of formatting that may be open at a time."""
LINE_MARKS = re.compile(r"line-?n(?:o|um)|gutter|header-?link|copy|toolbar|hidden|(?<![a-z])ln(?![a-z])|user-select")
"""Attributes of what stands in code and is none of it: numbers of lines, links, things to press."""


def mended(html: str) -> str:
    """The page as well-formed markup, empty when there is nothing to parse."""
    html = html.replace("\0", "")
    if _wild(html):
        parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True, recover=True)
        try:
            root = etree.fromstring(html.encode("utf-8", "replace"), parser)
        except (etree.XMLSyntaxError, ValueError):
            root = None
        return "" if root is None else etree.tostring(root, encoding="unicode", method="html")
    if "/>" in html:
        html = _closed(html)
    try:
        return LexborHTMLParser(html).html or ""
    except UnicodeEncodeError:  # halves of a pair
        return LexborHTMLParser(html.encode("utf-8", "replace").decode()).html or ""


def _closed(html: str) -> str:
    """The page with an end tag for each element closed as in XML, which its writer meant and browsers do not see."""
    parts = html.split("/>")
    last = parts.pop()
    for place, part in enumerate(parts):
        start = part.rfind("<") + 1
        name = NAME.match(part, start)
        if name and name.group().lower() not in VOID and (name.end() == len(part) or part[-1] in "\"' \t\r\n"):
            parts[place] = f"{part}></{name.group()}>"
        else:
            parts[place] = f"{part}/>"
    return "".join(parts) + last


def _wild(html: str) -> bool:
    """Whether a page nests or leaves open more than any sound one does."""
    tags = html.count("<")
    if tags <= TAME or tags >= WILD:
        return tags >= WILD
    open_now: Counter[str] = Counter()
    for slash, name in FORMATTING.findall(html):
        open_now[name] = max(open_now[name] - 1, 0) if slash else open_now[name] + 1
        if open_now[name] > REPEATED:
            return True
    return False


def plain(text: str) -> str:
    """Text as it stood before it was written as XML."""
    if "&" not in text:
        return text
    if "&#" in text:
        return entities.unescape(text)
    return text.replace("&nbsp;", "\xa0").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def attributes(markup: str) -> dict[str, str]:
    """The attributes of an opening tag as it stands in the tree."""
    return {name: plain(value.replace("&quot;", '"')) for name, value in ATTRIBUTE.findall(markup)}


@lru_cache(1 << 12)
def _is_code(markup: str) -> bool:
    """Whether an element that stands in code is part of it."""
    telling = TELLING.findall(markup)
    return markup.startswith("code ") or not any(LINE_MARKS.search(value.lower()) for _, value in telling)


class Tree:
    """The body of a page. Token k is a tag and the text behind it; element i has a row, those inside it follow it."""

    def __init__(self, html: str) -> None:
        self.title = ""
        self.names: list[str] = []
        """Of each token: its tag, with a slash before it where it closes, and behind it where it holds nothing."""
        self.texts: list[str] = []
        """Of each token: the text behind it."""
        self.whole: dict[int, str] = {}
        """What a token of code or a formula holds, and the markup of a picture."""
        self.tags: list[str] = []
        self.parents: list[int] = []
        self.ends: list[int] = []
        """Of each element: the row after its last descendant's."""
        self.opens: list[int] = []
        """Of each element: the token that opens it,"""
        self.closes: list[int] = []
        """and the one that closes it; where it is one token, that one."""
        self.markup: list[str] = []
        """Of each element: its attributes as they stand in the tag."""
        self.text: list[int] = []
        """Of each element: characters directly in it, without spaces around them."""
        self.code_links: dict[int, tuple[int, int]] = {}
        """Of elements of code: characters of links, and links."""
        self.gone: dict[int, int] = {}
        """Of the tokens whose element is left out: the token that closes it."""
        markup = mended(html)
        title = TITLE.search(markup)
        self.title = " ".join(plain(title.group(1)).split()) if title else ""
        body = markup.find("<body", max(markup.find("</head>"), 0))
        if body >= 0:
            self._read(_pieces(HIGHLIGHTED.sub(r"\1", markup[body:])))

    def _read(self, pieces: list[str]) -> None:
        """Read the tags in order."""
        names, texts, tags, markups, text = self.names, self.texts, self.tags, self.markup, self.text
        parents, ends, opens, closes = self.parents, self.ends, self.opens, self.closes
        rest, here = iter(pieces), -1
        for piece in rest:
            tag, _, words = piece.partition(">")
            if tag[:1] == "/":
                name = tag
                closes[here] = len(names)
                ends[here] = len(tags)
                here = parents[here]
                if here < 0:
                    names.append(name)
                    texts.append("")
                    return
            else:
                name = tag.partition(" ")[0]
                if name in _SPECIAL:
                    words = self._special(name, tag, words, here, rest)
                elif name in VOID:
                    if name == "img":
                        self.whole[len(names)] = tag
                    name += "/"
                else:
                    parents.append(here)
                    here = len(tags)
                    tags.append(name)
                    markups.append(tag[len(name) :])
                    opens.append(len(names))
                    closes.append(0)
                    ends.append(0)
                    text.append(0)
            if words:
                if "&" in words:
                    words = plain(words)
                text[here] += len(words.strip())
            names.append(name)
            texts.append(words)
        self._close_all(here)

    def _close_all(self, here: int) -> None:
        """Close what is open at the end of the markup."""
        while here >= 0:
            self.closes[here] = len(self.names)
            self.ends[here] = len(self.tags)
            self.names.append(f"/{self.tags[here]}")
            self.texts.append("")
            here = self.parents[here]

    def _special(self, name: str, markup: str, words: str, here: int, pieces: Iterator[str]) -> str:
        """Read what is one token: code, a formula, or nothing at all; returns the text behind it."""
        inside, end = [f"{markup}>{words}"], f"/{name}>"
        depth, words = 1, ""
        for piece in pieces:
            if piece.startswith(end):
                depth -= 1
                if not depth:
                    words = piece[len(end) :]
                    break
            elif name not in RAW and piece.startswith((f"{name}>", f"{name} ")):
                depth += 1
            inside.append(piece)
        if name in CODE:
            self._code(name, inside, here)
        elif name == "math":
            formula = plain("".join(piece.partition(">")[2] for piece in inside))
            self.text[here] += len(formula.strip())
            self.whole[len(self.names)] = _formula(inside)
        return words

    def _code(self, name: str, inside: list[str], here: int) -> None:
        """Keep code to the character, without what stands in it and is none of it."""
        parts: list[str] = []
        count = links = link_text = 0
        depth = skipped = linked = 0  # the depths of what is left out, and of a link, while in them
        for piece in inside:
            tag, _, words = piece.partition(">")
            if tag[:1] == "/":
                depth -= 1
                if depth < skipped:
                    skipped = 0
                if depth < linked:
                    linked = 0
            else:
                kind = tag.partition(" ")[0]
                if kind not in VOID:
                    depth += 1
                    if not skipped and (kind in DROP or (" " in tag and not _is_code(tag))) and depth > 1:
                        skipped = depth
                if kind == "br":
                    parts.append("\n")
                elif kind == "a":
                    links += 1
                    linked = linked or depth
            if words and not skipped:
                words = plain(words)
                parts.append(words)
                length = len(words.strip())
                count += length
                if linked:
                    link_text += length
        self.whole[len(self.names)] = "".join(parts)
        self.code_links[len(self.tags)] = link_text, links
        self._row(name, here, inside[0].partition(">")[0][len(name) :], count)

    def _row(self, name: str, parent: int, markup: str, text: int = 0) -> None:
        self.tags.append(name)
        self.parents.append(parent)
        self.opens.append(len(self.names))
        self.closes.append(len(self.names))
        self.markup.append(markup)
        self.text.append(text)
        self.ends.append(len(self.tags))


def _pieces(markup: str) -> list[str]:
    """The markup cut before each tag; names with a `<` in them are put together again."""
    if "<!" in markup or "<?" in markup:
        markup = NO_TEXT.sub("", markup)
    pieces = markup.split("<")
    del pieces[0]
    if markup.count(">") == len(pieces):
        return pieces
    whole: list[str] = []
    for piece in pieces:
        if whole and ">" not in whole[-1] and piece[:1] != "/":
            whole[-1] += f"<{piece}"
        else:
            whole.append(piece or " ")
    return whole


def _formula(pieces: list[str]) -> str:
    """MathML in one line."""
    root = etree.fromstring(f"<{'<'.join(pieces)}</math>", etree.HTMLParser())
    element = None if root is None else root.find(".//math")
    return "" if element is None else linear_math(element)
