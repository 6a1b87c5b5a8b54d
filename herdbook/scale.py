"""The command `herdbook scale`: laws from anyone's runs, from a ladder of the book, or from one trained now on tokens
of the book; printed and drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from herdbook.book import Book, Entry, Parent
from herdbook.check import validate
from herdbook.marked import Marked, Problem
from herdbook.models import ancestors, make_settings
from herdbook.recipe import read_words
from herdbook.run import ended_by_signals, make_task, run_task
from herdbook.settings import UserError
from herdbook.stages import KINDS

LADDER = "ladder"


def scale(
    source: str, book: Book, words: Sequence[str] = (), target: float | None = None, out: Path | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Lines to print and the figures, of a CSV of runs or of an entry; pictures in `out` where it is given.

    An entry of laws is looked at again; on an entry of tokens a ladder is trained, by `words` (`budgets=[1e11,2e11]`,
    `run.peak_lr=0.02`). `target` are the operations to forecast for, 8 times the largest budget when None. Raises
    UserError for runs that no law can be fitted to, before anything is written.
    """
    from herdbook.report.laws import law_lines
    from herdbook.report.scaling import draw
    from herdbook.scaling.fitting import LawsSettings, fit_runs
    from herdbook.scaling.runs import read_runs

    if target is not None and not 0 < target < math.inf:
        raise UserError(f"--target is {target:g}; it is how many operations to forecast for, above 0")
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder for the pictures")
    path = Path(source)
    if not path.is_file():
        if path.suffix == ".csv":
            raise UserError(f"{path} is not there; give a CSV with a row per trained model, or an entry of the book")
        able = {kind.name: kind.gives for kind in KINDS.values() if kind.gives in ("laws", "tokens")}
        entry = book.resolve(source, "laws or tokens", frozenset(able))
        if able[entry.kind] == "tokens":
            entry, words = train_ladder(entry, book, words, target), ()
        path = book.folder_of(entry) / "runs.csv"
    if words:
        raise UserError(f"{words[0]!r} is a ladder's setting, and {source} holds runs that are trained already")
    found, _ = fit_runs(LawsSettings.model_validate({"target": target}), read_runs(path))
    figures = {"source": str(path), **found.figures}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw(out, replace(found, exams={}))
    return law_lines(found), figures


def train_ladder(tokens: Entry, book: Book, words: Sequence[str], target: float | None = None) -> Entry:
    """The laws of a ladder on these tokens: every run an entry, found where it was trained before.

    Settings of a `ladder` stage come as SETTING=VALUE, those of its runs as run.SETTING=VALUE. Raises UserError for
    every mistake in them before anything is trained.
    """
    from herdbook.scaling.ladder import LadderSettings, steps

    problems: list[Problem] = []
    targeted = {} if target is None else {"target": Marked(target, "--target")}
    node = read_words(LADDER, targeted, words, "budgets=[1e11,2e11]", problems)
    given = node.bare()
    shared = given.pop("run", {})
    if not isinstance(shared, dict):
        raise UserError(f"run={shared!r} is no setting of its runs; write run.SETTING=VALUE, such as run.peak_lr=0.02")
    settings = validate(LADDER, node, given, LadderSettings, f"kind {LADDER}", problems)
    if problems or not isinstance(settings, LadderSettings):
        raise UserError("\n".join(map(str, problems)))
    made = {tokens.stage: tokens}
    inputs: dict[str, tuple[str, ...]] = {"tokens": (tokens.stage,)}
    world = next((one for one in ancestors(tokens, book) if one.kind == "world"), None)
    if world is not None:
        made[world.stage], inputs["world"] = world, (world.stage,)
    elif settings.tasks:
        raise UserError(f"{tokens.name} was not made from a world whose questions could be asked; leave out tasks")
    todo = []
    for step in steps(LADDER, settings, inputs):
        kind = KINDS[step.kind]
        told = _joined(step.settings, shared if step.like == "run" else {})
        todo.append((step, kind, make_settings(kind.settings_class(), told)))
    with ended_by_signals():
        for step, kind, own in todo:
            fed = {
                name: [Parent(stage=made[feeder].stage, id=made[feeder].id) for feeder in feeders]
                for name, feeders in step.inputs.items()
                if feeders
            }
            made[step.name] = run_task(book, make_task(book, step.name, kind, own, fed))
    return made[LADDER]


def _joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of settings in one, as a recipe joins them: what stands in `above` counts, key by key."""
    both = {
        key: _joined(below[key], item)
        for key, item in above.items()
        if isinstance(item, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}
