"""Two launchers, each with half of the ranks, train what one launcher with all of them does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import herdbook
from herdbook.settings import UserError
from tests.test_end_to_end import RECIPE, TINY
from tests.train.launched import Launched, same_weights

ROOT = Path(herdbook.__file__).resolve().parents[1]
SECOND = """
import sys
from pathlib import Path
from herdbook.train.launch import follow
from herdbook.train.machines import Machines
out = Path(sys.argv[1])
follow(out, Machines(2, 1, sys.argv[2], "test"), lambda: (out / "over").exists())
"""


def second_machine(out: Path, endpoint: str, code: Path = ROOT) -> subprocess.Popen[bytes]:
    """A process that is the second machine: its own launcher and agent, and, if asked, its own code."""
    paths = [str(code), str(ROOT)] if code != ROOT else [str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen([sys.executable, "-P", "-c", SECOND, str(out), endpoint], env=environment, cwd=out)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> str:
    from herdbook.train.agent import _free_port

    place = f"localhost:{_free_port()}"
    monkeypatch.setenv("HERDBOOK_MACHINE", "0")
    monkeypatch.setenv("HERDBOOK_RENDEZVOUS", place)
    return place


@pytest.mark.slow
def test_two_machines_train_what_one_does(tmp_path: Path, endpoint: str) -> None:
    one = Launched(tmp_path / "one").start()
    one.finish()
    two = Launched(tmp_path / "two", parallel={"shard": 4, "machines": 2})
    second = second_machine(two.out, endpoint)
    try:
        figures = two.start().finish()
        (two.out / "over").touch()
        assert second.wait(60) == 0
    finally:
        second.kill()
    assert same_weights(one, two) and figures["loss"] == one.result["loss"]
    assert not (two.out / "machines").exists()


@pytest.mark.slow
def test_a_machine_with_other_code_ends_the_run_and_its_ranks_are_named(tmp_path: Path, endpoint: str) -> None:
    shutil.copytree(ROOT / "herdbook", tmp_path / "other" / "herdbook")
    with open(tmp_path / "other" / "herdbook" / "train" / "schedule.py", "a") as file:
        file.write("# a later version\n")
    run = Launched(tmp_path / "run", parallel={"shard": 4, "machines": 2})
    second = second_machine(run.out, endpoint, tmp_path / "other")
    try:
        with pytest.raises(UserError, match=r"herdbook's code is not the same on all ranks: rank [02] on .* rank [13]"):
            run.start().finish()
    finally:
        second.kill()
    assert not (run.out / "weights.pt").exists()
    assert json.dumps(run.ledger()) == "[]"


@pytest.mark.slow
def test_the_same_recipe_run_on_two_machines_gives_one_book(tmp_path: Path, endpoint: str) -> None:
    command = [sys.executable, "-m", "herdbook.cli", "run", str(RECIPE), *TINY]
    command += ["--only", "base", "base.parallel={shard: 2, machines: 2}"]
    running = []
    for number in (1, 0):
        place = {"HERDBOOK_MACHINE": str(number), "HERDBOOK_BOOK": str(tmp_path / "book"), "OMP_NUM_THREADS": "1"}
        running.append(subprocess.Popen(command, env={**os.environ, **place}, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert "following stage=base" in said[0] and "launching processes=1" in said[0]
    (base,) = (tmp_path / "book").glob("base-*")
    entry = json.loads((base / "entry.json").read_text())
    assert entry["metrics"]["steps"] == 12 and entry["settings"]["parallel"]["machines"] == 2
    assert (base / "model" / "model.safetensors").is_file() and not (base / "machines").exists()
