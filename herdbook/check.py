"""Checking one stage of a recipe: its settings against its kind's class, its inputs against the other stages.

Every mistake is added to `problems` with the line it stands in, its value and the nearest right name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from herdbook import schema
from herdbook.marked import Marked, Problem
from herdbook.settings import Settings, UserError
from herdbook.stages import StageKind, Takes

RESERVED = ("kind", "from")


def check_settings(
    name: str, node: Marked, kind: StageKind, inputs: Iterable[str], problems: list[Problem]
) -> Settings | None:
    """The valid settings of a stage, or None; `inputs` are those that something feeds."""
    assert isinstance(node.value, dict)
    given = {key: item.bare() for key, item in node.value.items() if key not in RESERVED}
    wanted = kind.settings_class()
    if kind.either and not any(key in inputs or given.get(key) for key in kind.either):
        ways = [f"'from: {{{key}: …}}'" for key in kind.either if key in kind.takes]
        ways += [f"the setting {key!r}" for key in kind.either if key in wanted.model_fields]
        problems.append(node.problem(f"stage {name!r} needs {' or '.join(ways)}"))
    return validate(name, node, given, wanted, f"kind {kind.name}", problems)


def validate(
    name: str, node: Marked, given: dict[str, Any], wanted: type[Settings], owner: str, problems: list[Problem]
) -> Settings | None:
    """`given` as settings of the class `wanted`, or None; paths marked as inputs must exist.

    Mistakes are told of `name` at their place in `node`; `owner` is who has such settings, in words.
    """
    try:
        # By way of JSON, where strict means: a text is never taken for a number, while a path may be a text.
        settings = wanted.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        problems += [_setting_problem(name, node, owner, wanted, item) for item in _told_once(error, node)]
        return None
    except UserError as error:
        problems.append(node.problem(f"{name}: {error}"))
        return None
    for location, path in schema.source_paths(settings).items():
        if not path.exists():
            beside = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
            near = schema.suggest(path.name, beside) if "did you mean" in schema.suggest(path.name, beside) else ""
            where = node.at(location)
            problems.append(where.problem(f"{_path(name, location)}: there is no file or folder {str(path)!r}{near}"))
    return settings


def _told_once(error: ValidationError, node: Marked) -> Iterator[ErrorDetails]:
    """The errors of a validation; of a union's many complaints about one value only the first.

    Where one branch of a union complains of the whole value and another of something within it, the other was meant;
    so was the one that took it for what it is and found it impossible.
    """
    found = [(_real(item, node), item) for item in error.errors(include_url=False)]
    found.sort(key=lambda one: one[1]["type"] not in ("value_error", "assertion_error"))
    seen: set[schema.Location] = set()
    for location, item in found:
        branch = item["type"] != "extra_forbidden" and len(item["loc"]) > len(location)
        deeper = any(len(other) > len(location) and other[: len(location)] == location for other, _ in found)
        if location not in seen and not (branch and deeper):
            seen.add(location)
            yield item


def _real(error: ErrorDetails, node: Marked) -> schema.Location:
    """Where an error stands, without the names of union branches (`int`, `list[str]`, …) that pydantic adds."""
    found: list[str | int] = []
    for step in error["loc"]:
        below = node.at(tuple(found)).value
        if (isinstance(below, dict) and str(step) in below) or (isinstance(below, list) and isinstance(step, int)):
            found.append(step)
    return (*found, error["loc"][-1]) if error["type"] == "missing" else tuple(found)


def _setting_problem(name: str, node: Marked, owner: str, wanted: type[Settings], error: ErrorDetails) -> Problem:
    location = _real(error, node)
    here = node.at(location)
    at = _path(name, location)
    if error["type"] == "extra_forbidden":
        known = schema.names_at(wanted, location[:-1])
        word = str(location[-1])
        return here.problem(f"{at}: {owner} has no such setting{_near(word, known, wanted, location)}")
    if error["type"] == "missing":
        needed = next((item for item in schema.fields(wanted) if item.name == at.removeprefix(f"{name}.")), None)
        told = f": {needed.help}" if needed and needed.help else ""
        return here.problem(f"{at} must be given{told}")
    value = error.get("input")
    said = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if error["type"] in ("value_error", "assertion_error"):
        shown = "" if isinstance(value, dict) or repr(value) in said else f" (it is {_shown(value)})"
        return here.problem(f"{at}: {said}{shown}")
    said = said.replace("Input should be", "must be").replace("Input should", "must")
    choices = [
        part.strip("' ") for part in str(error.get("ctx", {}).get("expected", "")).replace(" or ", ",").split(",")
    ]
    near = schema.suggest(str(value), choices) if error["type"] in ("literal_error", "enum") else ""
    near = near if "did you mean" in near else ""
    return here.problem(f"{at}: {said}, not {_shown(value)}{near}")


def _near(word: str, known: list[str], wanted: type[Settings], location: schema.Location) -> str:
    """The nearest setting; a setting of the same name that stands deeper is nearer than a similar one here."""
    deeper = [item.name for item in schema.fields(wanted) if item.name.split(".")[-1] == word]
    prefix = ".".join(str(step) for step in location[:-1])
    if deeper and deeper[0] != f"{prefix}.{word}".lstrip("."):
        return f"; did you mean {deeper[0]!r}?"
    return schema.suggest(word, known)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def _path(name: str, location: schema.Location) -> str:
    return ".".join([name, *map(str, location)])


def check_inputs(
    name: str, raw: dict[str, Marked], kinds: dict[str, StageKind], problems: list[Problem]
) -> dict[str, tuple[str, ...]]:
    """Input name → names of the stages that feed it; each must come earlier and give what is taken."""
    node, kind = raw[name], kinds[name]
    assert isinstance(node.value, dict)
    given = node.value.get("from", Marked({}, node.origin, node.line))
    if not isinstance(given.value, dict):
        said = f"stage {name!r}: 'from' must be a mapping from inputs to stages, such as {_example(kind)}"
        problems.append(given.problem(said))
        return {}
    inputs = {}
    for key, fed in given.value.items():
        takes = kind.takes.get(key)
        if takes is None:
            near = schema.suggest(key, kind.takes) or "; it takes nothing"
            problems.append(fed.problem(f"{name}.from.{key}: kind {kind.name} takes no {key!r}{near}"))
            continue
        feeders = _feeders(f"{name}.from.{key}", fed, takes, problems)
        good = [feeder for feeder, where in feeders if _can_feed(name, key, feeder, where, takes, raw, kinds, problems)]
        if good:
            inputs[key] = tuple(good)
    for key, takes in kind.takes.items():
        if takes.required and key not in given.value:
            able = [other for other, held in kinds.items() if held.can_give(takes.gives) and other != name]
            told = f"; {', '.join(able)} can" if able else f", and no stage here gives {takes.gives}"
            problems.append(node.problem(f"stage {name!r} must be fed {key!r} by 'from'{told}"))
    return inputs


def _example(kind: StageKind) -> str:
    return "{" + ", ".join(f"{key}: STAGE" for key in kind.takes) + "}"


def _feeders(at: str, fed: Marked, takes: Takes, problems: list[Problem]) -> Iterator[tuple[str, Marked]]:
    items = fed.value if isinstance(fed.value, list) else [fed]
    if isinstance(fed.value, list) and not takes.many:
        problems.append(fed.problem(f"{at} takes one stage, not a list"))
    if not items:
        problems.append(fed.problem(f"{at} is an empty list; name at least one stage or leave it out"))
    seen: set[str] = set()
    for item in items:
        if not isinstance(item.value, str):
            problems.append(item.problem(f"{at} must name a stage, not {item.bare()!r}"))
        elif item.value in seen:
            problems.append(item.problem(f"{at} names the stage {item.value!r} twice"))
        else:
            seen.add(item.value)
            yield item.value, item


def _can_feed(
    name: str,
    key: str,
    feeder: str,
    where: Marked,
    takes: Takes,
    raw: dict[str, Marked],
    kinds: dict[str, StageKind],
    problems: list[Problem],
) -> bool:
    at = f"{name}.from.{key}"
    able = [other for other, kind in kinds.items() if kind.can_give(takes.gives) and other != name]
    if feeder not in raw:
        problems.append(where.problem(f"{at}: there is no stage {feeder!r}{schema.suggest(feeder, able or raw)}"))
    elif feeder == name:
        problems.append(where.problem(f"{at}: stage {name!r} is fed by itself"))
    elif list(raw).index(feeder) > list(raw).index(name):
        circle = _circle(name, feeder, raw)
        told = (
            f"in a circle ({circle})" if circle else f"by {feeder!r}, which comes after it; write {feeder!r} above it"
        )
        problems.append(where.problem(f"{at}: stage {name!r} is fed {told}"))
    elif feeder in kinds and not kinds[feeder].can_give(takes.gives):
        gives = kinds[feeder].gives
        told = f"; {', '.join(able)} can" if able else ""
        problems.append(where.problem(f"{at} takes {takes.gives}, and {feeder!r} gives {gives}{told}"))
    else:
        return feeder in kinds
    return False


def check_names(name: str, raw: dict[str, Marked], kinds: dict[str, StageKind], problems: list[Problem]) -> None:
    """A setting whose keys are names of token sets and the like must use the names that its input will have."""
    for setting, source in kinds[name].keys_from.items():
        node = raw[name].at((setting,))
        if node is raw[name] or not isinstance(node.value, dict):
            continue
        feeder = raw[name].at(("from", source)).bare()
        if kinds[name].takes[source].keyed:
            owner, names = "from", feeder if isinstance(feeder, list) else [feeder]
        elif isinstance(feeder, str) and feeder in kinds:
            owner, names = repr(feeder), _names_within(raw[feeder], kinds[feeder])
        else:
            continue
        for key, value in node.value.items():
            if names and key not in names:
                near = schema.suggest(key, names)
                problems.append(value.problem(f"{name}.{setting}: {owner} has no set {key!r}{near}"))


def _names_within(node: Marked, kind: StageKind) -> list[str]:
    """The names of the stages that feed an input whose names matter."""
    names: list[str] = []
    for key, takes in kind.takes.items():
        if takes.keyed:
            fed = node.at(("from", key)).bare()
            names += fed if isinstance(fed, list) else [fed]
    return names


def _circle(name: str, feeder: str, raw: dict[str, Marked]) -> str:
    """The way from `feeder` back to `name`, in words; empty when there is none."""
    ways = [[feeder]]
    seen = {feeder}
    while ways:
        way = ways.pop()
        for below in _fed_by(raw[way[-1]]):
            if below == name:
                return " ← ".join([name, *way, name])
            if below in raw and below not in seen:
                seen.add(below)
                ways.append([*way, below])
    return ""


def _fed_by(node: Marked) -> Iterator[str]:
    given = node.bare().get("from")
    for fed in given.values() if isinstance(given, dict) else ():
        yield from [item for item in (fed if isinstance(fed, list) else [fed]) if isinstance(item, str)]
