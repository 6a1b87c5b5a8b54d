"""A ladder from its recipe to its pictures: entries of known loss, and one small ladder that is really trained."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import ValidationError

from herdbook.book import Book, Entry
from herdbook.model.config import ModelConfig
from herdbook.recipe import RecipeError, read_recipe
from herdbook.report.scaling import _scores, laws
from herdbook.run import StageFailed, run_recipe
from herdbook.scale import scale, train_ladder
from herdbook.scaling.fitting import AgainstSettings, LawsSettings, against, forecast_loss, read_entries
from herdbook.scaling.ladder import LadderSettings
from herdbook.scaling.laws import LAWS, Fit
from herdbook.scaling.runs import make_runs
from herdbook.settings import UserError

FLOOR, A, B, ALPHA, BETA = 0.35, 34.0, 60.0, 0.28, 0.34
SETTINGS = LadderSettings(budgets=(1e12, 2e12, 4e12, 8e12), tokens_per_parameter=5.0)


def true_loss(parameters: float, tokens: float) -> float:
    return FLOOR + A / parameters**ALPHA + B / tokens**BETA


def true_score(loss: float) -> float:
    return 0.25 + 0.7 / (1 + float(np.exp(9 * (loss - 0.55))))


def entry(folder: Path, width: int, flops: float, exam: bool, noise: float = 0.0) -> Path:
    """What a run leaves in the book, its loss by the known law, the right answers' loss a line in it."""
    config = ModelConfig(vocab_size=SETTINGS.vocab_size, **SETTINGS.shape(width))
    tokens = flops / config.flops_per_token((SETTINGS.length + 1) / 2)
    loss = true_loss(config.matmul_parameters(), tokens) + noise
    (folder / "model").mkdir(parents=True)
    metrics = {"tokens": tokens, "flops": flops, "bits_per_byte": loss}
    (folder / "entry.json").write_text(json.dumps({"metrics": metrics}))
    shape = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": config.vocab_size,
        "hidden_size": config.dim, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "intermediate_size": config.ffn_dim, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "model" / "config.json").write_text(json.dumps(shape))
    if exam:
        answer = 0.9 - 0.09 * (np.log10(flops) - 12)  # a line in log FLOPs, as the paper finds it
        examined(folder.with_name(f"{folder.name}-exam"), answer)
    return folder


def examined(folder: Path, answer: float) -> Path:
    """An exam of a model whose right answers cost `answer` nats per byte, its score the true one of that loss."""
    (folder / "samples").mkdir(parents=True)
    right = round(400 * true_score(answer))
    rows = [
        {"logprobs": [-4 * answer, -9.0], "answer": 0, "choices": [" four", " x"], "right": n < right}
        for n in range(400)
    ]
    (folder / "samples" / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def ladder(folder: Path, noise: float = 0.0) -> tuple[dict[str, Path], dict[str, Path]]:
    generator = np.random.default_rng(0)
    models, exams = {}, {}
    for number, budget in enumerate(SETTINGS.budgets, start=1):
        for width in SETTINGS.chosen(budget):
            name = f"ladder.c{number}.w{width}"
            models[name] = entry(folder / name, width, budget, exam=True, noise=float(generator.normal(0, noise)))
            exams[f"{name}-exam"] = folder / f"{name}-exam"
    return models, exams


def test_laws_of_known_runs_and_a_forecast_held_against_the_truth(tmp_path: Path) -> None:
    models, exams = ladder(tmp_path, noise=0.0005)
    out = tmp_path / "laws"
    out.mkdir()
    known = {str(answer): examined(tmp_path / f"known{answer}", answer) for answer in (0.1, 0.45, 0.6)}
    figures = laws(LawsSettings(), models, out, exams, known)
    true = ALPHA / (ALPHA + BETA)  # of tokens: dL/dN = dL/dD · D/N at the optimum
    assert figures["tokens_exponent"]["value"] == pytest.approx(true, abs=0.06)
    assert figures["forecast"]["flops"] == 8 * 8e12
    coming = figures["forecast"]
    assert coming["loss"]["value"] == pytest.approx(true_loss(coming["parameters"], coming["tokens"]), rel=0.02)
    assert coming["score_facts"]["value"] == pytest.approx(true_score(0.9 - 0.09 * np.log10(64)), abs=0.03)
    for picture in ("isoflop.png", "optimum.png", "forecast.png", "score.png"):
        assert (out / picture).read_bytes()[:4] == b"\x89PNG"
    assert len((out / "runs.csv").read_text().splitlines()) == 21
    big = entry(tmp_path / "big", 256, 64e12, exam=True)
    found = against(AgainstSettings(), out, big, tmp_path / "big-exam", tmp_path)
    assert found["loss"]["off"] < 0.02 and found["score"]["off"] < 0.05
    far = entry(tmp_path / "far", 256, 1e16, exam=True)  # scores that no run of the ladder comes near
    assert against(AgainstSettings(), out, far, tmp_path / "far-exam", tmp_path)["score"]["off"] < 0.03
    kept = json.loads((out / "laws.json").read_text())
    del kept["scores"]["facts"]["known_loss"], kept["scores"]["facts"]["known_score"]
    (out / "laws.json").write_text(json.dumps(kept))
    assert against(AgainstSettings(), out, far, tmp_path / "far-exam", tmp_path)["score"]["off"] > 0.05
    with pytest.raises(UserError, match="examined in facts, the model in facts"):
        against(AgainstSettings(task="gsm8k"), out, big, tmp_path / "big-exam", tmp_path)


def test_scores_are_drawn_down_to_the_chance_they_are_forecast_with() -> None:
    axes = Figure().subplots()
    exam = {"loss": [0.3, 0.5, 0.7, 0.9, 1.1, 1.3], "score": [0.95, 0.8, 0.6, 0.51, 0.49, 0.5]}
    _scores(axes, {"yes_or_no": exam}, {}, 0.5)
    drawn = np.asarray(axes.get_lines()[1].get_ydata())
    assert drawn.min() == pytest.approx(0.5, abs=0.01) and drawn.min() >= 0.5


def test_entries_without_what_is_needed_are_named(tmp_path: Path) -> None:
    folder = entry(tmp_path / "run", 64, 1e12, exam=False)
    (folder / "entry.json").write_text(json.dumps({"metrics": {"tokens": 5}}))
    with pytest.raises(UserError, match=r"ladder\.one tells no flops, bits_per_byte"):
        read_entries({"ladder.one": folder})


def test_widths_are_chosen_about_the_optimum() -> None:
    for budget in SETTINGS.budgets:
        widths = SETTINGS.chosen(budget)
        assert len(widths) == 5 and widths == sorted(widths)
        shapes = [ModelConfig(vocab_size=4096, **SETTINGS.shape(width)) for width in widths]
        ratios = [budget / shape.flops_per_token(256.5) / shape.matmul_parameters() for shape in shapes]
        assert min(ratios) < 5 < max(ratios)
    assert SETTINGS.chosen(8e12)[-1] >= SETTINGS.chosen(1e12)[-1]


def test_steps_grow_with_the_budget_as_the_papers() -> None:
    paper = LadderSettings(budgets=(6e18, 1e22), length=4096, batch_tokens=4_194_304)
    assert [paper.rows(budget) for budget in paper.budgets] == [pytest.approx(64, abs=5), 1024]  # 250K and 4M tokens
    small = LadderSettings(budgets=(1.25e11, 1e12), length=128, batch_tokens=512)
    assert [small.rows(budget) for budget in (1e6, 1.25e11, 1e12, 8e12)] == [1, 2, 4, 9]
    assert SETTINGS.rows(1e12) is None


def test_rates_fall_with_the_budget_and_heads_may_be_as_many_in_all_models() -> None:
    falling = LadderSettings(budgets=(1e11, 1e12), peak_lr=0.02, lr_power=0.5, heads=2, widths=(24, 28, 32, 40, 44))
    assert [falling.rate(budget) for budget in (1e11, 4e11, 1e13)] == [0.02, 0.01, 0.002]
    assert SETTINGS.rate(1e12) is None
    assert {falling.shape(width)["heads"] for width in falling.widths} == {2}
    with pytest.raises(ValidationError, match=r"widths: 30 is no multiple of 2 \* heads=4"):
        LadderSettings(budgets=(1e11, 1e12), heads=2, widths=(24, 30, 32, 40, 44))
    with pytest.raises(ValidationError, match="lr_power: the rate falls from peak_lr"):
        LadderSettings(budgets=(1e11, 1e12), lr_power=0.5)


def test_a_forecast_is_as_wide_as_runs_are_noisy() -> None:
    law = LAWS["chinchilla"]
    sure = Fit(law, np.array([*np.log([FLOOR, A, B]), ALPHA, BETA]), 0.0)
    run = make_runs(np.array([1e6]), np.array([2e7]), np.array([1.0]))
    draws = np.repeat(sure.searched[None], 100, axis=0)
    quiet, noisy = (forecast_loss(sure, draws, noise, run, seed=1) for noise in (0.0, 0.02))
    assert quiet["low"] == pytest.approx(quiet["value"]) == pytest.approx(quiet["high"])
    assert quiet["value"] == pytest.approx(true_loss(1e6, 2e7))
    # 50 draws stand for the normal distribution, whose 95 % lie within 1.96 standard deviations.
    assert np.log(noisy["high"] / noisy["low"]) == pytest.approx(2 * 1.96 * 0.02, rel=0.3)


RECIPE = """
stages:
  world: {kind: world, seed: 3, people: 6, places: 6, animals: 6, language_facts: 6, language_problems: 20,
    problems: 120, math_articles: 4, quizzes: 3, programs: 40, short_chronicles: 12, long_chronicles: 1, questions: 0.1}
  corpus: {kind: curate, from: {pages: world}}
  tokenizer: {kind: tokenizer, from: {documents: corpus}, vocab_size: 512, special_tokens: 32}
  tokens: {kind: pack, from: {documents: corpus, tokenizer: tokenizer}}
  ladder:
    kind: ladder
    from: {tokens: tokens, world: world}
    budgets: [3.0e9, 6.0e9, 1.2e10]
    widths: [16, 32, 48, 64]
    sizes: 4
    vocab_size: 512
    length: 128
    tasks: [facts]
    run: {rows: 2, peak_lr: 0.02}
"""


def test_a_recipe_becomes_runs_exams_and_laws(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    stages = read_recipe(path).stages
    runs = [name for name, stage in stages.items() if stage.kind.name == "pretrain"]
    assert runs == [f"ladder.c{c}.w{w}" for c in (1, 2, 3) for w in (16, 32, 48, 64)]
    settings = stages["ladder.c3.w48"].settings.model_dump()
    assert settings["flops"] == 1.2e10 and settings["rows"] == 2 and settings["model"]["dim"] == 48
    assert stages["ladder"].kind.name == "laws" and stages["ladder"].inputs["model"] == tuple(runs)
    assert stages["ladder"].inputs["results"] == tuple(f"{run}-exam" for run in runs)
    path.write_text(RECIPE.replace("length: 128", "length: 128\n    batch_tokens: 640\n    batch_power: 1"))
    grown = read_recipe(path).stages
    rows = [grown[f"ladder.c{c}.w16"].settings.model_dump()["rows"] for c in (1, 2, 3)]
    assert rows == [2, 2, 2]  # `run` has the last word
    text = path.read_text().replace("run: {rows: 2, peak_lr: 0.02}", "peak_lr: 0.02\n    lr_power: 0.5")
    path.write_text(text)
    grown = read_recipe(path).stages
    found = [grown[f"ladder.c{c}.w16"].settings.model_dump() for c in (1, 2, 3)]
    assert [one["rows"] for one in found] == [1, 2, 5]
    assert [one["peak_lr"] for one in found] == [0.02, 0.0141, 0.01]
    path.write_text(RECIPE.replace("sizes: 4", "sizes: 5"))
    with pytest.raises(RecipeError, match="sizes=5, and there are 4 widths"):
        read_recipe(path)
    path.write_text(RECIPE.replace(", 1.2e10]", "]"))
    with pytest.raises(RecipeError, match="of at least 3 budgets, and there are 2"):
        read_recipe(path)
    path.write_text(RECIPE.replace("run: {rows: 2", "run: {steps: 5, rows: 2"))
    with pytest.raises(RecipeError, match="flops says how long the run is by itself"):
        read_recipe(path)


WORDS = (
    "budgets=[3.0e9, 6.0e9, 1.2e10]", "widths=[16, 32, 48, 64]", "sizes=4", "vocab_size=512", "length=128",
    "tasks=[facts]", "run.rows=2", "run.peak_lr=0.02",
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "budgets"),
        (("budgets",), "'budgets' is no setting"),
        (("budgets=[1e11, 2e11]", "sizes=3"), "sizes"),
        (("budgets=[1e11, 2e11]", "widht=3"), "widht"),
        (("budgets=[1e11, 2e11]", "run.rowz=3"), "rowz"),
        (("budgets=[0.0, 2e11]",), "budgets: 0 is no number above 0"),
        (("budgets=[1e11, 1e11]",), r"budgets: 1e\+11 is there twice"),
        (("budgets=[1e11, 2e11]", "widths=[32, 32, 48, 64, 96]"), "widths: 32 is there twice"),
        (("budgets=[1e11, 2e11]", "run=3"), "run=3 is no setting of its runs"),
        # One setting of a shape joins the others, as in a recipe, so that it is what is wrong with it that is told.
        (("budgets=[1e11, 2e11]", "run.model.kv_heads=5"), "heads=2 is not a multiple of kv_heads=5"),
        (("budgets=[1e11, 2e11, 4e11]", "tasks=[facts]"), "was not made from a world"),
    ],
)
def test_mistakes_in_a_ladders_words_are_told_before_it_trains(
    tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    tokens = Entry(
        id="0" * 40, kind="pack", stage="tokens", settings={}, inputs={}, code="", machine={}, started="", finished="",
        seconds=0, energy=None, metrics={},
    )  # fmt: skip
    with pytest.raises(UserError, match=told):
        train_ladder(tokens, Book(tmp_path / "book"), words)
    assert not (tmp_path / "book").exists()


@pytest.mark.slow
def test_a_small_ladder_is_really_trained(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    book = Book(tmp_path / "book")
    told = []
    for train in (lambda: run_recipe(read_recipe(path), book), lambda: scale("tokens", book, WORDS)):
        try:
            train()
            told.append("")
        except (UserError, StageFailed) as error:  # so small a ladder may have its minimum outside; it says so
            assert "add sizes" in str(error) or "bend" in str(error)
            told.append(str(error))
    assert told[0].partition("\n")[0] == told[1].partition("\n")[0]
    entries, _ = book.entries()
    assert sum(one.kind == "pretrain" for one in entries) == 12  # the command found every run of the recipe's ladder
    for found in entries:
        if found.kind == "pretrain":
            wanted = {"c1": 3e9, "c2": 6e9, "c3": 1.2e10}[found.stage.split(".")[1]]
            assert found.metrics["flops"] == pytest.approx(wanted, rel=0.25)  # rows hold several documents, padding
