"""HTML to text: complete on content, precise on boilerplate, code and mathematics kept (§3.1.1).

The tree is parsed, what boilerplate.py marks is passed over, and the rest is written block by block: a line per
block, code verbatim, a table row as one line, formulas as LaTeX or read out. Markers of markdown are taken out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from herdbook.corpus.boilerplate import BLOCK, CODE, ExtractRules, Page
from herdbook.corpus.markdown import without_markers
from herdbook.corpus.mathml import linear_math
from herdbook.corpus.phrases import no_text
from herdbook.corpus.strip import strip

DEEPEST = 200
"""Deepest nesting that is walked; below it, text is taken without structure."""
RULES = ExtractRules()
TAGS = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)
COPYRIGHT = re.compile(r"(?:©|\(c\)\s|copyright\b(?:\s*©|\s*\(c\))?\s+(?:\d{4}|by\b))", re.I)
MATH_IMAGE = re.compile(r"(?:^|[^a-z])(?:math|tex|latex|equation|formula|mwe-math)", re.IGNORECASE)
PERMALINK = frozenset({"¶", "#", "§", "🔗", "\uf0c1"})


@dataclass
class Extracted:
    """Lines of text, what each is (`t` text, `h` the heading, `r` table row, `c` code), and the page's title."""

    lines: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    title: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def add(self, text: str, kind: str = "t") -> None:
        """Append the lines of one block."""
        for line in text.split("\n"):
            self.lines.append(line)
            self.kinds.append(kind)


def parse(html: str) -> Any:
    """The document's root element, or None when there is nothing to parse."""
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True, recover=True)
    try:
        return etree.fromstring(html.replace("\0", "").encode("utf-8", "replace"), parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def extract(html: str, rules: ExtractRules = RULES) -> Extracted:
    """The content of a page. Never raises for a page's sake: one without content gives no lines."""
    result = Extracted()
    root = parse(strip(html))
    if root is None:
        return result
    title = root.find(".//title")
    if title is not None and title.text:
        result.title = " ".join(title.text.split())
    body = root.find("body")
    page = Page(root if body is None else body, rules)
    page.prune()
    page.drop_teasers()
    page.drop_other_stories()
    page.drop_empty_headings()
    scope = page.narrow()
    writer = _Writer(page, result)
    heading = page.heading_outside(scope)
    if heading is not None:
        writer.kind = "h"
        writer.write(heading)
        writer.kind = "t"
    writer.write(scope)
    if not page.text[0] and html.count("<") > DEEPEST:
        # Nested deeper than the parser goes: the words at least are kept.
        result.add(" ".join(TAGS.sub(" ", html).split()))
    return result


class _Writer:
    """Writes elements as lines: one per block, code verbatim, a table row as its cells with bars between."""

    def __init__(self, page: Page, out: Extracted) -> None:
        self.page, self.out = page, out
        self.buffer: list[str] = []
        self.kind = "t"

    def write(self, element: Any) -> None:
        if element is None:
            return
        self._element(element, 0)
        self._flush()

    def _flush(self) -> None:
        if not self.buffer:
            return
        pieces = "".join(self.buffer).split("\x00")
        self.buffer.clear()
        for piece in pieces:
            line = without_markers(" ".join(piece.split()))
            if line and not (len(line) < 200 and COPYRIGHT.match(line)) and not no_text(line):
                self.out.add(line, self.kind)

    def _element(self, element: Any, depth: int) -> None:
        if depth > DEEPEST:
            self.buffer.append(" ".join(element.itertext()))
            return
        tag = element.tag
        if tag in CODE:
            self._code(element)
            return
        if tag == "tr":
            self._row(element, depth)
            return
        if element.text:
            self.buffer.append(element.text)
        for child in element:
            self._child(child, depth)
            if child.tail:
                self.buffer.append(child.tail)

    def _child(self, child: Any, depth: int) -> None:
        tag = child.tag
        if not isinstance(tag, str) or child in self.page.dropped:
            if tag in ("button", "select", "input"):
                self.buffer.append(" ")
            return
        if tag == "br":
            self.buffer.append("\x00")
        elif tag == "img":
            self._image(child)
        elif tag == "math":
            self.buffer.append(f" {linear_math(child)} ")
        elif tag == "script":
            self.buffer.append(f" {child.text or ''} ")
        elif tag == "a" and (child.text or "").strip() in PERMALINK and not len(child):
            return
        elif tag in BLOCK or tag in CODE:
            self._flush()
            self.kind = "h" if tag == "h1" else self.kind
            self._element(child, depth + 1)
            self._flush()
            self.kind = "t" if tag == "h1" else self.kind
        else:
            self._element(child, depth + 1)

    def _image(self, image: Any) -> None:
        alt = (image.get("alt") or "").strip()
        if not alt:
            return
        marks = f"{image.get('class', '')} {image.get('src', '')[:200]}"
        if MATH_IMAGE.search(marks) or alt.startswith(("\\", "$")) or "{\\" in alt:
            self.buffer.append(f" {alt} ")

    def _code(self, element: Any) -> None:
        self._flush()
        parts: list[str] = []
        self._verbatim(element, parts, 0)
        text = "".join(parts).replace("\r\n", "\n").replace("\r", "\n").strip("\n")
        text = text.rstrip()
        if text.strip():
            self.out.add(text, "c")

    def _verbatim(self, element: Any, parts: list[str], depth: int) -> None:
        parts.append(element.text or "")
        for child in element:
            tag = child.tag
            if tag == "br":
                parts.append("\n")
            elif isinstance(tag, str) and child not in self.page.dropped and depth < DEEPEST:
                self._verbatim(child, parts, depth + 1)
            parts.append(child.tail or "")

    def _row(self, row: Any, depth: int) -> None:
        """A table row: one line when every cell is one short line, else the cells' blocks one below the other."""
        self._flush()
        outer = self.out
        cells: list[Extracted] = []
        for cell in row:
            if not isinstance(cell.tag, str) or cell in self.page.dropped:
                continue
            self.out = Extracted()
            self._element(cell, depth + 1)
            self._flush()
            if self.out.lines:
                cells.append(self.out)
        self.out = outer
        if len(cells) > 1 and all(len(c.lines) == 1 and c.kinds[0] != "c" for c in cells):
            self.out.add(" | ".join(c.lines[0] for c in cells), "r")
            return
        for cell in cells:
            self.out.lines += cell.lines
            self.out.kinds += cell.kinds
