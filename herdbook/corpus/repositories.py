"""Files of code repositories: under which licence they stand, and whether a person wrote them there (§3.1.2).

The licence of a file is that of the nearest LICENSE (or COPYING, UNLICENSE) above it, told by its words; generated,
minified and vendored files are told by their head, their lines and their path.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

LICENCE_FILE = re.compile(r"(?:UN)?LICEN[CS]E|COPYING|COPYRIGHT", re.IGNORECASE)
COPYLEFT = re.compile(
    r"GNU (?:LESSER |LIBRARY |AFFERO )?GENERAL PUBLIC|Mozilla Public License|Eclipse Public License"
    r"|European Union Public Licen[cs]e|Common Development and Distribution License"
    r"|Attribution-?\s?(?:NonCommercial-?\s?)?ShareAlike",
    re.IGNORECASE,
)
PERMISSIVE = re.compile(
    r"Permission is hereby granted, free of charge|Permission to use, copy, modify,? and(?:/or)? distribute"
    r"|Redistribution and use in source and binary forms|Apache License,?\s+Version 2|Boost Software License"
    r"|free and unencumbered software|PYTHON SOFTWARE FOUNDATION LICENSE|CC0 1\.0 Universal"
    r"|Creative Commons Attribution 4\.0|The zlib License|altered source versions must be plainly marked|Unlicense",
    re.IGNORECASE,
)
SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+ ()-]+)")
GENERATED = re.compile(
    r"^\W{0,8}(?:this (?:file|module|code) (?:is|was|has been) )?(?:code |file |auto-?\s?(?:matically )?)?generated"
    r" (?:by|from|using|with|code|file)|@generated"
    r"|do not (?:edit|modify)(?: this file| by hand| directly|\s*[.!]|\W*$)",
    re.IGNORECASE | re.MULTILINE,
)
_VENDORED = "vendor vendored _vendor node_modules third_party thirdparty 3rdparty external bower_components"
VENDORED = frozenset(_VENDORED.split())
HEAD = 1000
"""Characters in which a file says that it was generated."""
MINIFIED_LINE = 500
"""Mean characters per line above which code was not written by hand."""


@lru_cache(maxsize=100_000)
def licence_of(folder: Path, root: Path) -> str:
    """`permissive`, `copyleft` or `unknown`: what the nearest licence file at or above a folder says."""
    try:
        found = sorted(p for p in folder.iterdir() if LICENCE_FILE.match(p.name) and p.is_file())
        texts = [path.read_text(encoding="utf-8", errors="replace")[:20_000] for path in found]
    except OSError:
        texts = []
    if texts:
        return classify("\n".join(texts))
    return "unknown" if folder == root or root not in folder.parents else licence_of(folder.parent, root)


def classify(text: str) -> str:
    """Which kind of licence a text is; one that asks for the same licence goes before one that does not."""
    text = " ".join(text.split())
    return "copyleft" if COPYLEFT.search(text) else "permissive" if PERMISSIVE.search(text) else "unknown"


def file_licence(content: bytes, folder: Path, root: Path) -> str:
    """The licence of a file: what its own SPDX line says, else that of its repository."""
    spdx = SPDX.search(content[:2000].decode("utf-8", "replace"))
    if spdx:
        copyleft = re.search(r"GPL|MPL|EPL|EUPL|CDDL|-SA", spdx.group(1))
        return "copyleft" if copyleft and " OR " not in spdx.group(1) else "permissive"
    return licence_of(folder, root)


def is_generated(text: str) -> bool:
    """Whether a program wrote the code: it says so at its head, or its lines are too long for a person."""
    if GENERATED.search(text[:HEAD]):
        return True
    return len(text) > 2 * MINIFIED_LINE and len(text) / (text.count("\n") + 1) > MINIFIED_LINE


def is_vendored(url: str) -> bool:
    """Whether a path leads through a folder of others' code."""
    return not VENDORED.isdisjoint(url.lower().split("/")[:-1])
