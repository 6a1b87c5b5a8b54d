"""Takes scripts, styles and comments off a page before it is parsed: half of many pages, and never their text.

One pass from left to right, as a browser's tokenizer would meet them, so that a comment inside a script or a script
inside a comment ends where it should. Each search goes on from where the last one ended, so time is linear in the page
however it is broken. What is opened and never closed is left to the parser.
"""

from __future__ import annotations

import re
from html import escape

NAMES = ("script", "style", "svg", "noscript", "template", "iframe", "select", "textarea", "xmp", "plaintext")
OPEN = re.compile(rf"<(?:!--|\?[^<>]*>|(?=[sStTiInNxXpP][cCtTvVeEoOfFmMlL])((?i:{'|'.join(NAMES)}))\b[^>]{{0,4000}}>)")
CLOSE = {name: re.compile(rf"</{name}\b[^>]*>", re.IGNORECASE) for name in NAMES}
INSIDE = {name: re.compile(rf"<{name}\b", re.IGNORECASE) for name in ("svg", "template", "select")}
MATH = "math/tex"
FORMULA = "math-tex"
"""The element that a formula in a script is made, in which it is text like any other."""
KEPT = frozenset({"textarea", "xmp", "plaintext"})
"""Elements whose insides are text and not markup: passed over whole, and not touched."""
NESTING = frozenset(INSIDE)
"""Elements that are markup inside: taken off only when none of their kind is inside."""


def strip(html: str) -> str:
    """The page without scripts, styles, drawings and comments; formulas in scripts are text."""
    pieces: list[str] = []
    kept_to = position = 0
    closes: dict[str, tuple[int, int]] = {}  # where the next end tag of each kind was found, at -1 if nowhere
    while True:
        start = OPEN.search(html, position)
        if start is None:
            break
        name = (start.group(1) or "").lower()
        position = start.end()
        if html[start.start() + 1] == "?":  # an instruction, which browsers take for a comment
            pieces.append(html[kept_to : start.start()])
            kept_to = position
            continue
        close = closes.get(name, (0, 0))
        if 0 <= close[0] < position:
            close = closes[name] = _close(html, name, position)
        if close[0] < 0 or start.group().endswith("/>"):
            continue
        if name in NESTING and INSIDE[name].search(html, position, close[0]):
            continue
        position = close[1]
        if name in KEPT:
            continue
        pieces.append(html[kept_to : start.start()])
        if name == "script" and MATH in start.group().lower():
            pieces.append(f"<{FORMULA}> {escape(html[start.end() : close[0]])} </{FORMULA}>")
        kept_to = position
    if not pieces:
        return html
    pieces.append(html[kept_to:])
    return "".join(pieces)


def _close(html: str, name: str, position: int) -> tuple[int, int]:
    """Start and end of the end tag of a kind of element; (-1, -1) where there is none."""
    if not name:
        start = html.find("-->", position)
        return (start, start + 3) if start >= 0 else (-1, -1)
    start = html.find("</" + name, position)
    if start < 0 or html.find("<" + name, position, start) >= 0:
        # Perhaps the end is spelled in capitals, and what was found ends another of the kind.
        close = CLOSE[name].search(html, position)
        return close.span() if close else (-1, -1)
    end = html.find(">", start)
    return (start, end + 1) if end >= 0 else (-1, -1)
