"""Gates open and shut by their two conditions, the context grows with RoPE, and what is averaged is the mean."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from herdbook.model.huggingface import load_model
from herdbook.pretrain import gates
from herdbook.pretrain.anneal import anneal, data_test
from herdbook.pretrain.extend import extend
from herdbook.pretrain.settings import AnnealSettings, DataTestSettings, ExtendSettings, PretrainSettings
from herdbook.pretrain.stages import pretrain
from herdbook.settings import UserError
from herdbook.tokens.pack import PackSettings, pack
from herdbook.tokens.train import TokenizerSettings, train_tokenizer
from herdbook.train.average import evenly
from herdbook.train.checkpoint import Checkpoints
from herdbook.train.metrics import read_metrics
from tests.support.ranks import run_ranks

QUICK = {"precision": "fp32", "threads": 1, "tensorboard": False, "peak_flops": 1e10, "rows": 2}
SHAPE = {"dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "max_length": 64, "rope_theta": 10000}


def documents(folder: Path, count: int, word: str) -> Path:
    draw = random.Random(word)
    texts = [" ".join(f"The {word} weighs {draw.randint(1, 99)} kg." for _ in range(1 + i % 9)) for i in range(count)]
    (folder / "documents").mkdir(parents=True)
    ids = [f"{word}-{i}" for i in range(count)]
    pq.write_table(pa.table({"id": ids, "url": ids, "text": texts}), folder / "documents" / "all.parquet")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("herd")
    herd, noise = documents(root / "herd", 60, "cow"), documents(root / "noise", 40, "anvil")
    for name in ("tokenizer", "packed", "questions"):
        (root / name).mkdir()
    train_tokenizer(
        TokenizerSettings(vocab_size=330, special_tokens=16, heldout=0.2), [herd, noise], root / "tokenizer"
    )
    pack(PackSettings(heldout=0.2), {"herd": herd, "noise": noise}, root / "tokenizer", root / "packed")
    needle = {"id": "n", "needle": "The code is 7.", "question": "What is the code?", "answer": "7"}
    row = needle | {"filler": [f"Cow {i} slept." for i in range(9)]}
    (root / "questions" / "needle.jsonl").write_text(json.dumps(row) + "\n")
    settings = PretrainSettings.model_validate(
        {**QUICK, "model": SHAPE, "steps": 12, "length": 64, "mix": {"herd": 1.0}, "checkpoint_every": 0}
    )
    pretrain(settings, root / "packed", None, root / "base")
    return {"tokens": root / "packed", "start": root / "base", "questions": root / "questions"}


def extension(**changes: Any) -> ExtendSettings:
    base = {**QUICK, "steps": 6, "length": 128, "validate_every": 2, "mix": {"herd": 1.0}, "needle_questions": 1}
    return ExtendSettings.model_validate({**base, "tolerance": 0.5, "peak_lr": 0.001, **changes})


def answers(monkeypatch: pytest.MonkeyPatch, found: list[float]) -> None:
    """Let the needle be found at these shares, one look after the other."""
    left = list(found)
    monkeypatch.setattr(gates.Gate, "needle", lambda self, model: left.pop(0))


def test_a_stage_ends_at_the_first_look_at_which_the_gate_is_open_and_the_context_has_grown(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, [0.8, 1.0])
    found = extend(extension(rope_theta=30_000), **made, out=tmp_path)
    assert found["steps"] == 4 and [check["needle"] for check in found["checks"]] == [0.8, 1.0]
    config = load_model(tmp_path / "model").config
    assert (config.max_length, config.rope_theta) == (128, 30_000)
    again = extend(extension(rope_theta=30_000), **made, out=tmp_path)  # as after a kill before the entry was published
    assert again == found


def test_a_shut_gate_stops_the_stage_at_its_limit_and_says_why(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, [0.8] * 3)
    with pytest.raises(UserError, match=r"gate at 128 tokens is shut after .* limit: 4 of 5 needles found"):
        extend(extension(), **made, out=tmp_path / "needle")
    assert not (tmp_path / "needle" / "model").exists()
    answers(monkeypatch, [1.0] * 3)
    with pytest.raises(UserError, match=r"limit: short evaluations at .* in rows of 64, where .* would do"):
        gates.Before(64, 0.01).write(tmp_path / "short")
        extend(extension(), **made, out=tmp_path / "short")


def test_short_evaluations_are_held_against_the_model_before_its_first_extension(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, [1.0, 1.0])
    first = extend(extension(), **made, out=tmp_path / "a")
    second = extend(
        extension(length=192), made["tokens"], tmp_path / "a", made["questions"], tmp_path / "b"
    )  # not against the first stage's own figure, in rows of 128
    assert second["before"] == first["before"] and first["before"]["length"] == 64


@pytest.mark.parametrize("topology", [{}, pytest.param({"shard": 2}, marks=pytest.mark.slow)])
def test_the_real_needles_are_asked_for_at_the_stages_length(
    made: dict[str, Path], tmp_path: Path, topology: dict[str, int]
) -> None:
    with pytest.raises(UserError, match="0 of 5 needles found at 128 tokens"):
        extend(extension(steps=2, parallel=topology), **made, out=tmp_path)


def liveliness(gate: gates.Gate, model: Any) -> float:
    """In place of needles: a figure of the whole model's logits, at least 1 only once it has learnt a little."""
    assert model.config.max_length == 128
    with torch.no_grad():
        logits = model(torch.arange(100).unsqueeze(0))
    return 1.0 + float(logits.std()) - 0.81  # it goes from 0.77 to 0.85


@pytest.mark.parametrize("topology", [{"shard": 2}, {"pipeline": 2}])
def test_a_model_in_parts_meets_the_gate_as_a_whole_one(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topology: dict[str, int]
) -> None:
    monkeypatch.setattr(gates.Gate, "found", liveliness)
    given = {"rope_theta": 30_000, "accumulate": 2}
    wanted = extend(extension(**given), **made, out=tmp_path / "one")
    spread = partial(extend, extension(**given, parallel=topology), **made, out=tmp_path / "two")
    found, other = run_ranks(2, spread)
    assert found["steps"] == other["steps"] == wanted["steps"] == 4  # the gate opens at the second look
    assert found["before"]["bits_per_byte"] == pytest.approx(wanted["before"]["bits_per_byte"], rel=1e-5)
    for one, check in zip(wanted["checks"], found["checks"], strict=True):
        assert one == pytest.approx(check, rel=1e-4)
    models = [load_model(tmp_path / name / "model") for name in ("one", "two")]
    assert models[0].config == models[1].config and models[1].config.rope_theta == 30_000
    for weight, same in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(weight, same, rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in (tmp_path / "two").iterdir() if path.name.startswith(".")) == []


def test_a_context_that_does_not_grow_and_missing_needles_are_told(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="context of 64 tokens already, and length is 64"):
        extend(extension(length=64), **made, out=tmp_path / "a")
    with pytest.raises(UserError, match="no questions in"):
        extend(extension(), made["tokens"], made["start"], tmp_path, tmp_path / "b")


def annealing(**changes: Any) -> dict[str, Any]:
    return {**QUICK, "steps": 20, "length": 64, "mix": {"herd": 1.0}, "members": 4, "average_over": 0.5, **changes}


def test_the_annealed_model_is_the_mean_of_the_last_checkpoints(made: dict[str, Path], tmp_path: Path) -> None:
    found = anneal(AnnealSettings.model_validate(annealing()), made["tokens"], made["start"], tmp_path)
    steps = [int(name.removeprefix("step_")) for name in found["members"]]
    assert steps == [14, 16, 18, 20]  # every 20 * .5 / 4, rounded
    model, sums = load_model(made["start"] / "model"), {}
    for step in steps:
        Checkpoints(tmp_path / "checkpoints").load(step, {"model": dict(model.named_parameters())})
        for name, weight in model.named_parameters():
            sums[name] = sums.get(name, 0) + weight.detach().double()
    averaged = load_model(tmp_path / "model")
    for name, weight in averaged.named_parameters():
        torch.testing.assert_close(weight.double(), sums[name] / 4, rtol=1e-5, atol=1e-6)
    assert found["best_member"] == min(found["members"].values())
    difference = found["bits_per_byte"] - found["best_member"]
    assert found["average_minus_best"]["value"] == pytest.approx(difference, abs=1e-9)
    assert found["no_worse"] == float(difference <= 0)
    shares = [record["lr_share"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert shares == pytest.approx([1 - step / 20 for step in range(20)])
    again = anneal(AnnealSettings.model_validate(annealing()), made["tokens"], made["start"], tmp_path)
    assert again == found


@pytest.mark.parametrize(("total", "members", "share"), [(100, 5, 0.5), (101, 5, 0.25), (7, 5, 1.0), (3, 5, 0.5)])
def test_members_end_with_the_last_step_and_lie_evenly(total: int, members: int, share: float) -> None:
    every, steps = evenly(total, members, share)
    assert steps[-1] == total and len(steps) <= members
    assert all(step % every == 0 for step in steps[:-1])
    gaps = np.diff(steps)
    assert not len(gaps) or gaps.max() <= 2 * gaps.min()


def test_a_set_that_is_like_the_judge_helps_and_one_that_is_not_does_not(made: dict[str, Path], tmp_path: Path) -> None:
    both = annealing(steps=40, mix={"noise": 1.0}, peak_lr=0.01, judge=["herd"])
    helps = DataTestSettings.model_validate(both | {"new": "herd"})
    found = data_test(helps, made["tokens"], made["start"], tmp_path / "helps")
    assert found["new_minus_usual"]["high"] < 0
    assert found["with_new"] - found["usual"] == pytest.approx(found["new_minus_usual"]["value"])
    hurts = DataTestSettings.model_validate(both | {"new": "noise", "mix": {"herd": 1.0}, "share": 0.9})
    assert data_test(hurts, made["tokens"], made["start"], tmp_path / "hurts")["new_minus_usual"]["low"] > 0
    with pytest.raises(UserError, match="new='barn' is none of the token sets"):
        data_test(helps.model_copy(update={"new": "barn"}), made["tokens"], made["start"], tmp_path / "none")


def test_tokens_of_another_tokenizer_and_ids_beyond_the_vocabulary_are_refused(
    made: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    from herdbook.tokens.shards import TokenSets, check_ids

    other = tmp_path / "other"
    shutil.copytree(made["tokens"], other)
    index = json.loads((other / "index.json").read_text())
    (other / "index.json").write_text(json.dumps(index | {"tokenizer": "0" * 64}))
    settings = PretrainSettings.model_validate({**QUICK, "steps": 1, "length": 64})
    with pytest.raises(UserError, match="made with another tokenizer"):
        pretrain(settings, other, made["start"], tmp_path / "out")
    (other / "index.json").write_text(json.dumps(index | {"vocab_size": 200}))
    with pytest.raises(UserError, match=r"token [\d,]+ is \d+, beyond the vocabulary of 200"):
        TokenSets.open(other)
    check_ids(np.array([199]), 200, other)


def test_the_laptop_recipe_grows_in_six_stages_each_from_the_one_before() -> None:
    from herdbook.recipe import read_recipe

    stages = read_recipe(Path(__file__).resolve().parents[2] / "recipes" / "long-context.yaml").stages
    grown = [stage for stage in stages.values() if stage.kind.name == "extend"]
    lengths = [stage.settings.length for stage in grown]  # type: ignore[attr-defined]
    assert len(grown) == 6 and lengths == sorted(lengths) and lengths[-1] == 4096
    assert [stage.inputs["model"] for stage in grown] == [("base",), *((stage.name,) for stage in grown[:-1])]
