"""MathML to one line of LaTeX: its own annotation where it carries one, else written from its presentation (§3.1.1).

Every element that lays a formula out has a writer of its own; one that is unknown, or has too few children, gives what
its children give. Binary operators and relations stand between spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import Any

from herdbook.corpus.mathml_symbols import (
    ABOVE,
    BELOW,
    BINARY,
    CLOSE,
    FENCES,
    FUNCTIONS,
    LARGE,
    LIMITS,
    OPEN,
    RELATIONS,
    VARIANTS,
    WIDE,
    sign,
)

DEPTH = 60
"""Below it, elements give their text."""
TALL = re.compile(r"\\(frac|binom|begin|sum|prod|int|sqrt)\b")
"""What brackets grow around."""
ATOM = re.compile(r"[^\\{}^_ ]|\\[A-Za-z]+|\\[{}|]|\\(math\w+|boldsymbol|text|operatorname){[^{}]*}|\d+")
MATRICES = {"()": "pmatrix", "[]": "bmatrix", "||": "vmatrix", "‖‖": "Vmatrix", "{}": "Bmatrix", "{": "cases"}


def linear_math(element: Any) -> str:
    """LaTeX of a `<math>` element (as lxml parses it, namespace or not)."""
    for node in element.iter():
        if _name(node) == "annotation" and "tex" in (node.get("encoding") or "").lower() and node.text:
            return " ".join(node.text.split())
    alt = element.get("alttext")
    if alt:
        return " ".join(alt.split())
    return " ".join(latex(element, 0).split())


def latex(node: Any, depth: int) -> str:
    """LaTeX of an element of a formula."""
    if depth > DEPTH:
        return _signs("".join(node.itertext()))
    name = _name(node)
    if name in ("mi", "mn", "mo", "mtext", "ms"):
        return _token(node, name)
    if name == "mspace":
        return "\\quad " if re.match(r"[1-9][\d.]*em", node.get("width") or "") else " "
    if name.startswith("annotation") or name in ("mphantom", "none", "mprescripts", "malignmark", "maligngroup"):
        return ""
    writer = WRITERS.get(name)
    children = _children(node)
    if writer is not None and (len(children) == EXACT[name] if name in EXACT else children or name == "mtable"):
        return writer(node, children, depth + 1)
    return _row(children, depth + 1, node.text)


def _name(node: Any) -> str:
    return node.tag.rpartition("}")[2].rpartition(":")[2].lower() if isinstance(node.tag, str) else ""


def _children(node: Any) -> list[Any]:
    return [child for child in node if isinstance(child.tag, str)]


def _text(node: Any) -> str:
    return "".join(node.itertext())


def _signs(text: str) -> str:
    return _joined(sign(character) for character in text)


def _token(node: Any, name: str) -> str:
    raw = _text(node)
    text = " ".join(raw.split())
    if name in ("mtext", "ms"):
        words = re.sub(r"([#$%&_{}])", r"\\\1", re.sub(r"[\s\u00a0]+", " ", raw).replace("\\", "\\backslash "))
        return f"\\text{{{words}}}" if words.strip() else " "
    if name == "mo":
        return FUNCTIONS.get(text) or _signs(text)
    if name == "mn":
        return _signs(text)
    variant = VARIANTS.get(node.get("mathvariant") or "")
    if text in FUNCTIONS:
        return FUNCTIONS[text]
    if len(text) > 1 and text.isalpha():
        return f"\\{variant or 'mathrm'}{{{text}}}"
    found = _signs(text)
    return f"\\{variant}{{{found}}}" if variant and variant != "mathrm" and found else found


def _joined(parts: Iterable[str]) -> str:
    """Pieces one after the other, with a space where a command would run into a letter."""
    found = ""
    for part in parts:
        apart = part[:1].isalpha() and re.search(r"\\[A-Za-z]+$", found)
        found += " " + part if apart else part
    return found


def _row(children: list[Any], depth: int, text: str | None = None) -> str:
    """Children one after the other; brackets around a table become its kind, and grow around what is tall."""
    parts = [_signs((text or "").strip())]
    place = 0
    while place < len(children):
        node = children[place]
        fence = _fence(node, OPEN)
        if fence and place + 1 < len(children):
            taken, written = _enclosed(children, place, fence, depth)
            if taken:
                parts.append(written)
                place += taken
                continue
        parts.append(_spaced(node, latex(node, depth), bool("".join(parts).strip())))
        place += 1
    return _joined(parts)


def _fence(node: Any, known: str) -> str:
    text = _text(node).strip() if _name(node) == "mo" else ""
    return text if text and text in known else ""


def _enclosed(children: list[Any], place: int, fence: str, depth: int) -> tuple[int, str]:
    """What begins with a bracket and is one thing with what it encloses: the children it takes, and its LaTeX."""
    inner = children[place + 1]
    close = _fence(children[place + 2], CLOSE) if place + 2 < len(children) else ""
    if _name(_bare(inner)) == "mtable":
        kind = MATRICES.get(fence + close) or (MATRICES.get(fence) if not close else None)
        if kind:
            return 2 + bool(close), _table(_bare(inner), depth, kind)
    if fence + close == "()" and _name(_bare(inner)) == "mfrac" and _flat(_bare(inner)):
        over, under = (latex(child, depth + 1) for child in _children(_bare(inner))[:2])
        return 3, f"\\binom{{{over.strip()}}}{{{under.strip()}}}"
    end, level = place + 1, 0
    while end < len(children):
        if (
            _fence(children[end], CLOSE)
            and CLOSE.index(_fence(children[end], CLOSE)) == OPEN.index(fence)
            and not level
        ):
            break
        level += (_fence(children[end], OPEN) == fence) - (_fence(children[end], CLOSE) == CLOSE[OPEN.index(fence)])
        end += 1
    if end == len(children) or "false" in (children[place].get("stretchy") or ""):
        return 0, ""
    written = _row(children[place + 1 : end], depth).strip()
    if not TALL.search(written):
        return 0, ""
    return end - place + 1, _grown(fence, _text(children[end]).strip(), written)


def _bare(node: Any) -> Any:
    """What a row of one element, or several in each other, holds."""
    while _name(node) in ("mrow", "mstyle", "mpadded") and len(_children(node)) == 1:
        (node,) = _children(node)
    return node


def _flat(fraction: Any) -> bool:
    return re.match(r"0(\D|$)", fraction.get("linethickness") or "") is not None and len(_children(fraction)) == 2


def _grown(left: str, right: str, inner: str) -> str:
    return f"\\left{FENCES.get(left, left)} {inner} \\right{FENCES.get(right, right)}"


def _spaced(node: Any, written: str, after: bool) -> str:
    """An operator between spaces where it stands between two things."""
    operator = _text(node).strip() if _name(node) == "mo" else ""
    if operator in RELATIONS or (operator in BINARY and after):
        return f" {written} "
    large = re.match(r"\\[a-z]+", written)
    return written + " " if operator in (",", ";") or (large and large[0] in LARGE.values()) else written


def _braced(written: str) -> str:
    written = written.strip()
    return written if len(written) == 1 else f"{{{written}}}"


def _base(written: str) -> str:
    """What carries an index: in braces unless it is one thing."""
    written = written.strip()
    return written if ATOM.fullmatch(written) or written[:1] + written[-1:] in ("()", "[]") else f"{{{written}}}"


def _scripts(base: str, below: str, above: str) -> str:
    below, above = below.strip(), above.strip()
    lower = f"_{_braced(below)}" if below else ""
    if above and not above.replace("\\prime", "").strip(" '"):
        return _base(base) + "'" * (above.count("\\prime") + above.count("'")) + lower
    return _base(base) + lower + (f"^{_braced(above)}" if above else "")


Children = list[Any]


def _fraction(node: Any, children: Children, depth: int) -> str:
    over, under = (latex(child, depth).strip() for child in children[:2])
    if _flat(node):
        return f"{{{over} \\atop {under}}}"
    if node.get("bevelled") == "true":
        return f"{_base(over)}/{_base(under)}"
    return f"\\frac{{{over}}}{{{under}}}"


def _root(node: Any, children: Children, depth: int) -> str:
    base, index = (latex(child, depth).strip() for child in children[:2])
    return f"\\sqrt[{index}]{{{base}}}"


def _square_root(node: Any, children: Children, depth: int) -> str:
    return f"\\sqrt{{{_row(children, depth, node.text).strip()}}}"


def _sub(node: Any, children: Children, depth: int) -> str:
    return _scripts(latex(children[0], depth), latex(children[1], depth), "")


def _sup(node: Any, children: Children, depth: int) -> str:
    return _scripts(latex(children[0], depth), "", latex(children[1], depth))


def _sub_sup(node: Any, children: Children, depth: int) -> str:
    base, below, above = (latex(child, depth) for child in children[:3])
    return _scripts(base, below, above)


def _many_scripts(node: Any, children: Children, depth: int) -> str:
    names = [_name(child) for child in children]
    border = names.index("mprescripts") if "mprescripts" in names else len(children)
    after, before = children[1:border], children[border + 1 :]
    written = latex(children[0], depth)
    for below, above in _pairs(after, depth):
        written = _scripts(written, below, above)
    return "".join(_scripts("", below, above) for below, above in _pairs(before, depth)) + written


def _pairs(scripts: Children, depth: int) -> list[tuple[str, str]]:
    """What stands below and above, pair by pair."""
    found = [latex(script, depth) for script in scripts]
    return list(zip_longest(found[::2], found[1::2], fillvalue=""))


def _limits(base: str) -> bool:
    """Whether what stands under and over it is written as its index."""
    base = base.strip()
    return base in LARGE.values() or base in LIMITS or base.startswith(("\\overbrace", "\\underbrace"))


def _over(node: Any, children: Children, depth: int) -> str:
    base, mark = latex(children[0], depth).strip(), "".join(_text(children[1]).split())
    accent = ABOVE.get(mark)
    if accent and not (accent == "vec" and base in RELATIONS.values()):
        return f"\\{accent if ATOM.fullmatch(base) else WIDE.get(accent, accent)}{{{base}}}"
    above = latex(children[1], depth).strip()
    if _limits(base):
        return f"{base}^{_braced(above)}"
    return f"\\xrightarrow{{{above}}}" if base in ("\\to", "\\longrightarrow") else f"\\overset{{{above}}}{{{base}}}"


def _under(node: Any, children: Children, depth: int) -> str:
    base, mark = latex(children[0], depth).strip(), "".join(_text(children[1]).split())
    if mark in BELOW:
        return f"\\{BELOW[mark]}{{{base}}}"
    below = latex(children[1], depth).strip()
    return f"{base}_{_braced(below)}" if _limits(base) else f"\\underset{{{below}}}{{{base}}}"


def _under_over(node: Any, children: Children, depth: int) -> str:
    base, below, above = (latex(child, depth).strip() for child in children[:3])
    if _limits(base):
        return _scripts(base, below, above)
    return f"\\underset{{{below}}}{{\\overset{{{above}}}{{{base}}}}}"


def _fenced(node: Any, children: Children, depth: int) -> str:
    left, right = ((node.get(side, usual) or "").strip() for side, usual in (("open", "("), ("close", ")")))
    if len(children) == 1 and _name(_bare(children[0])) == "mtable" and left + right in MATRICES:
        return _table(_bare(children[0]), depth, MATRICES[left + right])
    separators = "".join((node.get("separators", ",") or "").split())
    inner = ""
    for place, child in enumerate(children):
        between = separators[min(place - 1, len(separators) - 1)] + " " if place and separators else ""
        inner += _signs(between) + latex(child, depth).strip()
    if TALL.search(inner):
        return _grown(left or ".", right or ".", inner)
    return FENCES.get(left, left) + inner + FENCES.get(right, right)


def _table(node: Any, depth: int, kind: str = "") -> str:
    lines = []
    for line in _children(node):
        cells = _children(line)[_name(line) == "mlabeledtr" :] if _name(line) in ("mtr", "mlabeledtr") else [line]
        lines.append(" & ".join(latex(cell, depth + 1).strip() for cell in cells))
    kind = kind or ("aligned" if "right left" in (node.get("columnalign") or "") else "matrix")
    return f"\\begin{{{kind}}} " + " \\\\ ".join(lines) + f" \\end{{{kind}}}"


def _enclose(node: Any, children: Children, depth: int) -> str:
    inner, notation = _row(children, depth, node.text).strip(), node.get("notation") or ""
    for word, macro in (("box", "boxed"), ("strike", "cancel"), ("radical", "sqrt"), ("top", "overline")):
        if word in notation:
            return f"\\{macro}{{{inner}}}"
    return inner


def _first(node: Any, children: Children, depth: int) -> str:
    return latex(children[0], depth)


WRITERS: dict[str, Callable[[Any, Children, int], str]] = {
    "mfrac": _fraction, "msqrt": _square_root, "mroot": _root, "msub": _sub, "msup": _sup, "msubsup": _sub_sup,
    "mmultiscripts": _many_scripts, "mover": _over, "munder": _under, "munderover": _under_over, "mfenced": _fenced,
    "mtable": lambda node, _, depth: _table(node, depth), "menclose": _enclose, "semantics": _first, "maction": _first,
}  # fmt: skip
EXACT = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "mover": 2, "munder": 2, "msubsup": 3, "munderover": 3}
"""Children an element needs to be written as what it is."""
