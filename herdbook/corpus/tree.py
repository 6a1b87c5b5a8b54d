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
INSIDE = "-/"
"""The name of tokens inside of what was read as one."""
WORDS = names("code kbd samp tt var")
"""Elements that say what a word is, and nothing of what it is for."""
_SPECIAL = CODE | (DROP - VOID) | RAW | {"math"}
_ROWLESS = VOID | _SPECIAL | WORDS | {f"/{name}" for name in WORDS | _SPECIAL} | {INSIDE}
"""Names of tokens that open or close no row."""
NAME = re.compile(r"[a-zA-Z][\w:-]*")
NO_TEXT = re.compile(r"<!--.*?-->|<[!?][^>]*>", re.DOTALL)
TITLE = re.compile(r"<title(?: [^>]*)?>([^<]*)")
ATTRIBUTE = re.compile(r' ([^\s="]+)="([^"]*)"')
TELLING = re.compile(r' (class|id|role|style|hidden|aria-hidden)="([^"]*)"')
"""The attributes that say what an element is for."""
MARKED = re.compile(
    r'<span class="(?!ad"|ln")(?:\w\w?|pre)">([^<]*)</span>'
    r"|<code\b[^<>]*>([^<]*)</code>|<tt\b[^<>]*>([^<]*)</tt>|<var\b[^<>]*>([^<]*)</var>"
)
"""Words that highlighters and manuals mark, up to half of a page's elements: as good as unmarked."""
FORMATTING = names("b big code em font i nobr s small strike strong tt u")
"""Elements that a browser opens again in every block until they are closed;"""
MAYBE_FORMATTING = re.compile("<(/?[bcefinstuBCEFINSTU][a-zA-Z0-9]*)")
"""and what may be one of them."""
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
    ends = {}
    for place, part in enumerate(parts[:-1]):
        start = part.rfind("<") + 1
        if part[start : start + 40].partition(" ")[0] in VOID:
            continue
        name = NAME.match(part, start)
        if name and name.group().lower() not in VOID and (name.end() == len(part) or part[-1] in "\"' \t\r\n"):
            ends[place] = f"></{name.group()}>"
    if not ends:
        return html
    last = parts.pop()
    return "".join(part + ends.get(place, "/>") for place, part in enumerate(parts)) + last


def _wild(html: str) -> bool:
    """Whether a page nests or leaves open more than any sound one does."""
    tags = html.count("<")
    if tags <= TAME or tags >= WILD:
        return tags >= WILD
    found = " ".join(MAYBE_FORMATTING.findall(html)).lower().split(" ")
    often = {name for name, count in Counter(found).items() if count > REPEATED and name in FORMATTING}
    for name in often:
        open_now, close = 0, f"/{name}"
        for tag in found:
            if tag == name:
                open_now += 1
                if open_now > REPEATED:
                    return True
            elif tag == close and open_now:
                open_now -= 1
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
        self.markup: list[str] = []
        """Of each token: the tag with its attributes as it stands."""
        self.texts: list[str] = []
        """Of each token: the text behind it,"""
        self.sizes: list[int] = []
        """and its characters, without spaces around them."""
        self.whole: dict[int, str] = {}
        """What a token of code or a formula holds."""
        self.tags: list[str] = []
        self.parents: list[int] = []
        self.ends: list[int] = []
        """Of each element: the row after its last descendant's."""
        self.opens: list[int] = []
        """Of each element: the token that opens it,"""
        self.closes: list[int] = []
        """and the one that closes it."""
        self.text: list[int] = []
        """Of each element: characters directly in it."""
        self.code_links: dict[int, tuple[int, int]] = {}
        """Of elements of code: characters of links, and links."""
        self.gone: dict[int, int] = {}
        """Of the tokens whose element is left out: the token that closes it."""
        markup = mended("".join(filter(None, MARKED.split(html))))
        title = TITLE.search(markup)
        self.title = " ".join(plain(title.group(1)).split()) if title else ""
        names, tags, texts = _cut(markup)
        if "body" in names:
            start = names.index("body")
            self.names, self.markup, self.texts = names[start:], tags[start:], texts[start:]
            self._read()

    def _read(self) -> None:
        """Read the tags in order."""
        names, texts = self.names, self.texts
        self.sizes = sizes = list(map(len, map(str.strip, texts)))
        parents, opens, here = self.parents, self.opens, -1
        add_parent, add_open = parents.append, opens.append
        self.closes, self.ends, self.text = closes, ends, text = [0] * len(names), [0] * len(names), [0] * len(names)
        for token, name in enumerate(names):
            if name in _ROWLESS:
                if name in VOID:
                    names[token] = name + "/"
                elif name in _SPECIAL:
                    self._special(token, name, here)
            elif name[0] == "/":
                closes[here], ends[here] = token, len(opens)
                here = parents[here]
                if here < 0:
                    texts[token] = ""
                    break
            else:
                add_parent(here)
                here = len(opens)
                add_open(token)
            if size := sizes[token]:
                text[here] += size
        while here >= 0:  # what is open at the end of the markup
            closes[here], ends[here] = len(names), len(opens)
            names.append(f"/{names[opens[here]]}")
            texts.append("")
            here = parents[here]
        self.tags = [names[token] for token in opens]
        del closes[len(opens) :], ends[len(opens) :], text[len(opens) :]

    def _special(self, token: int, name: str, here: int) -> None:
        """Read what is one token: code, a formula, or nothing at all. The tokens inside stay, and are empty."""
        names, texts, sizes = self.names, self.texts, self.sizes
        close, last, depth = f"/{name}", token, 1
        while depth:
            try:
                end = names.index(close, last + 1)
            except ValueError:  # never closed
                end = len(names)
                names.append(close)
                self.markup.append(close)
                texts.append("")
                sizes.append(0)
            depth += (0 if name in RAW else names[last + 1 : end].count(name)) - 1
            last = end
        size = 0
        if name in CODE:
            self._code(token, last)
            self.parents.append(here)
            self.closes[len(self.opens)], self.ends[len(self.opens)] = last, len(self.opens) + 1
            self.opens.append(token)
        elif name == "math":
            pieces = [f"{self.markup[k]}>{entities.escape(texts[k])}" for k in range(token, last)]
            self.whole[token] = _formula(pieces)
            size = len("".join(texts[token:last]).strip())
        inside = last - token
        texts[token:last] = [""] * inside
        sizes[token:last] = [size] + [0] * (inside - 1)
        names[token + 1 : last] = [INSIDE] * (inside - 1)
        if name not in CODE:
            names[last] = INSIDE

    def _code(self, token: int, last: int) -> None:
        """Keep code to the character, without what stands in it and is none of it."""
        parts: list[str] = []
        count = links = link_text = 0
        depth = skipped = linked = 0  # the depths of what is left out, and of a link, while in them
        for k in range(token, last):
            name, words = self.names[k], self.texts[k]
            if name[0] == "/":
                depth -= 1
                if depth < skipped:
                    skipped = 0
                if depth < linked:
                    linked = 0
            else:
                if name not in VOID:
                    depth += 1
                    tag = self.markup[k]
                    if not skipped and (name in DROP or (" " in tag and not _is_code(tag))) and depth > 1:
                        skipped = depth
                if name == "br":
                    parts.append("\n")
                elif name == "a":
                    links += 1
                    linked = linked or depth
            if words and not skipped:
                parts.append(words)
                count += self.sizes[k]
                if linked:
                    link_text += self.sizes[k]
        self.whole[token] = "".join(parts)
        self.code_links[len(self.opens)] = link_text, links
        self.text[len(self.opens)] = count


def _cut(markup: str) -> tuple[list[str], list[str], list[str]]:
    """The markup cut at its tags: their names, they themselves without brackets, and the text behind each."""
    flat = markup.replace("<", ">").split(">")
    if len(flat) == 2 * markup.count("<") + 1:
        # As parsers write markup, both signs stand in tags alone, but for what is in raw elements and comments.
        tags, texts = flat[1::2], flat[2::2]
        names = [tag if " " not in tag else tag.partition(" ")[0] for tag in tags]
        kinds = set(names)
        if RAW.isdisjoint(kinds) and not any(kind[:1] in "!?" for kind in kinds - {"!DOCTYPE"}):
            return names, tags, _plain(texts) if "&" in markup else texts
    pieces: list[str] = []
    for piece in NO_TEXT.sub("", markup).split("<")[1:]:
        if pieces and ">" not in pieces[-1] and piece[:1] != "/":  # a name with a `<` in it
            pieces[-1] += f"<{piece}"
        else:
            pieces.append(piece)
    parts = [piece.partition(">") for piece in pieces]
    names = [tag.partition(" ")[0] or "?" for tag, _, _ in parts]
    return names, [tag for tag, _, _ in parts], _plain([text for _, _, text in parts])


def _plain(texts: list[str]) -> list[str]:
    return [plain(text) if "&" in text else text for text in texts]


def _formula(pieces: list[str]) -> str:
    """MathML in one line."""
    root = etree.fromstring(f"<{'<'.join(pieces)}</math>", etree.HTMLParser())
    element = None if root is None else root.find(".//math")
    return "" if element is None else linear_math(element)
