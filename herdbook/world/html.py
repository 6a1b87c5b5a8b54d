"""Blocks of an article as HTML, in the several ways in which real sites write the same thing.

A `Look` says how one site writes: highlighted or plain code, math as MathML or as a picture with the formula as its
alternative text, accents as bytes or as entities. Whatever the look, the text that a browser would show is the
block's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from html.entities import codepoint2name
from typing import Literal

from herdbook.world.article import Block


@dataclass(frozen=True)
class Look:
    """How one site writes the pieces of a page."""

    template: str  # name of the page's skeleton, see sites.py
    code: Literal["plain", "spans", "lines"] = "plain"
    math: Literal["mathml", "image"] = "mathml"
    entities: bool = False  # accents as named entities
    wrapped: bool = False  # long lines of text broken in the source, as hand-written pages have them
    table_head: bool = True  # <thead> and <th>, else plain cells
    answers: Literal["breaks", "paragraphs"] = "breaks"  # lines of a question and its answer


_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_PYTHON = re.compile(
    r"(?P<s>\"\"\".*?\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')|(?P<c>\#[^\n]*)"
    r"|(?P<k>\b(?:and|as|assert|break|class|continue|def|elif|else|except|for|from|if|import|in|is|lambda|not|or|pass|raise"
    r"|return|try|while|with|yield|None|True|False)\b)|(?P<n>\b\d+(?:\.\d+)?\b)",
    re.DOTALL,
)
_FORMULA = re.compile(r"(?P<n>\d+(?:\.\d+)?)|(?P<i>[^\W\d_]+)|(?P<o>\S)")
_MATH_TAG = {"n": "mn", "i": "mi", "o": "mo"}


def _entity(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"&{codepoint2name[code]};" if code in codepoint2name else f"&#{code};"


def text_html(text: str, look: Look) -> str:
    """A line of text, escaped, as this site writes accents and breaks source lines."""
    written = escape(text, quote=False)
    if look.entities and not written.isascii():
        written = _NON_ASCII.sub(_entity, written)
    if look.wrapped:
        words = written.split(" ")
        written = "\n".join(" ".join(words[start : start + 13]) for start in range(0, len(words), 13))
    return written


def _highlight(code: str) -> str:
    """Python source in <span> elements by kind of token; every character stays."""
    pieces, end = [], 0
    for match in _PYTHON.finditer(code):
        pieces.append(escape(code[end : match.start()], quote=False))
        pieces.append(f'<span class="{match.lastgroup}">{escape(match.group(), quote=False)}</span>')
        end = match.end()
    pieces.append(escape(code[end:], quote=False))
    return "".join(pieces)


def code_html(code: str, look: Look) -> str:
    """A `<pre>` block whose text is `code` to the character."""
    if look.code == "spans":
        return f'<div class="highlight"><pre><code class="language-python">{_highlight(code)}</code></pre></div>'
    if look.code == "lines":
        lines = (f'<span class="line">{_highlight_line(line)}</span>' for line in code.split("\n"))
        return '<pre class="code"><code>' + "\n".join(lines) + "</code></pre>"
    return f"<pre>{escape(code, quote=False)}</pre>"


def _highlight_line(line: str) -> str:
    head, mark, comment = line.partition("  # ")
    return _highlight(head) + (f'<span class="c">{escape(mark + comment, quote=False)}</span>' if mark else "")


def math_html(block: Block, look: Look) -> str:
    """A formula standing alone; its LaTeX is in the annotation (MathML) or in the picture's alternative text."""
    if look.math == "image":
        return f'<p><img class="tex" src="/math/{abs(hash_text(block.latex)):x}.png" alt="{escape(block.latex)}"></p>'
    tokens = "".join(
        f"<{_MATH_TAG[kind]}>{escape(match.group())}</{_MATH_TAG[kind]}>"
        for match in _FORMULA.finditer(block.text or block.latex)
        if (kind := match.lastgroup)
    )
    return (
        '<div class="equation"><math xmlns="http://www.w3.org/1998/Math/MathML" display="block"><semantics>'
        f'<mrow>{tokens}</mrow><annotation encoding="application/x-tex">{escape(block.latex, quote=False)}</annotation>'
        "</semantics></math></div>"
    )


def hash_text(text: str) -> int:
    """A small number that is the same for the same text on every machine (FNV-1a, 32 bits)."""
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def _list_html(block: Block, look: Look) -> str:
    tag = "ol" if hash_text(block.items[0][0] if block.items else "") % 3 == 0 else "ul"
    items = "\n".join(f"<li>{text_html(' '.join(item), look)}</li>" for item in block.items)
    return f"<{tag}>\n{items}\n</{tag}>"


def _table_html(block: Block, look: Look) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{text_html(cell, look)}</{tag}>" for cell in cells) + "</tr>"

    if not block.items:
        return ""
    head, body = block.items[0], block.items[1:]
    if look.table_head:
        rows = "\n".join(row(cells, "td") for cells in body)
        return f'<table class="data">\n<thead>{row(head, "th")}</thead>\n<tbody>\n{rows}\n</tbody></table>'
    rows = "\n".join(row(cells, "td") for cells in block.items)
    return f'<table border="1" cellpadding="3">\n{rows}\n</table>'


def _answers_html(block: Block, look: Look) -> str:
    lines = [text_html(line, look) for line in block.text.split("\n")]
    if look.answers == "paragraphs":
        return '<div class="qa">' + "\n".join(f"<p>{line}</p>" for line in lines) + "</div>"
    return "<p>" + "<br>\n".join(lines) + "</p>"


_RENDER: dict[str, Callable[[Block, Look], str]] = {
    "heading": lambda block, look: f"<h2>{text_html(block.text, look)}</h2>",
    "paragraph": lambda block, look: f"<p>{text_html(block.text, look)}</p>",
    "list": _list_html,
    "table": _table_html,
    "code": lambda block, look: code_html(block.text, look),
    "math": math_html,
    "qa": _answers_html,
}


def block_html(block: Block, look: Look) -> str:
    """One block as this site writes it."""
    return _RENDER[block.kind](block, look)
