"""Mixes tried by small runs and the mix chosen by their law, against losses whose law is known."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from herdbook.recipe import RecipeError, read_recipe
from herdbook.scaling.mixing import ChoiceSettings, MixesSettings, choose
from herdbook.settings import UserError

SETS = ("code", "math", "web")
AVAILABLE = np.array([4e6, 1e6, 2e7])
RUN = 1e6
FLOOR, SCALE = np.array([0.5, 0.8, 1.1]), np.array([1.4, 1.2, 0.9])
PULL = np.array([[-2.5, -0.4, 0.1], [-0.6, -3.0, 0.0], [0.1, 0.2, -1.2]])


def true_losses(shares: np.ndarray) -> np.ndarray:
    return FLOOR + SCALE * np.exp(shares @ PULL.T)


def entries(folder: Path, mixes: list[dict[str, float]], noise: float = 0.0) -> dict[str, Path]:
    """What runs on these mixes leave in the book."""
    generator = np.random.default_rng(0)
    made = {}
    for number, mix in enumerate(mixes, start=1):
        shares = np.array([mix[name] for name in SETS])
        losses = true_losses(shares) * np.exp(generator.normal(0, noise, len(SETS)))
        metrics = {"tokens": RUN}
        for at, name in enumerate(SETS):
            metrics |= {f"bits_per_byte/{name}": losses[at], f"epochs_{name}": shares[at] * RUN / AVAILABLE[at]}
        one = folder / f"mix.m{number}"
        one.mkdir(parents=True)
        (one / "entry.json").write_text(json.dumps({"settings": {"mix": mix}, "metrics": metrics}))
        made[one.name] = one
    return made


def best_of_all(weights: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, float]:
    """The best of all mixes in steps of half a percent, by the true law."""
    grid = np.array([(a, b, 200 - a - b) for a, b in itertools.product(range(201), repeat=2) if a + b <= 200]) / 200
    grid = grid[(grid <= most + 1e-9).all(1)]
    losses = true_losses(grid) @ weights
    return grid[np.argmin(losses)], float(losses.min())


@pytest.mark.parametrize("weights", [{}, {"code": 3.0, "math": 1.0, "web": 1.0}])
def test_the_chosen_mix_is_the_best_of_all_by_the_true_law(tmp_path: Path, weights: dict[str, float]) -> None:
    mixes = list(MixesSettings(sets=SETS, count=10).mixes())
    figures = choose(ChoiceSettings(weights=weights, tokens=6e6), entries(tmp_path, mixes, 0.0005), tmp_path)
    counted = np.array([weights.get(name, 1.0) for name in SETS])
    counted = counted / counted.sum()
    most = np.minimum(1, 4 * AVAILABLE / 6e6)  # math: two thirds
    best, loss = best_of_all(counted, most)
    chosen = np.array([figures["mix"][name] for name in SETS])
    assert chosen == pytest.approx(best, abs=0.05)
    assert float(true_losses(chosen) @ counted) == pytest.approx(loss, rel=0.002)
    assert (
        figures["loss"]["value"] == pytest.approx(loss, rel=0.005)
        and figures["loss"]["value"] <= figures["tried"]["loss"]
    )
    assert figures["limits"]["math"] == pytest.approx(2 / 3) and figures["error"] < 0.02
    assert json.loads((tmp_path / "mix.json").read_text())["mix"] == figures["mix"]


def test_a_set_is_not_repeated_more_often_than_allowed(tmp_path: Path) -> None:
    made = entries(tmp_path, list(MixesSettings(sets=SETS, count=10).mixes()))
    figures = choose(ChoiceSettings(weights={"math": 1.0}, tokens=2e7, passes=2.0), made, tmp_path)
    assert figures["mix"]["math"] == pytest.approx(2 * 1e6 / 2e7, abs=1e-6)  # it wants nothing but math
    with pytest.raises(UserError, match="largest shares sum to"):
        choose(ChoiceSettings(tokens=1e9), made, tmp_path)
    with pytest.raises(UserError, match="'maths' is none of the sets code, math, web"):
        choose(ChoiceSettings(weights={"maths": 1.0}), made, tmp_path)
    for weights, told in (({"math": 0.0}, "no set counts"), ({"math": -1.0}, "math counts -1; a weight is")):
        with pytest.raises(ValueError, match=told):
            ChoiceSettings(weights=weights)
    (tmp_path / "mix.m1" / "entry.json").write_text(json.dumps({"settings": {"mix": None}, "metrics": {}}))
    with pytest.raises(UserError, match=r"mix\.m1 was trained on no mix"):
        choose(ChoiceSettings(), made, tmp_path)


def test_the_mixes_are_whole_and_far_from_one_another() -> None:
    settings = MixesSettings(sets=SETS, count=10)
    shares = np.array([[mix[name] for name in SETS] for mix in settings.mixes()])
    assert shares.sum(1) == pytest.approx(1) and shares.min() >= settings.least - 1e-9
    away = np.linalg.norm(shares[:, None] - shares[None], axis=2)[np.triu_indices(10, 1)]
    plain = np.random.default_rng(0).dirichlet(np.ones(3), (200, 10)) * 0.85 + 0.05
    usual = np.linalg.norm(plain[:, :, None] - plain[:, None], axis=3)[:, *np.triu_indices(10, 1)].min(1)
    assert away.min() > np.quantile(usual, 0.99)
    assert list(settings.mixes()) == list(settings.mixes())


def test_a_recipe_becomes_a_run_for_each_mix(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("""
stages:
  a: {kind: curate, sources: [{path: "${recipe}", format: text, name: a}]}
  b: {kind: curate, sources: [{path: "${recipe}", format: text, name: b}]}
  tokenizer: {kind: tokenizer, from: {documents: [a, b]}, vocab_size: 512, special_tokens: 32}
  tokens: {kind: pack, from: {documents: [a, b], tokenizer: tokenizer}}
  mix: {kind: mixes, from: {tokens: tokens}, sets: [a, b], count: 5, weights: {b: 2}, run: {model: tiny, tokens: 5000}}
""")
    stages = read_recipe(path).stages
    runs = [name for name, stage in stages.items() if stage.kind.name == "pretrain"]
    assert runs == [f"mix.m{number}" for number in range(1, 6)] and stages["mix"].inputs["model"] == tuple(runs)
    mixes = [stages[run].settings.model_dump()["mix"] for run in runs]
    assert len({mix["a"] for mix in mixes}) == 5 and all(sum(mix.values()) == pytest.approx(1) for mix in mixes)
    assert stages["mix"].settings.model_dump()["weights"] == {"b": 2.0}
    for wrong, told in (
        ("count: 5", "count=3: the law of 2 sets has 3 constants"),
        ("sets: [a, b]", "a set is named twice"),
        ("weights: {b: 2}", "'c' is none of the sets a, b"),
    ):
        changed = {"count: 5": "count: 3", "sets: [a, b]": "sets: [a, b, b]", "weights: {b: 2}": "weights: {c: 2}"}
        bad = tmp_path / "bad.yaml"
        bad.write_text(path.read_text().replace(wrong, changed[wrong]))
        with pytest.raises(RecipeError, match=told):
            read_recipe(bad)
