"""The gate lets a model through that lost nothing, and keeps the one before it else; figures follow from the chains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from herdbook.posttrain.gate import gate
from herdbook.posttrain.round_settings import GateSettings
from herdbook.settings import UserError
from tests.support.chains import digits, write_chain, write_requests


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_requests(tmp_path_factory.mktemp("world"), 600)
    return write_requests(folder, 600, value=3, task="fact")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Chains that answer 7 (right for problems) or 3 (right for facts) with these probabilities."""
    laws = {
        "even": digits({"7": 0.5, "3": 0.5}, 1.0),
        "better": digits({"7": 0.55, "3": 0.45}, 1.0),
        "lopsided": digits({"7": 0.9, "3": 0.1}, 1.0),
        "endless": digits({"7": 0.5, "3": 0.5}, 0.5),
    }
    return {name: write_chain(tmp_path_factory.mktemp(name), law) for name, law in laws.items()}


def run(
    out: Path, models: dict[str, Path], requests: Path, new: str, old: str | None, **changes: Any
) -> dict[str, Any]:
    settings = GateSettings(**{"temperature": 1.0, "max_tokens": 2, "kept_back": 0.5, "fall": 0.1, **changes})
    trained = [out.parent / "trained"] if (out.parent / "trained").exists() else None
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    return gate(settings, models[new], models[old] if old else None, requests, trained, out)


def same_model(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def near(figure: dict[str, Any], share: float) -> bool:
    return abs(figure["value"] - share) < 4 * (share * (1 - share) / figure["n"]) ** 0.5


def test_a_model_that_lost_nothing_passes(tmp_path: Path, models: dict[str, Path], requests: Path) -> None:
    found = run(tmp_path / "out", models, requests, "better", "even")
    assert found["passed"] == 1.0 and not found["failures"]
    assert same_model(tmp_path / "out" / "model", models["better"] / "model")
    assert near(found["tasks"]["problem"], 0.55) and near(found["tasks"]["fact"], 0.45)
    assert found["changes"]["fact"]["low"] <= -0.05 <= found["changes"]["fact"]["high"]
    assert 450 < found["score"]["n"] < 750  # half of 1,200 is kept back
    assert json.loads((tmp_path / "out" / "gate.json").read_text()) == found


def test_a_task_that_fell_keeps_the_model_before(tmp_path: Path, models: dict[str, Path], requests: Path) -> None:
    found = run(tmp_path / "out", models, requests, "lopsided", "even")
    assert found["passed"] == 0.0 and len(found["failures"]) == 1 and "fact fell by" in found["failures"][0]
    assert same_model(tmp_path / "out" / "model", models["even"] / "model")
    assert near(found["tasks"]["fact"], 0.1) and near(found["given"]["tasks"]["fact"], 0.5)
    assert run(tmp_path / "out", models, requests, "lopsided", "even", fall=0.6)["passed"] == 1.0


def test_answers_must_end(tmp_path: Path, models: dict[str, Path], requests: Path) -> None:
    found = run(tmp_path / "out", models, requests, "endless", "even", fall=1.0)
    assert found["passed"] == 0.0 and "answers ended" in found["failures"][0]
    assert near(found["ended"], 0.5)
    with pytest.raises(UserError, match="first model does not pass"):
        run(tmp_path / "out", models, requests, "endless", None)
    assert run(tmp_path / "out", models, requests, "even", None)["passed"] == 1.0


def test_the_slope_of_the_chosen_answers_is_bounded(tmp_path: Path, models: dict[str, Path], requests: Path) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    for slope, passed in ((-0.4, 0.0), (0.1, 1.0)):
        (trained / "entry.json").write_text(json.dumps({"metrics": {"chosen_logprob_slope": slope}}))
        found = run(tmp_path / "out", models, requests, "better", "even", slope=(-0.2, 0.2))
        assert found["passed"] == passed and found["slopes"] == [slope]
