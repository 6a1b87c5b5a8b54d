"""MathML to one line of text: its LaTeX annotation where it carries one, else read out from left to right."""

from __future__ import annotations

from typing import Any

DEPTH = 60


def linear_math(element: Any) -> str:
    """Text of a `<math>` element (as lxml parses it, namespace or not)."""
    for node in element.iter():
        if _name(node) == "annotation" and "tex" in (node.get("encoding") or "").lower() and node.text:
            return " ".join(node.text.split())
    alt = element.get("alttext")
    if alt:
        return " ".join(alt.split())
    return " ".join(_linear(element, 0).split())


def _name(node: Any) -> str:
    return node.tag.rpartition("}")[2].rpartition(":")[2].lower() if isinstance(node.tag, str) else ""


def _group(text: str) -> str:
    return text if len(text) <= 1 or text.isalnum() else f"({text})"


def _linear(node: Any, depth: int) -> str:
    if depth > DEPTH:
        return " ".join(node.itertext())
    name = _name(node)
    if name.startswith("annotation"):
        return ""
    if name == "mo":
        operator = (node.text or "").strip()
        return f" {operator} " if operator in set("+-−=<>≤≥≠±×·→⇒∈≈") else operator
    if name in ("mi", "mn", "mtext", "ms"):
        return " ".join("".join(node.itertext()).split())
    parts = [_linear(child, depth + 1) for child in node if isinstance(child.tag, str)]
    if name == "mfrac" and len(parts) == 2:
        return f"{_group(parts[0].strip())}/{_group(parts[1].strip())}"
    if name in ("msup", "mover") and len(parts) == 2:
        return f"{parts[0]}^{_group(parts[1].strip())}"
    if name in ("msub", "munder") and len(parts) == 2:
        return f"{parts[0]}_{_group(parts[1].strip())}"
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return f"{parts[0]}_{_group(parts[1].strip())}^{_group(parts[2].strip())}"
    if name == "msqrt":
        return f"sqrt({''.join(parts).strip()})"
    if name == "mroot" and len(parts) == 2:
        return f"root({parts[0].strip()}, {parts[1].strip()})"
    if name == "mtr":
        return ", ".join(part.strip() for part in parts) + "; "
    return (node.text or "").strip() + "".join(parts)
