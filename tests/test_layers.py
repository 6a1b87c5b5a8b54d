"""A lower row of the house never imports a higher one, and `world` is imported by `stages` alone (docs/index.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "herdbook"
ROWS = [
    {"settings", "steps", "files", "console"},
    {"model", "tokens", "corpus", "world"},
    {"train", "inference"},
    {"evaluate"},
    {"pretrain", "posttrain", "scaling"},
]
APART = {"model", "tokens", "corpus", "world"}
STAGES_APART = {"pretrain", "posttrain"}
TOP = len(ROWS)


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def row(name: str) -> int:
    return next((index for index, names in enumerate(ROWS) if name in names), TOP)


def imports(path: Path) -> set[str]:
    """The rooms of herdbook that a file imports, wherever in the file it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "herdbook" else [f"herdbook.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("herdbook.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for other in imports(path) - {here}:
        assert row(other) <= row(here), f"{here} must not import {other}, which stands above it"
        assert not (here in APART and other in APART), f"{here} and {other} meet only through files and tensors"
        assert not {here, other} <= STAGES_APART, f"{here} and {other} share what lies in train, tokens and evaluate"
        assert other != "world" or here == "stages", "only stages.py may import the world"
