"""What a settings class tells about itself: its fields with help, types in words, names near a mistyped one.

`herdbook kinds` prints it, the recipe's error messages suggest from it, and the book finds with it the paths
whose contents belong to an entry's id.
"""

from __future__ import annotations

import difflib
import enum
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from herdbook.settings import Settings, SourcePath

Location = tuple[str | int, ...]

_UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True)
class Field:
    """One setting as its help shows it."""

    name: str
    type: str
    default: Any
    required: bool
    help: str


def suggest(word: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest of `names`, or what there is to choose from when none is near."""
    names = list(names)
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {folded[near[0]]!r}?"
    if not names:
        return ""
    return "; there is " + ", ".join(names) if len(names) <= 12 else ""


def fields(settings: type[BaseModel], prefix: str = "") -> Iterator[Field]:
    """All settings of a class; those of nested classes follow theirs with dotted names."""
    for name, info in settings.model_fields.items():
        nested = nested_settings(info.annotation)
        default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
        shown = "" if isinstance(default, BaseModel) else default
        help_line = " ".join((info.description or "").split())
        yield Field(prefix + name, type_words(info.annotation), shown, info.is_required(), help_line)
        for below in nested:
            yield from fields(below, f"{prefix}{name}.")


def nested_settings(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that stand directly or in lists, mappings and unions within an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in nested_settings(part)]


def names_at(settings: type[BaseModel], location: Location) -> list[str]:
    """The settings known at a place such as `("model", "dim")`'s parent `("model",)`."""
    classes: list[type[BaseModel]] = [settings]
    for step in location:
        below = [found for held in classes for found in _step(held, step)]
        classes = below or classes
    return sorted({name for held in classes for name in held.model_fields})


def _step(settings: type[BaseModel], step: str | int) -> list[type[BaseModel]]:
    info = settings.model_fields.get(str(step))
    return nested_settings(info.annotation) if info else []


def type_words(annotation: Any) -> str:
    """A type as a person says it: `int or none`, `list of text`, `one of a, b`."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_words(parts[0])
    if origin in _UNIONS:
        return " or ".join(type_words(part) for part in parts)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(part) for part in parts)
    if origin in (list, tuple, set, frozenset) or annotation in (list, tuple, set):
        inner = [part for part in parts if part is not Ellipsis]
        if origin is tuple and inner and Ellipsis not in parts:
            return "(" + ", ".join(type_words(part) for part in inner) + ")"
        return "list of " + type_words(inner[0]) if inner else "list"
    if origin is dict or annotation is dict:
        return f"mapping of {type_words(parts[0])} to {type_words(parts[1])}" if parts else "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(str(item.value) for item in annotation)
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


_NAMES: dict[Any, str] = {str: "text", Path: "path", type(None): "none", bool: "true or false", Any: "anything"}


def source_paths(settings: Settings) -> dict[Location, Path]:
    """Every path in these settings that is marked as an input, with the place it stands at."""
    return dict(_model_sources(settings, ()))


def _model_sources(settings: BaseModel, location: Location) -> Iterator[tuple[Location, Path]]:
    for name, info in type(settings).model_fields.items():
        yield from _sources(_annotation(info), getattr(settings, name), (*location, name))


def _annotation(info: FieldInfo) -> Any:
    """The whole annotation of a field; pydantic takes the outermost metadata off."""
    return typing.Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _sources(annotation: Any, value: Any, location: Location) -> Iterator[tuple[Location, Path]]:
    if isinstance(value, BaseModel):
        yield from _model_sources(value, location)
        return
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        if any(isinstance(mark, SourcePath) for mark in parts[1:]) and isinstance(value, Path):
            yield location, value
        else:
            yield from _sources(parts[0], value, location)
    elif origin in _UNIONS:
        found: dict[Location, Path] = {}
        for part in parts:
            found |= dict(_sources(part, value, location))
        yield from found.items()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _sources(parts[1] if len(parts) == 2 else Any, item, (*location, str(key)))
    elif isinstance(value, (list, tuple)):
        fixed = origin is tuple and Ellipsis not in parts and len(parts) == len(value)
        for index, item in enumerate(value):
            yield from _sources((parts[index] if fixed else parts[0]) if parts else Any, item, (*location, index))
