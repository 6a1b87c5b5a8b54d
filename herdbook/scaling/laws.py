"""Laws of loss over size and tokens, each fitted to the same runs and judged by runs it has not seen (§3.2.1).

A fit is the least Huber loss (delta 1e-3) between the logarithms of predicted and measured losses, from many starts,
as Hoffmann et al. 2022 fit theirs. All positive constants are searched by their logarithms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from herdbook.scaling.runs import Runs
from herdbook.settings import UserError

HUBER = 1e-3
SHORT, LONG, FINALISTS = 20, 500, 5
Predict = Callable[[np.ndarray, Runs], np.ndarray]


@dataclass(frozen=True)
class Law:
    """A form of loss with constants to be fitted."""

    name: str
    source: str
    """Where the form comes from."""

    constants: tuple[str, ...]
    """Their names; those in `logs` are searched by their logarithms."""

    logs: tuple[str, ...]
    predict: Predict
    """(constants as searched, runs) to losses (R,)."""

    starts: tuple[tuple[float, ...], ...]
    """For each constant the values, as searched, that starts are made of."""

    needs: tuple[str, ...] = ()
    """Columns beside size and tokens."""


@dataclass(frozen=True)
class Fit:
    """A law with its constants."""

    law: Law
    searched: np.ndarray  # (K,) as the search holds them
    cost: float
    """Summed Huber loss."""

    @property
    def constants(self) -> dict[str, float]:
        """The constants by name."""
        return {
            name: float(np.exp(value) if name in self.law.logs else value)
            for name, value in zip(self.law.constants, self.searched, strict=True)
        }

    def predict(self, runs: Runs) -> np.ndarray:  # (R,)
        """Predicted losses."""
        return self.law.predict(self.searched, runs)

    def noise(self, runs: Runs) -> float:
        """Standard deviation of a run's logarithmic loss about the law that was fitted to these runs."""
        return self.error(runs) * float(np.sqrt(len(runs) / max(len(runs) - len(self.searched), 1)))

    def error(self, runs: Runs) -> float:
        """Root mean square of the logarithmic error over `runs`: .01 is about one percent."""
        return float(np.sqrt(np.mean((np.log(self.predict(runs)) - np.log(runs.loss)) ** 2)))


def _chinchilla(x: np.ndarray, runs: Runs) -> np.ndarray:
    return np.exp(x[0]) + np.exp(x[1] - x[3] * np.log(runs.parameters)) + np.exp(x[2] - x[4] * np.log(runs.tokens))


def _kaplan(x: np.ndarray, runs: Runs) -> np.ndarray:
    size = np.exp(x[2] / x[3] * (x[0] - np.log(runs.parameters)))
    return (size + np.exp(x[1] - np.log(runs.tokens))) ** x[3]


def _log_linear(x: np.ndarray, runs: Runs) -> np.ndarray:
    return np.maximum(x[0] - x[1] * np.log(runs.tokens) - x[2] * np.log(runs.parameters), 1e-9)


def _shifted(x: np.ndarray, runs: Runs) -> np.ndarray:
    size = np.exp(x[1] - x[3] * np.log(runs.parameters + np.exp(x[5])))
    data = np.exp(x[2] - x[4] * np.log(runs.tokens + np.exp(x[6])))
    return np.exp(x[0]) + size + data


def _synthetic(x: np.ndarray, runs: Runs) -> np.ndarray:
    return np.exp(x[0]) + np.exp(x[1]) / (np.exp(x[2]) + np.exp(x[3] * np.log(runs.tokens)))


def _precision(x: np.ndarray, runs: Runs) -> np.ndarray:
    seen = np.log(runs.parameters) + np.log(-np.expm1(-runs.more["bits"] / np.exp(x[5])))
    return np.exp(x[0]) + np.exp(x[1] - x[3] * seen) + np.exp(x[2] - x[4] * np.log(runs.tokens))


_POWERS = (0.2, 0.5, 0.9)
LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(
            "chinchilla",
            "E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, and the herd paper's parametric form)",
            ("E", "A", "B", "alpha", "beta"),
            ("E", "A", "B"),
            _chinchilla,
            ((-0.5, 0.5), (3.0, 6.0, 12.0), (3.0, 6.0, 12.0), (0.2, 0.5), (0.2, 0.5)),
        ),
        Law(
            "kaplan",
            "((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D (Kaplan et al. 2020)",
            ("N_c", "D_c", "alpha_N", "alpha_D"),
            ("N_c", "D_c"),
            _kaplan,
            ((15.0, 25.0, 32.0), (15.0, 25.0, 32.0), (0.07, 0.2), (0.07, 0.2)),
        ),
        Law(
            "log_linear",
            "a - b log D - c log N: how over-trained models go on (herd paper, §3.2.1)",
            ("a", "b", "c"),
            (),
            _log_linear,
            ((5.0, 15.0), (0.05, 0.3), (0.0, 0.1)),
        ),
        Law(
            "shifted",
            "E + A / (N + N_0)^alpha + B / (D + D_0)^beta",
            ("E", "A", "B", "alpha", "beta", "N_0", "D_0"),
            ("E", "A", "B", "N_0", "D_0"),
            _shifted,
            ((0.0,), (4.0, 8.0), (4.0, 8.0), (0.2, 0.5), (0.2, 0.5), (5.0, 14.0), (5.0, 14.0)),
        ),
        Law(
            "synthetic",
            "E + B / (D_l + D^beta): one size, tokens that were made (arXiv 2503.19551)",
            ("E", "B", "D_l", "beta"),
            ("E", "B", "D_l"),
            _synthetic,
            ((-1.0, 0.5), (2.0, 8.0), (-2.0, 5.0), _POWERS),
        ),
        Law(
            "precision",
            "chinchilla with N (1 - e^(-bits / gamma)) for N (arXiv 2411.04330)",
            ("E", "A", "B", "alpha", "beta", "gamma"),
            ("E", "A", "B", "gamma"),
            _precision,
            ((0.0,), (4.0, 8.0), (4.0, 8.0), (0.2, 0.5), (0.2, 0.5), (0.0, 1.0)),
            needs=("bits",),
        ),
    )
}


def fit(law: Law, runs: Runs, starts: Sequence[np.ndarray] | None = None) -> Fit:
    """The constants of the least cost over all starts; `starts` instead of the law's own.

    Raises UserError for fewer runs than the law has constants, and for a column that is missing.
    """
    missing = [name for name in law.needs if name not in runs.more]
    if missing:
        raise UserError(f"the law {law.name} needs a column {', '.join(missing)}, which the runs do not have")
    if len(runs) <= len(law.constants):
        raise UserError(
            f"the law {law.name} has {len(law.constants)} constants, and there are {len(runs)} runs; "
            f"give at least {len(law.constants) + 1} runs, or fit a simpler law"
        )
    measured = np.log(runs.loss)

    def residuals(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            away = np.log(law.predict(x, runs)) - measured
        return np.nan_to_num(away, nan=1e3, posinf=1e3, neginf=-1e3)

    def search(start: np.ndarray, steps: int) -> Fit:
        found = least_squares(residuals, start, loss="huber", f_scale=HUBER, x_scale="jac", max_nfev=steps)
        return Fit(law, found.x, float(found.cost))

    begun = [np.array(one) for one in itertools.product(*law.starts)] if starts is None else list(starts)
    begun = [start for start in begun if np.all(np.abs(residuals(start)) < 1e3)]
    if len(begun) > FINALISTS:  # most starts meet in few places, which a short search tells
        begun = [one.searched for one in sorted((search(x, SHORT) for x in begun), key=lambda f: f.cost)[:FINALISTS]]
    best = min((search(start, LONG) for start in begun), key=lambda one: one.cost, default=None)
    if best is None:
        raise UserError(f"the law {law.name} could not be fitted to these runs: no start gave finite losses")
    return best


def bootstrap(fitted: Fit, runs: Runs, draws: int = 200, seed: int = 1) -> np.ndarray:  # (draws, K)
    """Constants, as searched, of fits to runs drawn with replacement; quantiles over them are intervals."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        chosen = generator.integers(0, len(runs), len(runs))
        found.append(fit(fitted.law, runs[chosen], [fitted.searched]).searched)
    return np.array(found)


def compare(runs: Runs, names: Sequence[str] = (), hold_out: int = 1) -> dict[str, dict[str, float]]:
    """Each law's error on the `hold_out` largest budgets when it was fitted to the smaller ones.

    `error` and `bias` of the logarithm of the loss, and `fitted`, the error over the runs it saw. Laws whose columns
    are missing or make no sense, and those with more constants than runs, are left out unless they were named.
    """
    budgets = runs.budgets()
    if len(budgets) <= hold_out:
        raise UserError(f"there are {len(budgets)} compute budgets, so {hold_out} cannot be held out and one be fitted")
    seen = runs[np.concatenate(budgets[:-hold_out])]
    unseen = runs[np.concatenate(budgets[-hold_out:])]
    table = {}
    for name in names or LAWS:
        if name not in LAWS:
            raise UserError(f"no law is called {name!r}; there are {', '.join(LAWS)}")
        law = LAWS[name]
        fits = all(column in runs.more for column in law.needs) and len(seen) > len(law.constants)
        if not names and not fits:
            continue
        try:
            found = fit(law, seen)
        except UserError:
            if names:
                raise
            continue  # nobody asked for this one, and the others may tell what is wanted
        away = np.log(found.predict(unseen)) - np.log(unseen.loss)
        table[name] = {"error": found.error(unseen), "bias": float(away.mean()), "fitted": found.error(seen)}
    return table
