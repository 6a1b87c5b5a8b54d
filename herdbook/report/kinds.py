"""The kinds of stages as text, and as a JSON Schema with which an editor checks and completes a recipe."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from herdbook.fingerprint import plain
from herdbook.report.text import table
from herdbook.schema import fields
from herdbook.stages import KINDS, StageKind

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def all_kinds() -> list[str]:
    """One line per kind: what it takes, gives and does. Imports none of their modules."""
    rows = [(kind.name, _takes(kind), kind.gives, kind.help) for kind in KINDS.values()]
    return table(("kind", "takes", "gives", ""), rows)


def _takes(kind: StageKind) -> str:
    words = []
    for name, takes in kind.takes.items():
        many = " (several)" if takes.many else ""
        words.append(f"{name}{many}" if takes.required else f"[{name}{many}]")
    return ", ".join(words)


def one_kind(kind: StageKind) -> list[str]:
    """A kind's inputs and settings: name, type, default and help of each."""
    lines = [
        f"{kind.name}: {kind.help}",
        f"gives {', '.join((kind.gives, *kind.also))}" + _how(kind),
    ]
    for name, takes in kind.takes.items():
        need = "" if takes.required else ", may be left out"
        lines.append(f"from {name}: {'stages' if takes.many else 'a stage'} giving {takes.gives}{need}")
    settings = setting_lines(kind.settings_class())
    return [*lines, "", *settings] if settings else lines


def setting_lines(settings: type[BaseModel]) -> list[str]:
    """Settings as a table: name, type, default and help of each; no line where there are none."""
    rows = [
        (item.name, item.type, "required" if item.required else _default(item.default), item.help)
        for item in fields(settings)
    ]
    return table(("setting", "type", "default", ""), rows) if rows else []


def _how(kind: StageKind) -> str:
    if kind.expand:
        return "; becomes a stage for each of its steps, whose settings may stand beside its own"
    return "; continues where it was killed" if kind.resumes else ""


def _default(value: Any) -> str:
    text = json.dumps(plain(value), ensure_ascii=False) if value != "" else ""
    return text if len(text) <= 32 else text[:31] + "…"


def schema(kind: StageKind | None = None) -> dict[str, Any]:
    """The JSON Schema of one kind's stage, or of a whole recipe."""
    kinds = [kind] if kind else list(KINDS.values())
    keys, top = models_json_schema([(item.settings_class(), "validation") for item in kinds], title="herdbook")
    definitions = top.get("$defs", {})
    stages = {item.name: _stage(item, definitions, keys) for item in kinds}
    if kind:
        return {"$schema": DIALECT, **stages[kind.name], "$defs": definitions}
    compared = {"type": "string", "pattern": r"^\s*(>=|<=|==|>|<)\s*\S.*$"}
    words = {"aim": compared, "claim": {"type": "string"}}
    told = {"type": "object", "properties": words, "required": list(words), "additionalProperties": False}
    number = {"anyOf": [compared, told]}
    return {
        "$schema": DIALECT,
        "title": "herdbook recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": {
            "name": {"type": "string"},
            "about": {"type": "string"},
            "stages": {"type": "object", "minProperties": 1, "additionalProperties": {"oneOf": list(stages.values())}},
            "machine": {"type": "object"},
            "seed": {"type": "integer", "minimum": 0, "description": "of every stage that is given none"},
            "aims": {"type": "object", "additionalProperties": number},
        },
        "$defs": definitions,
    }


def _stage(kind: StageKind, definitions: dict[str, Any], keys: dict[Any, Any]) -> dict[str, Any]:
    """A stage's schema: its kind, what feeds it, and its settings side by side."""
    reference = keys[(kind.settings_class(), "validation")]["$ref"]
    settings = definitions[reference.rsplit("/", 1)[1]]
    inputs = {name: _input(takes.many) for name, takes in kind.takes.items()}
    needed = [name for name, takes in kind.takes.items() if takes.required]
    feeding: dict[str, Any] = {"type": "object", "properties": inputs, "additionalProperties": False}
    if needed:
        feeding["required"] = needed
    properties = {"kind": {"const": kind.name, "description": kind.help}, **settings.get("properties", {})}
    if inputs:
        properties["from"] = feeding
    return {
        "title": kind.name,
        "type": "object",
        "properties": properties,
        "required": ["kind", *(["from"] if needed else []), *settings.get("required", [])],
        "additionalProperties": {"type": "object"} if kind.expand else False,  # the settings of its steps
    }


def _input(many: bool) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "string", "description": "name of an earlier stage"}
    several = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
    return {"anyOf": [one, several]} if many else one
