"""The command `herdbook scale`: laws from anyone's runs, or from a ladder of the book, printed and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.settings import UserError

if TYPE_CHECKING:
    from herdbook.book import Book


def scale(source: str, book: Book, target: float | None, out: Path | None) -> tuple[list[str], dict[str, Any]]:
    """Lines to print and the figures, of a CSV of runs or of a laws entry; pictures in `out` where it is given.

    `target` are the operations to forecast for, 8 times the largest budget when None. Raises UserError for runs that
    no law can be fitted to, before anything is written.
    """
    from herdbook.report.laws import law_lines
    from herdbook.report.scaling import draw
    from herdbook.scaling.fitting import LawsSettings, fit_runs
    from herdbook.scaling.runs import read_runs

    if target is not None and not target > 0:
        raise UserError(f"--target is {target:g}; it is how many operations to forecast for, above 0")
    path = Path(source)
    if not path.is_file():
        if path.suffix == ".csv":
            raise UserError(f"{path} is not there; give a CSV with a row per trained model, or a ladder of the book")
        path = book.folder_of(book.resolve(source, "laws")) / "runs.csv"
    found, _ = fit_runs(LawsSettings(target=target), read_runs(path))
    figures = {"source": str(path), **found.figures}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw(out, replace(found, exams={}))
    return law_lines(found), figures
