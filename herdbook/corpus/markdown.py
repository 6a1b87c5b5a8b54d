"""Takes markdown's markers out of web text, where they are noise that hurts (§3.1.1); code never comes here.

Many pages show markdown that nobody rendered. Only what can hardly be anything else is taken for a marker: powers,
keyword arguments and Python's `__names__` in prose stay as they are.
"""

from __future__ import annotations

import re

MARKERS = frozenset("*#[`~=-")
"""Characters one of which a marker of a whole line begins with."""
FENCE = re.compile(r"(?:```|~~~)[\w+-]*|={4,}|-{4,}|\*{3,}|(?:[-*_] ){2,}[-*_]")
"""Whole lines: fences of code, underlines of headings, rules."""
HEADING = re.compile(r"(?:#{2,6}\s+(?=\w)|#\s+(?=[A-ZÀ-ÞА-Я]))")
STRONG = re.compile(r"(?<![\w*])(\*{2,3})(?=[^\s*])([^*]{1,300}?)(?<=[^\s*])\1(?![\w*])")
LINK = re.compile(r"!?\[([^\[\]]{1,300})\]\((?:https?://|mailto:|/|#|\./)[^()\s]*(?:\s+\"[^\"]*\")?\)")
SPAN = re.compile(r"(?<![`\w])`([^`'\s](?:[^`']{0,200}[^`'\s])?)`(?![`\w])")


def without_markers(line: str) -> str:
    """A line of prose without markers of headings, strong text, links and code spans; empty where it was one marker."""
    if line[:1] not in MARKERS and "`" not in line and "**" not in line and "](" not in line:
        return line
    if FENCE.fullmatch(line):
        return ""
    heading = HEADING.match(line)
    if heading:
        line = line[heading.end() :].rstrip("#").rstrip()
    if "](" in line:
        line = LINK.sub(r"\1", line)
    if "**" in line:
        line = STRONG.sub(r"\2", line)
    return SPAN.sub(r"\1", line) if "`" in line else line
