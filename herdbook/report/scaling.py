"""The pictures of a ladder: isoFLOP curves, optimal tokens, loss along the frontier with its forecast, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from herdbook.scaling.fitting import Ladder, LawsSettings, fit_ladder
from herdbook.scaling.forecast import fit_sigmoid
from herdbook.scaling.isoflop import IsoFlop
from herdbook.scaling.runs import Runs, make_runs

UNIT = "loss, bits per byte of held-out pages"
DOTS = 150  # of a centimetre's picture


def laws(
    settings: LawsSettings,
    model: dict[str, Path],
    out: Path,
    results: dict[str, Path] | None = None,
    known: dict[str, Path] | None = None,
) -> dict[str, Any]:
    """The `laws` stage: fit (scaling/fitting.py), then draw."""
    found = fit_ladder(settings, model, results or {}, out, known)
    draw(out, found, UNIT)
    return found.figures


def draw(out: Path, ladder: Ladder, loss: str = "loss") -> None:
    """Write isoflop.png, optimum.png, forecast.png and, where there are exams, score.png into `out`.

    `loss` is what the losses are called beside the axes.
    """
    from matplotlib.figure import Figure

    runs, curves, coming, exams = ladder.runs, ladder.curves, ladder.coming, ladder.exams
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    _isoflop(axes, runs, curves, loss)
    figure.savefig(out / "isoflop.png", dpi=DOTS)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    _optimum(figure.subplots(), curves, coming["flops"])
    figure.savefig(out / "optimum.png", dpi=DOTS)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    _forecast(figure.subplots(), ladder, loss)
    figure.savefig(out / "forecast.png", dpi=DOTS)
    if exams:
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        _scores(figure.subplots(), exams, coming, ladder.chance)
        figure.savefig(out / "score.png", dpi=DOTS)


def _few_labels(*axes: Any) -> None:
    """Numbers at 1, 2 and 5 of each decade only: a span of less than one would have them overlap."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator

    for axis in axes:
        axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))


def _isoflop(axes: Any, runs: Runs, curves: IsoFlop, loss: str) -> None:
    """Loss over tokens, a colour a budget, as the paper's figure 2."""
    for number, curve in enumerate(curves.curves):
        colour = f"C{number}"
        tokens = runs.tokens[curve.runs]
        axes.plot(tokens, runs.loss[curve.runs], "o", color=colour, markersize=4)
        grid = np.geomspace(tokens.min(), tokens.max(), 100)
        axes.plot(grid, curve.at(grid), color=colour, linewidth=1, label=f"{curve.flops:.2g}")
        axes.plot([curve.tokens], [curve.loss], "x", color=colour, markersize=8)
    axes.set(xscale="log", xlabel="training tokens", ylabel=loss)
    _few_labels(axes.xaxis)
    axes.legend(title="FLOPs", frameon=False)


def _optimum(axes: Any, curves: IsoFlop, target: float) -> None:
    """Best number of tokens over compute with the law and its interval, as the paper's figure 3."""
    flops = np.array([curve.flops for curve in curves.curves])
    grid = np.geomspace(flops.min(), target, 60)
    ends = np.array([curves.tokens.interval(one) for one in grid])
    axes.fill_between(grid, ends[:, 0], ends[:, 1], alpha=0.2, linewidth=0)
    axes.plot(grid, [curves.tokens.at(one) for one in grid], linewidth=1)
    axes.plot(flops, [curve.tokens for curve in curves.curves], "o", markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="compute, FLOPs", ylabel="best number of training tokens")
    _few_labels(axes.xaxis, axes.yaxis)
    axes.set_title(f"tokens = {curves.tokens.coefficient:.3g} · FLOPs^{curves.tokens.exponent:.3f}", fontsize=10)


def _forecast(axes: Any, ladder: Ladder, name: str) -> None:
    """Loss along the frontier and the forecast."""
    runs, curves, fitted, coming = ladder.runs, ladder.curves, ladder.fitted, ladder.coming
    flops = np.array([curve.flops for curve in curves.curves])
    grid = np.geomspace(flops.min(), coming["flops"], 60)
    best = make_runs(
        np.array([curves.parameters.at(one) for one in grid]),
        np.array([curves.tokens.at(one) for one in grid]),
        np.ones(len(grid)),
    )
    axes.plot(runs.flops, runs.loss, ".", color="0.7", label="runs")
    axes.plot(flops, [curve.loss for curve in curves.curves], "o", markersize=5, label="lowest of each curve")
    axes.plot(grid, fitted.predict(best), linewidth=1, label=f"{fitted.law.name}'s law on the frontier")
    loss = coming["loss"]
    axes.errorbar(
        [coming["flops"]], [loss["value"]], [[loss["value"] - loss["low"]], [loss["high"] - loss["value"]]],
        fmt="s", color="C3", capsize=3, label=f"forecast {loss['value']:.4f}",
    )  # fmt: skip
    axes.set(xscale="log", xlabel="compute, FLOPs", ylabel=name)
    axes.legend(frameon=False)


def _scores(axes: Any, exams: dict[str, dict[str, list[float]]], coming: dict[str, Any], chance: float) -> None:
    """Scores over the loss on right answers, and their sigmoids, as the paper's figure 4."""
    for number, (task, exam) in enumerate(exams.items()):
        loss, score = np.array(exam["loss"]), np.array(exam["score"])
        axes.plot(loss, score, "o", color=f"C{number}", markersize=4)
        if "known_loss" in exam:  # earlier models, larger or longer trained
            axes.plot(exam["known_loss"], exam["known_score"], "s", color=f"C{number}", fillstyle="none")
            loss, score = np.append(loss, exam["known_loss"]), np.append(score, exam["known_score"])
        curve = fit_sigmoid(loss, score, chance)
        grid = np.linspace(loss.min() * 0.7, loss.max(), 100)
        name = f"score_{task}"
        told = f", forecast {coming[name]['value']:.2f}" if name in coming else ""
        axes.plot(grid, curve.at(grid), color=f"C{number}", linewidth=1, label=f"{task}{told}")
    axes.set(xlabel="nats per byte of the right answer", ylabel="share answered right", ylim=(0, 1))
    axes.legend(frameon=False)
