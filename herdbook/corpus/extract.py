"""HTML to text: complete on content, precise on boilerplate, code and mathematics kept (§3.1.1).

The tree is parsed, what boilerplate.py marks is passed over, and the rest is written block by block: a line per
block, code verbatim, a table row as one line, formulas as LaTeX or read out. Markers of markdown are taken out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import compress

from herdbook.corpus.boilerplate import BLOCK, ExtractRules, Page
from herdbook.corpus.markdown import without_markers
from herdbook.corpus.phrases import LONGEST, no_text
from herdbook.corpus.strip import strip
from herdbook.corpus.tree import CODE, Tree, attributes

DEEPEST = 200
"""Tags from which a page without text is taken for one nested deeper than the parser goes."""
RULES = ExtractRules()
TAGS = re.compile("<[^<>]*>")
COPYRIGHT = re.compile(r"(?:©|\(c\)\s|copyright\b(?:\s*©|\s*\(c\))?\s+(?:\d{4}|by\b))", re.I)
MATH_IMAGE = re.compile(r"(?:^|[^a-z])(?:math|tex|latex|equation|formula|mwe-math)", re.IGNORECASE)


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


def extract(html: str, rules: ExtractRules = RULES) -> Extracted:
    """The content of a page. Never raises for a page's sake: one without content gives no lines."""
    html = strip(html)
    tree = Tree(html)
    writer = _Writer(tree)
    found = False
    if tree.tags:
        page = Page(tree, rules)
        found = page.text[0] > 0
        page.prune()
        page.drop_teasers()
        page.drop_other_stories()
        page.drop_empty_headings()
        scope = page.narrow()
        heading = page.heading_outside(scope)
        if heading is not None:
            writer.write(heading)
        writer.write(scope)
    result = Extracted(writer.lines, writer.kinds, tree.title)
    if not found and html.count("<") > DEEPEST:
        # Nested deeper than the parser goes: the words at least are kept.
        result.add(" ".join(TAGS.sub(" ", html).split()))
    return result


FLUSH, HEAD, HEAD_END, ROW, ROW_END, CELL, BREAK, SPACE, IMAGE, FORMULA, VERBATIM, GONE = range(1, 13)
ACTIONS = {form.format(tag): FLUSH for tag in BLOCK for form in ("{}", "/{}", "{}/")}
ACTIONS |= dict.fromkeys(CODE, VERBATIM) | dict.fromkeys(("button", "select", "input", "input/"), SPACE)
ACTIONS |= {"h1": HEAD, "/h1": HEAD_END, "br/": BREAK, "img/": IMAGE, "math": FORMULA}
ACTIONS |= {"tr": ROW, "/tr": ROW_END} | dict.fromkeys(("td", "/td", "th", "/th"), CELL)
"""What a token calls for; all others only go on with the line."""
INLINE = frozenset((BREAK, SPACE, IMAGE, FORMULA))
"""Those that go on with the line too."""
Lines = tuple[list[str], list[str]]


class _Writer:
    """Writes elements as lines: one per block, code verbatim, a table row as its cells with bars between."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.lines: list[str] = []
        self.kinds: list[str] = []
        self.buffer: list[str] = []
        """What the line under way holds besides the texts not looked at yet."""
        self.rows: list[tuple[Lines, list[Lines]]] = []
        """Of each table row that is open: the lines around it, and its cells so far."""
        self.kind = "t"

    def write(self, row: int) -> None:
        """Write an element of the tree."""
        tree, buffer = self.tree, self.buffer
        texts, gone, here, last = tree.texts, tree.gone, tree.opens[row], tree.closes[row]
        actions = list(map(ACTIONS.get, tree.names[:last]))
        for token in gone:
            if token < last:
                actions[token] = GONE
        left_out = here - 1  # up to this token
        for token in compress(range(last), actions):
            if token <= left_out:
                continue
            action = actions[token] or FLUSH
            if action == GONE:
                buffer += texts[here:token]
                here = left_out = gone[token]
            elif action in INLINE:
                buffer += texts[here:token]
                here = token
                self._inline(action, token)
            else:
                if buffer:
                    buffer += texts[here:token]
                    text = "".join(buffer)
                    buffer.clear()
                else:
                    text = texts[here] if token == here + 1 else "".join(texts[here:token])
                here = token
                if text and not text.isspace():
                    self._line(text)
                if action != FLUSH:
                    self._begin(action, token)
        self._line("".join([*buffer, *texts[here:last]]))
        buffer.clear()
        while self.rows:
            self._end_row()
        self.kind = "t"

    def _inline(self, action: int, token: int) -> None:
        """What stands in a line without being text."""
        if action == BREAK:
            self.buffer.append("\x00")
        elif action == SPACE:
            self.buffer.append(" ")
        elif action == IMAGE:
            self._image(token)
        elif action == FORMULA:
            self.buffer.append(f" {self.tree.whole.get(token, '')} ")

    def _begin(self, action: int, token: int) -> None:
        """What the rarer block tags call for."""
        if action == VERBATIM:
            self._code(token)
        elif action == ROW:
            self.rows.append(((self.lines, self.kinds), []))
            self.lines, self.kinds = [], []
        elif action == CELL:
            self._end_cell()
        elif action == ROW_END:
            self._end_row()
        else:
            self.kind = "h" if action == HEAD else "t"

    def _line(self, text: str) -> None:
        """Lines of a block, without what is no text."""
        for piece in text.split("\x00") if "\x00" in text else (text,):
            words = piece.split()
            if words:
                line = without_markers(" ".join(words))
                if len(line) < 200 and (
                    not line
                    or (line[0] in "©(cC" and COPYRIGHT.match(line))
                    or (len(line) <= LONGEST and no_text(line))
                ):
                    continue
                self.lines.append(line)
                self.kinds.append(self.kind)

    def _image(self, token: int) -> None:
        """An image of a formula is its alternative text."""
        found = attributes(self.tree.markup[token])
        alt = found.get("alt", "").strip()
        if not alt:
            return
        marks = f"{found.get('class', '')} {found.get('src', '')[:200]}"
        if MATH_IMAGE.search(marks) or alt.startswith(("\\", "$")) or "{\\" in alt:
            self.buffer.append(f" {alt} ")

    def _code(self, token: int) -> None:
        text = self.tree.whole.get(token, "").replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()
        if text.strip():
            found = text.split("\n")
            self.lines += found
            self.kinds += ["c"] * len(found)

    def _end_cell(self) -> None:
        """Between the cells of a row: what stands there is a cell too."""
        if self.rows and self.lines:
            self.rows[-1][1].append((self.lines, self.kinds))
            self.lines, self.kinds = [], []

    def _end_row(self) -> None:
        """A table row: one line when every cell is one short line, else the cells' blocks one below the other."""
        if not self.rows:
            return
        self._end_cell()
        (self.lines, self.kinds), cells = self.rows.pop()
        if len(cells) > 1 and all(len(lines) == 1 and kinds[0] != "c" for lines, kinds in cells):
            self.lines.append(" | ".join(lines[0] for lines, _ in cells))
            self.kinds.append("r")
            return
        for lines, kinds in cells:
            self.lines += lines
            self.kinds += kinds
