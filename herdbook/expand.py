"""Kinds that stand for several stages: what they become before anything else of a recipe is looked at.

A stage of such a kind (`posttrain`) is written as any other. Its kind's function names the steps; each becomes an
ordinary stage with an entry of its own, so that a pedigree shows it and a killed run goes on with it. The last step
bears the written stage's name, so whoever is fed by that stage gets what the last step gives.
Beside the kind's own settings stand those of its steps: `sft: {…}` for every step that is like `sft`, and
`round2: {sft: {…}}` for the one of that name, which wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from herdbook import schema
from herdbook.check import RESERVED, check_inputs, validate
from herdbook.marked import Marked, Problem
from herdbook.settings import Settings, UserError
from herdbook.stages import KINDS, StageKind, load
from herdbook.steps import Expansion, Step

T = TypeVar("T")


def expand(
    raw: dict[str, Marked], kinds: dict[str, StageKind], problems: list[Problem]
) -> tuple[dict[str, Marked], dict[str, StageKind]]:
    """The stages with every one that stands for several replaced by its steps.

    One with a mistake in it is left as it is, and its mistakes are added to `problems`.
    """
    for name, kind in list(kinds.items()):
        if not kind.expand:
            continue
        steps = _steps(name, raw, kinds, problems)
        if steps is None:
            continue
        made = {step.name: _stage(raw[name], step, name) for step in steps}
        raw = dict(_replaced(raw, name, made))
        kinds = dict(_replaced(kinds, name, {step.name: KINDS[step.kind] for step in steps}))
    return raw, kinds


def _replaced(found: dict[str, T], name: str, items: dict[str, T]) -> Iterator[tuple[str, T]]:
    for key, value in found.items():
        yield from items.items() if key == name else ((key, value),)


def _steps(
    name: str, raw: dict[str, Marked], kinds: dict[str, StageKind], problems: list[Problem]
) -> list[Step] | None:
    """The steps of a written stage; None when there is a mistake in it."""
    found: list[Problem] = []
    node, kind = raw[name], kinds[name]
    assert isinstance(node.value, dict) and kind.expand
    wanted = kind.settings_class()
    inputs = check_inputs(name, raw, kinds, found)
    given = {key: item.bare() for key, item in node.value.items() if key in wanted.model_fields}
    settings = validate(name, node, given, wanted, f"kind {kind.name}", found)
    steps: list[Step] = []
    if settings is not None and not found:
        try:
            expansion: Expansion = load(kind.expand)
            steps = expansion(name, settings, inputs)
        except UserError as error:
            found.append(node.problem(f"{name}: {error}"))
        else:
            assert steps[-1].name == name, f"the last step of {name} is called {steps[-1].name}"
            found += _step_keys(name, node, wanted, steps)
    problems += found
    return None if found else steps


def _step_keys(name: str, node: Marked, wanted: type[Settings], steps: list[Step]) -> Iterator[Problem]:
    """What is wrong with the keys of a written stage that are no settings of its kind."""
    assert isinstance(node.value, dict)
    shared = {key for step in steps for key in _shared_names(step, name)}
    groups: dict[str, set[str]] = {}
    for step in steps:
        group, dot, _ = _own_name(step, name).partition(".")
        if dot:
            groups.setdefault(group, set()).update(_shared_names(step, name))
    known = set(wanted.model_fields) | shared | set(groups)
    for key, item in node.value.items():
        if key in RESERVED or key in wanted.model_fields:
            continue
        if key not in known:
            yield item.problem(f"{name}.{key}: there is no such setting or step{schema.suggest(key, sorted(known))}")
        elif not isinstance(item.value, dict):
            yield item.problem(f"{name}.{key} must be a mapping of settings, not {item.bare()!r}")
        elif key in groups and key not in shared:
            yield from _group_keys(f"{name}.{key}", item.value, groups[key])


def _group_keys(at: str, items: dict[str, Marked], known: Iterable[str]) -> Iterator[Problem]:
    for key, item in items.items():
        if key not in known:
            yield item.problem(f"{at}.{key}: there is no such step{schema.suggest(key, sorted(known))}")
        elif not isinstance(item.value, dict):
            yield item.problem(f"{at}.{key} must be a mapping of settings, not {item.bare()!r}")


def _own_name(step: Step, name: str) -> str:
    """A step's name without the written stage's: `round1.sft`."""
    return step.name.removeprefix(name).removeprefix(".")


def _shared_names(step: Step, name: str) -> list[str]:
    """The names under which settings reach a step: of its like, then its own; the last step has only its like's."""
    own = _own_name(step, name).rpartition(".")[2]
    return list(dict.fromkeys([step.like or step.kind, own] if own else [step.like] if step.like else []))


def _stage(node: Marked, step: Step, name: str) -> Marked:
    """A step as if it had been written out; what the recipe says keeps its place."""
    assert isinstance(node.value, dict)
    group = _own_name(step, name).rpartition(".")[0]
    settings = Marked({key: _marked(value, node) for key, value in step.settings.items()}, node.origin, node.line)
    for above in (node, node.at((group,))) if group else (node,):
        below = above.value if isinstance(above.value, dict) else {}
        for key in _shared_names(step, name):
            if key in below:
                settings = _merged(settings, below[key])
    assert isinstance(settings.value, dict)
    fed = {key: _marked(names if len(names) != 1 else names[0], node) for key, names in step.inputs.items() if names}
    made = {"kind": _marked(step.kind, node), "from": Marked(fed, node.origin, node.line), **settings.value}
    return Marked(made, node.origin, node.line)


def _marked(value: Any, node: Marked) -> Marked:
    """A value made here, as standing where the written stage stands."""
    if isinstance(value, dict):
        return Marked({str(key): _marked(item, node) for key, item in value.items()}, node.origin, node.line)
    if isinstance(value, (list, tuple)):
        return Marked([_marked(item, node) for item in value], node.origin, node.line)
    return Marked(value, node.origin, node.line)


def _merged(below: Marked, above: Marked) -> Marked:
    """Two trees in one: mappings are joined key by key, and else what stands in `above` counts."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    both = {key: _merged(below.value[key], item) for key, item in above.value.items() if key in below.value}
    return Marked({**below.value, **above.value, **both}, above.origin, above.line)
