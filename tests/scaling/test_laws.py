"""Laws and isoFLOP curves, against made-up runs whose constants are known, and against a search of another kind."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from herdbook.scaling.isoflop import envelope, isoflop
from herdbook.scaling.laws import HUBER, LAWS, bootstrap, compare, fit
from herdbook.scaling.runs import Runs, make_runs, read_runs
from herdbook.settings import UserError

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def losses(parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return TRUE["E"] + TRUE["A"] / parameters ** TRUE["alpha"] + TRUE["B"] / tokens ** TRUE["beta"]


def cloud(count: int, noise: float, seed: int = 0) -> Runs:
    g = np.random.default_rng(seed)
    parameters = np.exp(g.uniform(np.log(4e7), np.log(1.6e10), count))
    tokens = np.exp(g.uniform(np.log(2e8), np.log(3e11), count))
    return make_runs(parameters, tokens, losses(parameters, tokens) * np.exp(g.normal(0, noise, count)))


def grid(budgets: int, sizes: int, noise: float, g: np.random.Generator, exponent: float = 0.537) -> Runs:
    """The paper's curves: a parabola in log tokens about .299 C^.537."""
    flops = np.repeat(np.geomspace(6e18, 1e22, budgets), sizes)
    away = np.tile(np.linspace(-1.4, 1.4, sizes), budgets)
    tokens = 0.299 * flops**exponent * np.exp(away)
    loss = 2.2 * (flops / 6e18) ** -0.05 + 0.03 * away**2 + g.normal(0, noise, len(flops))
    return make_runs(flops / 6 / tokens, tokens, loss)


def test_chinchilla_finds_the_true_constants() -> None:
    found = fit(LAWS["chinchilla"], cloud(200, 0.0)).constants
    for name, value in TRUE.items():
        assert found[name] == pytest.approx(value, rel=2e-3), name


@pytest.mark.parametrize("name", ["chinchilla", "kaplan"])
def test_no_other_search_finds_a_lower_cost(name: str) -> None:
    runs, law = cloud(60, 0.01), LAWS[name]
    found = fit(law, runs)

    def cost(x: np.ndarray) -> float:
        away = np.abs(np.log(law.predict(x, runs)) - np.log(runs.loss))
        return float(np.where(away <= HUBER, 0.5 * away**2, HUBER * (away - 0.5 * HUBER)).sum())

    assert cost(found.searched) == pytest.approx(found.cost, rel=1e-6)
    g = np.random.default_rng(0)
    for _ in range(4):
        start = found.searched * (1 + g.normal(0, 0.1, len(found.searched)))
        other = minimize(lambda x: 1e3 * cost(x), start, method="Nelder-Mead", options={"maxiter": 4000})
        assert other.fun / 1e3 >= found.cost * (1 - 1e-3)


def test_bootstrap_holds_the_truth() -> None:
    runs = cloud(80, 0.004)
    draws = bootstrap(fit(LAWS["chinchilla"], runs), runs, draws=40)
    for at, name in ((3, "alpha"), (4, "beta")):
        low, high = np.quantile(draws[:, at], [0.025, 0.975])
        assert low - 0.005 <= TRUE[name] <= high + 0.005 and high - low < 0.2


def test_the_law_that_made_the_runs_forecasts_best() -> None:
    g = np.random.default_rng(2)
    flops = np.repeat(np.geomspace(1e18, 1e21, 5), 6)
    parameters = 0.09 * flops**0.5 * np.tile(np.geomspace(0.3, 3, 6), 5)
    tokens = flops / 6 / parameters
    table = compare(make_runs(parameters, tokens, losses(parameters, tokens) * np.exp(g.normal(0, 0.001, 30))))
    assert min(table, key=lambda name: table[name]["error"]) in ("chinchilla", "shifted")  # shifted holds it
    assert table["chinchilla"]["error"] < 0.005 < table["log_linear"]["error"]
    assert "precision" not in table


def test_precision_needs_its_column() -> None:
    with pytest.raises(UserError, match="needs a column bits"):
        fit(LAWS["precision"], cloud(20, 0.0))
    g = np.random.default_rng(1)
    runs = cloud(90, 0.0)
    bits = g.choice([4.0, 8.0, 16.0], 90)
    seen = runs.parameters * (1 - np.exp(-bits / 3.0))
    made = make_runs(runs.parameters, runs.tokens, losses(seen, runs.tokens), bits=bits)
    assert fit(LAWS["precision"], made).constants["gamma"] == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(("budgets", "sizes", "noise"), [(4, 5, 0.003), (8, 6, 0.01)])
def test_intervals_hold_the_true_exponent_as_often_as_they_say(budgets: int, sizes: int, noise: float) -> None:
    g, held = np.random.default_rng(5), 0
    for _ in range(200):
        low, high = isoflop(grid(budgets, sizes, noise, g), draws=300).tokens.interval()
        held += low <= 0.537 <= high
    assert 180 <= held <= 198


def test_the_papers_law_gives_its_tokens() -> None:
    found = isoflop(grid(8, 7, 0.0, np.random.default_rng(0)))
    assert found.tokens.exponent == pytest.approx(0.537, abs=1e-6)
    assert found.tokens.coefficient == pytest.approx(0.299, rel=1e-3)
    assert found.tokens.at(3.8e25) == pytest.approx(16.3e12, rel=0.01)  # §3.2.1 figure 3
    assert found.parameters.at(3.8e25) == pytest.approx(3.8e25 / 6 / 16.3e12, rel=0.01)


def test_the_best_size_is_one_that_the_budget_pays_for() -> None:
    """Attention costs what 6 N D does not count, most of all in small models."""
    sizes, budgets = np.geomspace(2e4, 3e5, 9), np.geomspace(2e11, 1.6e12, 4)
    parameters, flops = np.tile(sizes, 4), np.repeat(budgets, 9)
    tokens = flops / (6 * parameters + 300 * np.sqrt(parameters))
    away = np.log(tokens / (2e-6 * flops) ** 1.0 / 0.5)
    found = isoflop(make_runs(parameters, tokens, 1 + 0.05 * away**2, flops))
    for curve in found.curves:
        paid = (6 * curve.parameters + 300 * np.sqrt(curve.parameters)) * curve.tokens
        assert paid == pytest.approx(curve.flops, rel=0.01)
        assert found.parameters.at(curve.flops) == pytest.approx(curve.parameters, rel=0.01)


def test_bad_grids_say_what_to_add() -> None:
    flat = grid(4, 3, 0.0, np.random.default_rng(0))
    with pytest.raises(UserError, match="at least 2 compute budgets with 4 different sizes"):
        isoflop(flat)
    full = grid(3, 9, 0.0, np.random.default_rng(0))
    away = np.tile(np.linspace(-1.4, 1.4, 9), 3)
    with pytest.raises(UserError, match="add sizes larger than"):
        isoflop(full[away > 0.3])  # only many tokens, so only small models
    with pytest.raises(UserError, match="add sizes smaller than"):
        isoflop(full[away < -0.3])
    with pytest.raises(UserError, match="does not bend upwards"):
        isoflop(full.with_loss(5 - full.loss))


def test_a_size_trained_twice_counts_once() -> None:
    twice = [
        (s * n, c / 6 / n / s) for c, n in ((1e18, 3e7), (2e18, 4e7), (4e18, 6e7)) for s in (0.5, 2.0) for _ in "ab"
    ]
    n, d = (np.array(column) for column in zip(*twice, strict=True))
    with pytest.raises(UserError, match=r"4 different sizes each.*2 at 1e\+18, 2 at 2e\+18"):
        isoflop(make_runs(n, d, losses(n, d)))


def test_what_nobody_asked_for_stops_nothing(tmp_path: Path) -> None:
    runs = grid(4, 6, 0.001, np.random.default_rng(0))
    odd = make_runs(runs.parameters, runs.tokens, runs.loss, bits=np.zeros(len(runs)))
    assert "precision" not in compare(odd) and "chinchilla" in compare(odd)
    with pytest.raises(UserError, match="precision"):
        compare(odd, ["precision"])
    rows = [f"{n},{d},{6 * n * d / 1e15},{y}" for n, d, y in zip(runs.parameters, runs.tokens, runs.loss, strict=True)]
    (tmp_path / "peta.csv").write_text("\n".join(["parameters,tokens,flops,loss", *rows]))
    with pytest.raises(UserError, match="flops is 1e-15 times"):
        read_runs(tmp_path / "peta.csv")


def test_envelope_of_training_curves() -> None:
    sizes = np.geomspace(1e7, 1e9, 12)
    flops, curves = [], []
    for size in sizes:
        tokens = np.geomspace(5e7, 5e11, 400)
        flops.append(6 * size * tokens)
        curves.append(losses(np.full(400, size), tokens))
    exponent = TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"])
    assert envelope(flops, curves, sizes)[1] == pytest.approx(exponent, abs=0.02)


def test_runs_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("Params,Training FLOPs,Loss,bits,name\n1e8,6e17,3.1,8,a\n2e8,1.2e18,3.0,16,b\n")
    runs = read_runs(path)
    assert runs.tokens.tolist() == [1e9, 1e9] and runs.more["bits"].tolist() == [8, 16] and "name" not in runs.more
    for text, told in (
        ("params,tokens,loss\n1e8,1e9,nan\n", "row 1: loss is nan"),
        ("params,tokens,loss\n1e8,1e9,3\n1e8,-5,3\n", "row 2: tokens is -5"),
        ("params,tokens,loss\n1e8,many,3\n", r"runs.csv:2: tokens is 'many'"),
        ("params,loss\n1e8,3\n", "no column for tokens"),
        ("params,tokens,loss\n", "holds no runs"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            read_runs(path)
    with pytest.raises(UserError, match="5 constants, and there are 5 runs"):
        fit(LAWS["chinchilla"], cloud(5, 0.0))
