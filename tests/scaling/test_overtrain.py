"""What over-training costs and saves, against closed forms of the law that made it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from herdbook.book import Book
from herdbook.cli import app
from herdbook.scale import scale
from herdbook.scaling.isoflop import envelope_of
from herdbook.scaling.laws import LAWS, Fit
from herdbook.scaling.overtrain import optimal, overtrained
from herdbook.scaling.runs import make_runs
from herdbook.settings import UserError

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
LAW = Fit(LAWS["chinchilla"], np.array([np.log(E), np.log(A), np.log(B), ALPHA, BETA]), 0.0)


def loss(parameters: float, tokens: float) -> float:
    return E + A / parameters**ALPHA + B / tokens**BETA


@pytest.mark.parametrize("flops", [1e12, 6e18, 3.8e25])
def test_the_best_size_is_that_of_the_closed_form(flops: float) -> None:
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))  # Hoffmann et al. 2022, equation 4
    parameters, tokens, least = optimal(LAW, flops)
    assert parameters == pytest.approx(scale * (flops / 6) ** (BETA / (ALPHA + BETA)), rel=1e-3)
    assert 6 * parameters * tokens == pytest.approx(flops, rel=1e-9)
    assert least == pytest.approx(loss(parameters, tokens), rel=1e-12)


def test_a_smaller_model_needs_the_tokens_that_make_up_for_its_size() -> None:
    size, tokens, least = optimal(LAW, 1e21)
    half, tiny = overtrained(LAW, 1e21, (0.5, 0.02))
    assert half.parameters == pytest.approx(size / 2)
    needed = (B / (least - E - A / (size / 2) ** ALPHA)) ** (1 / BETA)  # the law, solved for tokens
    assert half.tokens == pytest.approx(needed, rel=1e-6)
    assert half.training == pytest.approx(size / 2 * needed / (size * tokens), rel=1e-6)
    assert half.loss == pytest.approx(loss(size / 2, 2 * tokens), rel=1e-9) and half.loss > least
    best, small = 6 * size * tokens + 2 * size * half.served, 3 * size * needed + size * half.served
    assert best == pytest.approx(small, rel=1e-9)  # where it begins to pay off, both cost the same in all
    assert tiny.tokens is None and tiny.served is None  # its size alone costs more than the whole difference


def test_a_law_without_a_best_size_says_so() -> None:
    flat = replace(LAW, searched=np.array([0.0, -40.0, 6.0, 0.34, 0.28]))  # size hardly counts
    with pytest.raises(UserError, match="falls all the way towards small models"):
        optimal(flat, 1e12)
    with pytest.raises(UserError, match="1 FLOPs train no model"):
        optimal(LAW, 1.0)
    with pytest.raises(UserError, match=r"share=1\.5"):
        overtrained(LAW, 1e21, (1.5,))


def test_the_envelope_is_also_taken_of_finished_runs() -> None:
    sizes = np.geomspace(1e7, 1e9, 12)
    parameters, flops = (one.ravel() for one in np.meshgrid(sizes, np.geomspace(1e17, 1e21, 40)))
    tokens = flops / 6 / parameters
    runs = make_runs(parameters, tokens, loss(parameters, tokens))
    assert envelope_of(runs)[1] == pytest.approx(BETA / (ALPHA + BETA), abs=0.03)
    with pytest.raises(UserError, match="three sizes trained for several budgets each; there are 2"):
        envelope_of(runs[parameters < 2e7])


def written(path: Path, noise: float = 0.0005) -> Path:
    g = np.random.default_rng(1)
    flops = np.repeat(np.geomspace(1e18, 1e20, 4), 6)
    parameters = 0.09 * flops**0.5 * np.tile(np.geomspace(0.3, 4, 6), 4)
    tokens = flops / 6 / parameters
    made = loss(parameters, tokens) * np.exp(g.normal(0, noise, len(flops)))
    lines = [f"{n},{d},{value}" for n, d, value in zip(parameters, tokens, made, strict=True)]
    path.write_text("\n".join(["Params,Training tokens,Loss", *lines]) + "\n")
    return path


def test_anyones_runs_are_fitted_printed_and_drawn(tmp_path: Path) -> None:
    runs = written(tmp_path / "runs.csv")
    out = tmp_path / "pictures"
    lines, figures = scale(str(runs), Book(tmp_path / "book"), out=out)
    assert figures["forecast"]["flops"] == pytest.approx(8e20)
    parameters, tokens = figures["forecast"]["parameters"], figures["forecast"]["tokens"]
    assert figures["forecast"]["loss"]["value"] == pytest.approx(loss(parameters, tokens), rel=0.01)
    found = figures["approaches"]
    for name in ("isoflop", "parametric"):
        assert found[name]["value"] == pytest.approx(BETA / (ALPHA + BETA), abs=0.03)
    assert "three sizes trained for several budgets" in found["envelope"]["without"]
    assert sorted(path.name for path in out.iterdir()) == ["forecast.png", "isoflop.png", "optimum.png"]
    assert any("forecast for 8e+20 FLOPs" in line for line in lines) and any("pays off from" in line for line in lines)


@pytest.mark.parametrize(
    ("line", "told"),
    [("1e8,2e9,nan", "row 25: loss is nan"), ("1e8,2e9,-3", "row 25: loss is -3"), ("1e8,x,3", "tokens is 'x'")],
)
def test_bad_runs_are_told_and_nothing_is_written(tmp_path: Path, line: str, told: str) -> None:
    runs, out = written(tmp_path / "runs.csv"), tmp_path / "pictures"
    runs.write_text(runs.read_text() + line + "\n")
    done = CliRunner().invoke(app, ["scale", str(runs), "--out", str(out)])
    assert done.exit_code == 2 and told in " ".join(done.output.split())
    with pytest.raises(UserError, match=r"'budgets=\[1e11\]' is a ladder's setting"):
        scale(str(runs), Book(tmp_path / "book"), ["budgets=[1e11]"], out=out)
    runs.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="no CSV in UTF-8"):
        scale(str(runs), Book(tmp_path / "book"), out=out)
    assert not out.exists()
    with pytest.raises(UserError, match="is a file; name a folder for the pictures"):
        scale(str(written(tmp_path / "good.csv")), Book(tmp_path / "book"), out=runs)
