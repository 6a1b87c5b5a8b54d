"""Reading a recipe: the whole of it is checked before anything runs, and all mistakes are told at once.

A recipe is a YAML file: `stages` in the order they run, each with its `kind`, what it is fed `from`, and its
settings beside them; `aims` over the measured figures; the `machine` that it is meant for; a `seed` for all stages that
are given none. Settings may be changed on the command line (`base.model.dim=256`) and may hold placeholders
(`${python_library}`, `${recipe}`, `${env:NAME:-default}`). Relative paths are relative to the current folder, as
everywhere on a command line; `${recipe}` is the recipe's.
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from herdbook import schema
from herdbook.aims import Aim, parse_aim
from herdbook.check import check_inputs, check_names, check_settings, validate
from herdbook.expand import expand
from herdbook.marked import Marked, Problem, parse, parse_value, read_scalar
from herdbook.metrics import is_pattern
from herdbook.settings import Settings, UserError
from herdbook.stages import KINDS, StageKind
from herdbook.train.devices import MachineSettings

TOP_KEYS = ("name", "about", "machine", "seed", "stages", "aims")
_STAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_PLACEHOLDER = re.compile(r"\$\$\{|\$\{([^}]*)\}")


class RecipeError(UserError):
    """All mistakes of a recipe; `problems` holds them in the order of their lines."""

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        unique = dict.fromkeys(problems)
        self.problems = sorted(unique, key=lambda item: item.line)
        count = "one mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        lines = "\n".join(f"  {item}" for item in self.problems)
        super().__init__(f"{path} has {count}; nothing was run:\n{lines}")


@dataclass(frozen=True)
class Stage:
    """One checked stage: its settings are valid and every input names an earlier stage that can feed it."""

    name: str
    kind: StageKind
    settings: Settings
    inputs: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Recipe:
    """A checked recipe."""

    path: Path
    name: str
    about: str
    stages: dict[str, Stage]
    aims: tuple[Aim, ...]
    machine: MachineSettings


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe with `stage.key=value` overrides; RecipeError tells every mistake in it."""
    problems: list[Problem] = []
    root = parse(_read_text(path), str(path), problems)
    if root is None or not isinstance(root.value, dict):
        if not problems:
            found = "empty" if root is None else f"{type(root.value).__name__} {root.value!r:.40}"
            problems.append(
                Problem(f"{path}:1", f"a recipe is a mapping with the key 'stages', and this is {found}", 1)
            )
        raise RecipeError(path, problems)
    top = root.value
    _unknown_keys(top, TOP_KEYS, "a recipe has no key", problems)
    raw = _raw_stages(root, problems)
    machine = {} if "machine" in raw else {"machine": top.get("machine") or Marked({}, root.origin, root.line)}
    seed = top.get("seed")
    for word in overrides:
        if word.startswith("seed=") and "seed" not in raw:
            seed = parse_value(word.removeprefix("seed="), f"command line, {word}", problems)
        elif word.startswith("machine.") and machine:
            machine = override(machine, word, problems)
        else:
            raw = override(raw, word, problems)
    raw = {name: node.map_text(_filler(path, problems)) for name, node in raw.items()}
    kinds = {name: kind for name, node in raw.items() if (kind := _kind(name, node, problems))}
    raw = _seeded(raw, kinds, seed, problems)
    raw, kinds = expand(raw, kinds, problems)
    raw = _seeded(raw, kinds, seed, problems)
    stages = dict(_stages(raw, kinds, problems))
    devices = _machine(machine.get("machine") or top.get("machine"), problems)
    aims = tuple(_aims(top.get("aims"), raw, problems))
    if problems:
        raise RecipeError(path, problems)
    name, about = _text(top.get("name"), path.stem), _text(top.get("about"), "")
    return Recipe(path, name, about, stages=stages, aims=aims, machine=devices)


def _seeded(
    raw: dict[str, Marked], kinds: dict[str, StageKind], seed: Marked | None, problems: list[Problem]
) -> dict[str, Marked]:
    """The stages, with the recipe's seed in each that has such a setting and is given none."""
    if seed is None:
        return raw
    if not isinstance(seed.value, int) or isinstance(seed.value, bool) or seed.value < 0:
        problems.append(seed.problem(f"'seed' is a whole number from 0 on, not {seed.bare()!r}"))
        return raw
    found = dict(raw)
    for name, kind in kinds.items():
        below = raw[name].value
        if isinstance(below, dict) and "seed" in kind.settings_class().model_fields and "seed" not in below:
            found[name] = replace(raw[name], value={**below, "seed": seed})
    return found


def _machine(node: Marked | None, problems: list[Problem]) -> MachineSettings:
    given = node.bare() if node is not None else {}
    if node is not None and not isinstance(given, dict):
        problems.append(node.problem(f"'machine' must be a mapping such as {{device: h100}}, not {given!r}"))
    elif node is not None:
        found = validate("machine", node, given, MachineSettings, "machine", problems)
        if isinstance(found, MachineSettings):
            return found
    return MachineSettings.model_validate({})


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = path.parent
        beside = sorted(item.name for item in folder.glob("*.yaml")) if folder.is_dir() else []
        raise UserError(f"there is no recipe {path}{schema.suggest(path.name, beside)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); a recipe is a YAML file") from None
    except OSError as error:
        raise UserError(f"the recipe {path} can't be read: {error.strerror}") from None


def _text(node: Marked | None, default: str) -> str:
    return default if node is None or node.value is None else str(node.value)


def _unknown_keys(found: dict[str, Marked], known: Iterable[str], said: str, problems: list[Problem]) -> None:
    for key, node in found.items():
        if key not in known:
            problems.append(node.problem(f"{said} {key!r}{schema.suggest(key, known)}"))


def _raw_stages(root: Marked, problems: list[Problem]) -> dict[str, Marked]:
    assert isinstance(root.value, dict)
    node = root.value.get("stages")
    if node is None or not isinstance(node.value, dict) or not node.value:
        problems.append((node or root).problem("'stages' must be a mapping from stage names to stages, at least one"))
        return {}
    raw = {}
    for name, stage in node.value.items():
        if not _STAGE_NAME.fullmatch(name):
            problems.append(stage.problem(f"a stage's name is letters, digits, '_' and '-', not {name!r}"))
        elif not isinstance(stage.value, dict):
            problems.append(stage.problem(f"stage {name!r} must be a mapping with a 'kind', not {stage.bare()!r}"))
        else:
            raw[name] = stage
    return raw


def override(raw: dict[str, Marked], word: str, problems: list[Problem]) -> dict[str, Marked]:
    """`raw` with one `stage.key=value` applied; the value is read as YAML, and a mapping is made where none stands."""
    origin = f"command line, {word}"
    target, equals, text = word.partition("=")
    stage, *keys = target.strip().split(".")
    if not equals or not keys or not all(keys):
        meant = f"; one more stage to run is --only {word}" if word in raw else ""
        problems.append(Problem(origin, f"an override is written STAGE.SETTING=VALUE, such as base.steps=100{meant}"))
        return raw
    value = parse_value(text, origin, problems)
    if stage not in raw:
        problems.append(Problem(origin, f"there is no stage {stage!r} in the recipe{schema.suggest(stage, raw)}"))
        return raw
    if value is None:
        return raw
    return {**raw, stage: _set(raw[stage], keys, value, stage, problems)}


def read_words(
    name: str, given: dict[str, Marked], words: Iterable[str], example: str, problems: list[Problem]
) -> Marked:
    """The settings of one stage from `SETTING=VALUE` words of a command line, over those that are `given`.

    UserError, with an `example` of what it should be, for a word that is no setting.
    """
    raw = {name: Marked(given, "command line")}
    for word in words:
        if "=" not in word:
            raise UserError(f"{word!r} is no setting; write SETTING=VALUE, such as {example}")
        raw = override(raw, f"{name}.{word}", problems)
    return raw[name]


def _set(node: Marked, keys: list[str], value: Marked, path: str, problems: list[Problem]) -> Marked:
    if not keys:
        return value
    key, rest, below = keys[0], keys[1:], node.value
    if below is None:
        below = {}
    if isinstance(below, dict):
        item = below.get(key, Marked(None, value.origin))
        return replace(node, value={**below, key: _set(item, rest, value, f"{path}.{key}", problems)})
    if isinstance(below, list) and key.isdecimal() and int(key) < len(below):
        items = list(below)
        items[int(key)] = _set(items[int(key)], rest, value, f"{path}.{key}", problems)
        return replace(node, value=items)
    held = f"a list of {len(below)} (its items are 0, 1, …)" if isinstance(below, list) else repr(node.bare())
    problems.append(value.problem(f"{path} is {held}, so there is nothing called {key!r} in it"))
    return node


def _filler(path: Path, problems: list[Problem]) -> Any:
    """A function that fills in the placeholders of one text; an unquoted one is then read as YAML again."""

    def fill(node: Marked, text: str) -> Any:
        def one(match: re.Match[str]) -> str:
            if match.group(1) is None:
                return "${"
            found = _placeholder(match.group(1), path)
            if isinstance(found, UserError):
                problems.append(node.problem(str(found)))
                return ""
            return found

        filled = _PLACEHOLDER.sub(one, text)
        return read_scalar(filled) if node.plain and filled != text else filled

    return fill


def _placeholder(name: str, path: Path) -> str | UserError:
    if name == "python_library":
        return sysconfig.get_paths()["stdlib"]
    if name == "recipe":
        return str(path.resolve().parent)
    if name.startswith("env:"):
        variable, has_default, default = name.removeprefix("env:").partition(":-")
        value = os.environ.get(variable) or (default if has_default else None)
        if value is not None:
            return value
        return UserError(
            f"the environment variable {variable!r} is not set; set it or write ${{env:{variable}:-default}}"
        )
    near = schema.suggest(name, ("python_library", "recipe", "env:NAME", "env:NAME:-default"))
    return UserError(f"there is no placeholder ${{{name}}}{near}")


def _stages(
    raw: dict[str, Marked], kinds: dict[str, StageKind], problems: list[Problem]
) -> Iterator[tuple[str, Stage]]:
    told: set[tuple[str, str]] = set()
    for name, kind in kinds.items():
        if kind.expand:
            continue  # it has a mistake that was told
        found: list[Problem] = []
        inputs = check_inputs(name, raw, kinds, found)
        settings = check_settings(name, raw[name], kind, inputs, found)
        check_names(name, raw, kinds, found)
        for item in found:
            # What is written once for several steps is told of the first.
            said = (item.where, item.message.replace(name, "")) if "." in name else (item.where, item.message)
            if said not in told:
                told.add(said)
                problems.append(item)
        if settings is not None:
            yield name, Stage(name, kind, settings, inputs)


def _kind(name: str, node: Marked, problems: list[Problem]) -> StageKind | None:
    assert isinstance(node.value, dict)
    kind = node.value.get("kind")
    if kind is None:
        problems.append(node.problem(f"stage {name!r} has no 'kind'{schema.suggest('', KINDS)}"))
    elif not isinstance(kind.value, str) or kind.value not in KINDS:
        word = str(kind.bare())
        problems.append(kind.problem(f"stage {name!r}: there is no kind {word!r}{schema.suggest(word, KINDS)}"))
    else:
        return KINDS[kind.value]
    return None


def _aims(node: Marked | None, raw: dict[str, Marked], problems: list[Problem]) -> Iterator[Aim]:
    if node is None or node.value is None:
        return
    if not isinstance(node.value, dict):
        problems.append(node.problem("'aims' must be a mapping from STAGE.METRIC to a comparison"))
        return
    for name, expression in node.value.items():
        try:
            aim = parse_aim(name, expression.bare())
        except UserError as error:
            problems.append(expression.problem(f"aim {name!r}: {error}"))
            continue
        for stage in (figure.split(".")[0] for figure in aim.astray(raw)):
            if not is_pattern(stage):
                near = schema.suggest(stage, raw)
                problems.append(expression.problem(f"aim {name!r}: there is no stage {stage!r}{near}"))
        yield aim
