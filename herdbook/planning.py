"""The command `herdbook plan`: settings from the command line, a plan, and what it prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from herdbook.book import Book
from herdbook.check import validate
from herdbook.marked import Marked, Problem
from herdbook.recipe import read_words
from herdbook.report.plan import plan_lines
from herdbook.report.reconcile import against_lines
from herdbook.report.serving import serving_lines
from herdbook.scaling.calibrate import calibrated
from herdbook.scaling.cluster import FILE, Calibration, load_calibration, load_cluster, names
from herdbook.scaling.measured import Measured, read_run
from herdbook.scaling.planner import PlanSettings, config_of, make_plan, model_name
from herdbook.scaling.reconcile import held_against
from herdbook.scaling.serving import WEIGHT_BYTES, Serving, serve
from herdbook.settings import UserError

Told = tuple[list[str], dict[str, Any]]
"""Lines to print, and the figures."""


def plan_settings(model: str, overrides: Iterable[str], book: Path | None = None) -> PlanSettings:
    """Settings from `SETTING=VALUE` words; a model that is an entry of the book becomes its folder.

    UserError tells every mistake.
    """
    problems: list[Problem] = []
    words = [word for word in (model, *overrides) if word]
    named = words.pop(0) if words and "=" not in words[0] else ""
    model_given = {"model": Marked(_model(named, book), "command line")} if named else {}
    node = read_words("plan", model_given, words, "devices=16384 or remedies.spares=20", problems)
    found = validate("plan", node, node.bare(), PlanSettings, "a plan", problems)
    if problems or not isinstance(found, PlanSettings):
        raise UserError("\n".join(map(str, problems)))
    return found


def _model(name: str, book: Path | None) -> str:
    from herdbook.model.config import PRESETS

    if name in PRESETS or Path(name).exists() or book is None or not book.is_dir():
        return name
    try:
        kept = Book(book)
        return str(kept.folder_of(kept.resolve(name)))
    except UserError:
        return name  # the planner says what a model may be


def help_lines() -> list[str]:
    """The settings of a plan, the models and the clusters there are."""
    from herdbook.model.config import PRESETS
    from herdbook.report.kinds import setting_lines

    return [
        "herdbook plan MODEL [SETTING=VALUE …]",
        f"models: {', '.join(PRESETS)}; an entry, a folder with config.json, or model.dim=… model.layers=…",
        f"clusters of {FILE.name}: {', '.join(names())}",
        "",
        *setting_lines(PlanSettings),
    ]


def runs_of(entries: Sequence[str], book: Path) -> list[Measured]:
    """The training runs of entries."""
    kept = Book(book)
    return [read_run(kept.folder_of(kept.resolve(entry))) for entry in entries]


def calibration_of(runs: Sequence[Measured], settings: PlanSettings) -> Calibration:
    """The clusters' file's calibration, with the shares that measured runs can tell fitted to them."""
    file = settings.clusters or FILE
    base = load_calibration(file)
    if not runs:
        return base
    steps = [run.step(run.cluster(_named(settings), file), base) for run in runs]
    seconds = [float(np.median(run.seconds)) for run in runs]
    return calibrated(steps, seconds, ", ".join(run.name for run in runs))


def _named(settings: PlanSettings) -> str:
    return settings.cluster if "cluster" in settings.model_fields_set else ""


def calibration(entries: Sequence[str], settings: PlanSettings, book: Path) -> Told:
    """The calibration that entries tell, as a part of a clusters' file."""
    found = calibration_of(runs_of(entries, book), settings)
    told = {"calibration": {key: value for key, value in found.model_dump().items() if value != ""}}
    return yaml.safe_dump(told, sort_keys=False, width=100).splitlines(), told


def training(settings: PlanSettings, calibrate: Sequence[str] = (), book: Path = Path("book")) -> Told:
    """What to print for a training run, and its figures."""
    plan = make_plan(settings, calibration_of(runs_of(calibrate, book), settings))
    return plan_lines(plan), plan.figures()


def against(
    entry: str,
    settings: PlanSettings,
    book: Path,
    calibrate: Sequence[str] = (),
    laws: str | None = None,
    results: str | None = None,
) -> Told:
    """A run's forecast beside what was measured of it; with a ladder's entry its loss, with an exam's its score."""
    from herdbook.scaling.fitting import laws_against

    kept = Book(book)
    run = runs_of([entry], book)[0]
    file = settings.clusters or FILE
    cluster = run.cluster(_named(settings), file)
    found = held_against(run, cluster, calibration_of(runs_of(calibrate, book), settings))
    if results is not None and laws is None:
        raise UserError("a score is forecast from a ladder's laws; give --laws ENTRY beside --results")
    if laws is not None:
        exam = kept.folder_of(kept.resolve(results)) if results is not None else None
        found |= laws_against(kept.folder_of(kept.resolve(laws)), kept.folder_of(kept.resolve(entry)), exam)
    threads = "" if run.gpu else f", {run.threads} thread{'s' * (run.threads > 1)} each"
    where = f"{run.settings.parallel.processes:,} × {run.gpu or cluster.device}{threads}"
    return against_lines(run.name, where, found), {"entry": run.name, **found}


def serving(
    settings: PlanSettings, prompt: int, answer: int, calibrate: Sequence[str] = (), book: Path = Path("book")
) -> Told:
    """What to print for serving the model by quantisation, and the figures."""
    file = settings.clusters or FILE
    config, cluster = config_of(settings.model), load_cluster(settings.cluster, file)
    reached = calibration_of(runs_of(calibrate, book), settings)
    if prompt + answer > config.max_length:
        raise UserError(
            f"prompts of {prompt:,} and answers of {answer:,} tokens do not fit the model's {config.max_length:,}; "
            "ask for fewer, or for a model of longer rows (model.max_length)"
        )
    devices = settings.devices if "devices" in settings.model_fields_set else None
    found: list[Serving] = []
    left_out: list[str] = []
    for scheme in WEIGHT_BYTES:
        try:
            found.append(serve(config, cluster, reached, scheme=scheme, prompt=prompt, answer=answer, devices=devices))
        except UserError as error:
            left_out.append(f"{scheme}: {error}")
    if not found:
        raise UserError("\n".join(left_out))
    name = model_name(settings.model)
    title = f"{name} on {settings.cluster}: prompts of {prompt:,} and answers of {answer:,} tokens"
    figures = {one.scheme: dict(vars(one)) for one in found}
    return [title, "", *serving_lines(found), *left_out], figures
