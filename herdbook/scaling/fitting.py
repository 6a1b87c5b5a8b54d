"""The last step of a ladder: laws fitted to its runs, curves drawn, a larger model forecast; and a forecast held
against the model that was trained afterwards (§3.2.1).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from herdbook.files import read_json, write_json, write_text
from herdbook.scaling import measured, reconcile
from herdbook.scaling.cluster import load_calibration
from herdbook.scaling.forecast import Forecast, forecast
from herdbook.scaling.isoflop import IsoFlop, envelope_of, isoflop
from herdbook.scaling.laws import LAWS, Fit, bootstrap, compare, fit
from herdbook.scaling.overtrain import overtrained
from herdbook.scaling.runs import Runs, make_runs
from herdbook.settings import Settings, UserError

FORM = "chinchilla"  # the law that forecasts: the only one here with a size, a number of tokens and a floor
DRAWS = 100
NOISES = 50  # draws of a run's own noise to each of these


class LawsSettings(Settings):
    """What is forecast from a ladder's runs."""

    target: float | None = Field(None, gt=0)
    """Operations of the model to forecast; 8 times the largest budget when empty."""

    chance: float = Field(0.25, ge=0, lt=1)
    """Score of a model that knows nothing."""

    seed: int = 1
    """Seed of the bootstrap."""


class AgainstSettings(Settings):
    """How a forecast is held against a model."""

    task: str | None = None
    """The task whose score is compared; the first that the ladder was examined in when empty."""


@dataclass(frozen=True)
class Ladder:
    """A ladder's runs and what was fitted to them."""

    runs: Runs
    curves: IsoFlop
    fitted: Fit
    coming: dict[str, Any]
    """The forecast: flops, tokens, parameters, loss, and score_TASK of every task."""

    exams: dict[str, dict[str, list[float]]]
    """By task: `run` (index), `loss` and `score`."""

    figures: dict[str, Any]

    chance: float
    """Score of a model that knows nothing, in these tasks."""


def fit_ladder(
    settings: LawsSettings,
    model: dict[str, Path],
    results: dict[str, Path],
    out: Path,
    known: dict[str, Path] | None = None,
) -> Ladder:
    """Fit laws to the models of the named entries; writes runs.csv and laws.json to `out`.

    Losses are bits per byte of held-out pages. `results` are exams of the same models, named MODEL-exam; `known` are
    exams of earlier models, which only tell what score goes with what loss (§3.2.1). The figures are `fit_runs`' and
    the scores'. Raises UserError as `isoflop`.
    """
    runs = read_entries(model)
    found, draws = fit_runs(settings, runs)
    curves, fitted, coming, target = found.curves, found.fitted, found.coming, found.coming["flops"]
    exams = {task: found for task, found in read_exams(model, results).items() if len(found["score"]) >= 3}
    for folder in (known or {}).values():
        for task, loss, score in read_exam(folder):
            if task in exams:
                exams[task].setdefault("known_loss", []).append(loss)
                exams[task].setdefault("known_score", []).append(score)
    scores = {task: _score(runs, curves, found, target, settings) for task, found in exams.items()}
    _write_csv(out / "runs.csv", list(model), runs, exams)
    kept = {
        "form": FORM, "searched": fitted.searched.tolist(), "draws": draws.tolist(), "target": target,
        "noise": fitted.noise(runs),
        "scores": {task: {**found, "chance": settings.chance} for task, found in exams.items()},
        "optimum": _optimum(runs, curves), "seed": settings.seed,
    }  # fmt: skip
    write_json(out / "laws.json", kept)
    for task, one in scores.items():
        coming[f"score_{task}"] = {"value": one.score, "low": one.score_low, "high": one.score_high}
    return replace(found, exams=exams)


def fit_runs(settings: LawsSettings, runs: Runs) -> tuple[Ladder, np.ndarray]:
    """Everything that is fitted to runs without exams, whoever trained them, and the law's bootstrap draws (draws, K).

    The figures are the exponents by all three approaches, the constants, every law's error on the largest budget, the
    forecast, and what over-training costs and saves at the forecast's operations. Raises UserError as `isoflop`.
    """
    curves = isoflop(runs, seed=settings.seed)
    fitted = fit(LAWS[FORM], runs)
    draws = bootstrap(fitted, runs, DRAWS, settings.seed)
    target = settings.target or 8 * float(runs.flops.max())
    coming = _coming(fitted, draws, fitted.noise(runs), curves, target, settings.seed)
    low, high = curves.tokens.interval()
    least, most = curves.parameters.interval()
    figures = {
        "runs": len(runs),
        "tokens_exponent": {"value": curves.tokens.exponent, "low": low, "high": high},
        "parameters_exponent": {"value": curves.parameters.exponent, "low": least, "high": most},
        "tokens_coefficient": curves.tokens.coefficient,
        "noise": curves.noise,
        "constants": fitted.constants,
        "approaches": approaches(runs, curves, fitted, draws),
        "held_out": compare(runs),
        "forecast": coming,
        "overtrained": _overtrained(fitted, coming["flops"]),
    }
    return Ladder(runs, curves, fitted, coming, {}, figures, settings.chance), draws


def approaches(runs: Runs, curves: IsoFlop, fitted: Fit, draws: np.ndarray) -> dict[str, Any]:
    """The exponent of the best size by Hoffmann's three approaches; the first has no interval.

    `without` says why where one of them cannot be taken with these runs.
    """
    low, high = curves.parameters.interval()
    names = list(fitted.law.constants)
    alpha, beta = names.index("alpha"), names.index("beta")
    slopes = draws[:, beta] / (draws[:, alpha] + draws[:, beta])
    third_low, third_high = np.quantile(slopes, [0.025, 0.975])
    third = fitted.searched[beta] / (fitted.searched[alpha] + fitted.searched[beta])
    found: dict[str, Any] = {}
    try:
        found["envelope"] = {"value": envelope_of(runs)[1]}
    except UserError as error:
        found["envelope"] = {"without": str(error)}
    found["isoflop"] = {"value": curves.parameters.exponent, "low": low, "high": high}
    found["parametric"] = {"value": float(third), "low": float(third_low), "high": float(third_high)}
    return found


def _overtrained(fitted: Fit, flops: float) -> list[dict[str, Any]] | dict[str, str]:
    try:
        return [asdict(one) for one in overtrained(fitted, flops)]
    except UserError as error:  # a law whose loss falls towards one end has no optimum to start from
        return {"without": str(error)}


def read_entries(entries: dict[str, Path]) -> Runs:
    """Runs of model entries: active weights, tokens, operations and bits per byte, as each entry tells them."""
    from herdbook.model.huggingface import read_config

    columns: dict[str, list[float]] = {"parameters": [], "tokens": [], "loss": [], "flops": []}
    for name, folder in entries.items():
        metrics = read_json(folder / "entry.json")["metrics"]
        missing = [key for key in ("tokens", "flops", "bits_per_byte") if key not in metrics]
        if missing:
            raise UserError(f"{name} tells no {', '.join(missing)}; train it with held-out pages by a pretrain stage")
        columns["parameters"].append(read_config(folder / "model").matmul_parameters())
        columns["tokens"].append(metrics["tokens"])
        columns["flops"].append(metrics["flops"])
        columns["loss"].append(metrics["bits_per_byte"])
    arrays = {name: np.array(values) for name, values in columns.items()}
    return make_runs(arrays["parameters"], arrays["tokens"], arrays["loss"], arrays["flops"], "the ladder's runs")


def read_exams(model: dict[str, Path], results: dict[str, Path]) -> dict[str, dict[str, list[float]]]:
    """By task: `run` (index), `loss` (nats per byte of the right choice) and `score` of every model examined."""
    found: dict[str, dict[str, list[float]]] = {}
    for at, name in enumerate(model):
        for task, loss, score in read_exam(results[f"{name}-exam"]) if f"{name}-exam" in results else ():
            own = found.setdefault(task, {"run": [], "loss": [], "score": []})
            own["run"].append(at)
            own["loss"].append(loss)
            own["score"].append(score)
    return found


def read_exam(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Every task of an exam whose choices were weighed: its name, nats per byte of the right choice, and its score."""
    for path in sorted((folder / "samples").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if rows and "logprobs" in rows[0]:
            yield path.stem, *answer_loss(rows)


def answer_loss(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean nats per byte of the right choices, and the share of questions answered right."""
    losses = [
        -row["logprobs"][row["answer"]] / max(len(row["choices"][row["answer"]].strip().encode()), 1) for row in rows
    ]
    return float(np.mean(losses)), float(np.mean([row["right"] for row in rows]))


def _optimum(runs: Runs, curves: IsoFlop) -> list[int]:
    """Of each budget the run that is nearest to the best number of tokens."""
    return [
        int(curve.runs[np.argmin(np.abs(np.log(runs.tokens[curve.runs]) - np.log(curve.tokens)))])
        for curve in curves.curves
    ]


def _coming(fitted: Fit, draws: np.ndarray, noise: float, curves: IsoFlop, target: float, seed: int) -> dict[str, Any]:
    """The compute-optimal model of `target` operations, and its loss."""
    tokens, parameters = curves.tokens.at(target), curves.parameters.at(target)
    one = make_runs(np.array([parameters]), np.array([tokens]), np.array([1.0]))
    return {
        "flops": target, "tokens": tokens, "parameters": parameters,
        "loss": forecast_loss(fitted, draws, noise, one, seed),
    }  # fmt: skip


def forecast_loss(fitted: Fit, draws: np.ndarray, noise: float, run: Runs, seed: int) -> dict[str, float]:
    """The loss of one run: `value`, and `low` to `high`, where 95 % of such runs are thought to end.

    The interval holds the doubt about the law (`draws`, its bootstrap) and a run's own `noise`, in logarithms.
    """
    spread = np.random.default_rng(seed).normal(0.0, noise, (NOISES, 1))
    laws = np.array([np.log(Fit(fitted.law, row, 0.0).predict(run)[0]) for row in draws])
    low, high = np.exp(np.quantile(laws + spread, [0.025, 0.975]))
    return {"value": float(fitted.predict(run)[0]), "low": float(low), "high": float(high)}


def _score(
    runs: Runs, curves: IsoFlop, exam: dict[str, list[float]], target: float, settings: LawsSettings
) -> Forecast:
    return _forecast_score(runs.flops, _optimum(runs, curves), exam, target, settings.chance, settings.seed)


def _forecast_score(
    run_flops: np.ndarray,
    optimum: Collection[int],
    exam: dict[str, list[float]],
    target: float,
    chance: float,
    seed: int = 1,
) -> Forecast:
    """Loss along the runs that are nearest to the optimum; scores of all runs, and of earlier models, by their loss."""
    best = [at for at, run in enumerate(exam["run"]) if int(run) in optimum]
    flops = np.array([run_flops[int(exam["run"][at])] for at in best])
    loss = np.array([*exam["loss"], *exam.get("known_loss", ())])
    score = np.array([*exam["score"], *exam.get("known_score", ())])
    return forecast(flops, np.array(exam["loss"])[best], target, loss, score, chance=chance, seed=seed)


def _write_csv(path: Path, names: list[str], runs: Runs, exams: dict[str, dict[str, list[float]]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    told = [(task, kind) for task in exams for kind in ("loss", "score")]
    writer.writerow(["run", "parameters", "tokens", "flops", "loss", *(f"{task} {kind}" for task, kind in told)])
    for at, name in enumerate(names):
        row: list[Any] = [name, runs.parameters[at], runs.tokens[at], runs.flops[at], runs.loss[at]]
        for task, kind in told:
            places = exams[task]["run"]
            row.append(exams[task][kind][places.index(at)] if at in places else "")
        writer.writerow(row)
    write_text(path, table.getvalue())


def against(settings: AgainstSettings, laws: Path, model: Path, results: Path | None, out: Path) -> dict[str, Any]:
    """A trained model beside what was forecast of it; `error` is measured / forecast - 1.

    Loss and score are its ladder's forecast for its size and tokens; memory, step time and energy the planner's, where
    it was trained in the herd, and `plan.without` says why where it has none. Raises UserError for a task that the
    ladder or the model was not examined in.
    """
    found = laws_against(laws, model, results, settings.task)
    if (model / "metrics.jsonl").is_file():
        try:
            run = measured.read_run(model)
            found |= reconcile.held_against(run, run.cluster(), load_calibration())
        except UserError as error:  # such as devices that no cluster of the file has
            found["plan"] = {"without": str(error)}
    write_json(out / "against.json", found)
    return found


def laws_against(laws: Path, model: Path, results: Path | None, task: str | None = None) -> dict[str, Any]:
    """Loss, and with an exam's `results` the score of a task, beside the forecast of a ladder's `laws`."""
    kept = read_json(laws / "laws.json")
    run = read_entries({model.name: model})
    fitted = Fit(LAWS[kept["form"]], np.array(kept["searched"]), 0.0)
    coming = forecast_loss(fitted, np.array(kept["draws"]), kept.get("noise", 0.0), run, kept.get("seed", 1))
    told = float(run.loss[0])
    found: dict[str, Any] = {"loss": reconcile.compared(coming["value"], told, "bits per byte of held-out pages")}
    found["loss"]["forecast"] = coming
    if results is not None:
        found["score"] = _score_against(kept, laws, task, results, float(run.flops[0]))
    return found


def _score_against(kept: dict[str, Any], laws: Path, task: str | None, results: Path, flops: float) -> dict[str, Any]:
    names = list(kept["scores"])
    chosen = task or next(iter(names), "")
    path = results / "samples" / f"{chosen}.jsonl"
    if chosen not in names or not path.is_file():
        asked = ", ".join(one.stem for one in sorted(path.parent.glob("*.jsonl")))
        raise UserError(
            f"the score of {chosen or 'no task'} cannot be compared: the ladder was examined in "
            f"{', '.join(names) or 'none'}, the model in {asked}"
        )
    with (laws / "runs.csv").open(encoding="utf-8") as file:
        flops_of = np.array([float(row["flops"]) for row in csv.DictReader(file)])
    exam = kept["scores"][chosen]
    coming = _forecast_score(flops_of, set(kept["optimum"]), exam, flops, exam["chance"], kept.get("seed", 1))
    _, score = answer_loss([json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line])
    return {
        "task": chosen,
        "forecast": {"value": coming.score, "low": coming.score_low, "high": coming.score_high},
        "measured": score,
        "error": score - coming.score,
        "off": abs(score - coming.score),
        "source": f"share of {chosen} that was right",
    }
