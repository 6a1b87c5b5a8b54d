"""The commands `plan` and `scale`: parse, call, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from herdbook.options import DEFAULT_BOOK, BookOption
from herdbook.settings import UserError


def plan(
    model: Annotated[str, typer.Argument(help="A model preset, such as llama3-405b.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings: devices=16384 tokens=15.6e12 cluster=h100-roce …")
    ] = None,
    against: Annotated[str | None, typer.Option(help="A run's entry: its forecast beside what was measured.")] = None,
    laws: Annotated[str | None, typer.Option(help="With --against: a ladder's entry, which forecasts loss.")] = None,
    results: Annotated[str | None, typer.Option(help="With --laws: an exam's entry, to forecast its score.")] = None,
    calibrate: Annotated[
        list[str] | None, typer.Option(help="A run's entry to fit the reached shares to; may be repeated.")
    ] = None,
    serving: Annotated[bool, typer.Option("--serving", help="Plan inference instead of training.")] = False,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, for --serving.")] = 1024,
    answer: Annotated[int, typer.Option(min=1, help="Tokens of an answer, for --serving.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    book: BookOption = DEFAULT_BOOK,
) -> None:
    """Say what a training run or serving will take: layout, memory, time, interruptions, energy, money.

    Or hold a run against its forecast (--against), or fit the planner to runs (--calibrate).
    """
    from herdbook import planning
    from herdbook.report.text import show

    if against is None and (laws or results):
        raise UserError("--laws and --results forecast loss and score of a run; name it with --against ENTRY")
    given = [word for word in (model, *(overrides or ())) if word]
    if not given and against is None and not calibrate:
        show(planning.help_lines())
        return
    settings = planning.plan_settings(model, overrides or (), book)
    fitted = calibrate or ()
    if against is not None:
        lines, figures = planning.against(against, settings, book, fitted, laws, results)
    elif serving:
        lines, figures = planning.serving(settings, prompt, answer, fitted, book)
    elif calibrate and not given:
        lines, figures = planning.calibration(fitted, settings, book)
    else:
        lines, figures = planning.training(settings, fitted, book)
    _tell(lines, figures, as_json)


def scale(
    runs: Annotated[
        str, typer.Argument(help="A CSV of trained models (parameters, tokens, loss), or a book's ladder or tokens.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="A ladder to train on tokens: budgets=[1e11,2e11] run.peak_lr=0.02 …")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Operations to forecast for; 8 times the largest budget.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    book: BookOption = DEFAULT_BOOK,
) -> None:
    """Fit scaling laws to trained models: best size by compute, a larger model's loss, what over-training costs."""
    from herdbook.book import Book
    from herdbook.scale import scale as scaling

    lines, figures = scaling(runs, Book(book), settings or (), target, out)
    _tell(lines, figures, as_json)


def _tell(lines: Sequence[str], figures: dict[str, Any], as_json: bool) -> None:
    """Print the lines, or the figures as JSON."""
    from herdbook.report.text import show

    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        show(lines)
