"""A run that was really trained, held against its plan by the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from herdbook import planning
from herdbook.book import Entry, folder_name
from herdbook.cli import app
from herdbook.machine import machine
from herdbook.model.huggingface import save_model
from herdbook.model.transformer import Transformer
from herdbook.scaling.cluster import FILE
from herdbook.scaling.fitting import AgainstSettings, against
from herdbook.scaling.measured import read_run
from herdbook.scaling.planner import PlanSettings
from herdbook.settings import UserError
from herdbook.tokens.batches import Batch
from herdbook.train.alone import alone
from herdbook.train.loop import train
from herdbook.train.objective import NextToken
from tests.scaling.test_ladder import ALPHA, BETA, FLOOR, A, B, true_loss
from tests.scaling.test_ladder import entry as bare_entry
from tests.support.models import tiny_config
from tests.train.support import tiny_settings

SHAPE = {"dim": 64, "layers": 4, "heads": 4, "kv_heads": 2, "ffn_dim": 160, "vocab_size": 700, "max_length": 256}


class Rows:
    """Rows of one document each."""

    def batch(self, step: int) -> Batch:
        """Four rows of 256 tokens."""
        tokens = torch.randint(0, 700, (4, 256), generator=torch.Generator().manual_seed(step))
        return Batch(tokens, tokens.roll(-1, 1), torch.zeros(4, 256, dtype=torch.int32))


def write_entry(book: Path, kind: str, settings: dict[str, Any], metrics: dict[str, Any]) -> Path:
    """An entry as a book has it; its stage is called after its kind."""
    full = f"{len(kind):02x}" * 20
    folder = book / folder_name(kind, full)
    folder.mkdir(exist_ok=True)
    entry = Entry(
        id=full, kind=kind, stage=kind, settings=settings, inputs={}, code="test", machine=machine(), started="",
        finished="", seconds=1.0, energy={"joules": 100.0, "source": "rapl"}, metrics=metrics,
    )  # fmt: skip
    (folder / "entry.json").write_text(entry.model_dump_json())
    return folder


def trained(book: Path, more: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The entry of a run."""
    settings = tiny_settings(steps=5, rows=4, length=256, accumulate=1, threads=1, checkpoint_every=0, **changes)
    folder = write_entry(book, "pretrain", settings.model_dump(mode="json"), {})
    model = Transformer(tiny_config(**SHAPE))
    model.initialize(1)
    figures = train(alone(model, settings), NextToken(), Rows(), settings, folder)
    save_model(model, folder / "model", bos_id=1, eos_ids=[2])
    return write_entry(book, "pretrain", settings.model_dump(mode="json"), figures | (more or {}))


def told(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["plan", *words, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_a_run_is_held_against_its_plan(tmp_path: Path) -> None:
    book = ["--book", str(tmp_path)]
    folder = trained(tmp_path, optimizer="muon", parallel={"recompute": "full"}, precision="fp32")
    found = told("--against", "pretrain", *book)
    assert abs(found["memory"]["error"]) < 0.05 and found["memory"]["measured"] > 4 * 3 * 100_000
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    own, wall = (np.median([row[key] for row in records[1:]]) for key in ("processor_seconds", "seconds"))
    assert found["step_seconds"]["measured"] == pytest.approx(min(own, wall))
    # One of the preset's two cores, which take 16 W.
    assert found["energy"]["forecast"] == pytest.approx(found["step_seconds"]["forecast"] * 5 * 8.0)
    assert found["energy"]["source"] == "rapl" and found["energy"]["measured"] == 100.0
    fitted = told("--against", "pretrain", "--calibrate", "pretrain", *book)
    assert abs(fitted["step_seconds"]["error"]) < 1e-9 < abs(found["step_seconds"]["error"])
    assert told("--calibrate", "pretrain", *book)["calibration"].items() <= fitted["calibration"].items()
    # Counters are of devices: what the rest of a site takes is in no forecast that is held against them.
    clusters = tmp_path / "clusters.yaml"
    clusters.write_text(
        FILE.read_text().replace("watts: 16.0", "watts: 32.0").replace("overhead: 1.0\n", "overhead: 1.5\n")
    )
    site = told("--against", "pretrain", f"clusters={clusters}", *book)
    assert site["energy"]["forecast"] == pytest.approx(2 * found["energy"]["forecast"])
    text = CliRunner().invoke(app, ["plan", "--against", "pretrain", *book]).output
    assert "step time" in text and "tensors of the fullest process" in text
    with pytest.raises(UserError, match="--laws ENTRY beside --results"):
        planning.against("pretrain", PlanSettings(), tmp_path, results="x")
    # The trained model is planned for by its entry, with what was measured.
    words = ["cluster=laptop", "devices=1", "batch=65536", "tokens=1e6", "length=256"]
    plan = told("pretrain", "--calibrate", "pretrain", *words, *book)
    assert plan["calibration"] == fitted["calibration"] and plan["model"] == folder.name


def test_loss_comes_from_the_laws_by_command_and_by_stage(tmp_path: Path) -> None:
    out = write_entry(tmp_path, "laws", {}, {})
    searched = [math.log(FLOOR), math.log(A), math.log(B), ALPHA, BETA]
    kept = {"form": "chinchilla", "searched": searched, "draws": [searched, searched], "scores": {}, "optimum": []}
    (out / "laws.json").write_text(json.dumps(kept))
    alone_found = against(AgainstSettings(), out, bare_entry(tmp_path / "big", 256, 64e12, exam=False), None, tmp_path)
    assert alone_found.keys() == {"loss"}  # a model that was not trained in the herd
    folder = trained(tmp_path, {"bits_per_byte": 2.0}, optimizer="adamw", precision="fp32")
    found = against(AgainstSettings(), out, folder, None, tmp_path)
    run = read_run(folder)
    assert run.attended == pytest.approx((256 + 1) / 2)  # a row of one document
    true = true_loss(run.config.matmul_parameters(), run.metrics["tokens"])
    assert found["loss"]["forecast"]["value"] == pytest.approx(true) and found["loss"]["measured"] == 2.0
    assert found["loss"]["error"] == pytest.approx(2.0 / true - 1) and found["memory"]["off"] < 0.05
    command = told("--against", "pretrain", "--laws", "laws", "--book", str(tmp_path))
    assert {key: command[key] for key in found} == json.loads((tmp_path / "against.json").read_text())
    # Devices that no cluster is of cost the planner's figures, not the stage.
    kept = json.loads((folder / "entry.json").read_text())
    kept["machine"]["gpus"] = ["NVIDIA L40S"]
    (folder / "entry.json").write_text(json.dumps(kept))
    other = against(AgainstSettings(), out, folder, None, tmp_path)
    assert other.keys() == {"loss", "plan"} and "no cluster of NVIDIA L40S devices" in other["plan"]["without"]


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "code-1"
    folder.mkdir()
    (folder / "entry.json").write_text(json.dumps({"settings": {}, "metrics": {}}))
    with pytest.raises(UserError, match=r"code-1 is no training run .* name an entry of pretrain"):
        read_run(folder)
