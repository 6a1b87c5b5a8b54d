"""A run over several ranks that is asked to stop saves first; in bf16 it trains what one process does; a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from herdbook.settings import UserError
from herdbook.train.checkpoint import Checkpoints
from herdbook.train.distributed import Ranks
from herdbook.train.loop import train
from herdbook.train.objective import NextToken
from herdbook.train.parallel import Parallel
from herdbook.train.topology import ParallelSettings
from tests.support.ranks import run_ranks
from tests.train.launched import Launched, same_weights
from tests.train.parity import Case
from tests.train.test_spread_checkpoint import losses

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from pathlib import Path
from herdbook.run import ended_by_signals, Ended
from tests.train.launched import Launched
run = Launched(Path(sys.argv[1]), parallel={"shard": 2}, steps=1000, schedule="constant", checkpoint_every=100)
try:
    with ended_by_signals():
        run._run()
        raise run.error
except Ended as ended:
    sys.exit(ended.code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the command", "everybody at once"])
def test_a_run_asked_to_stop_saves_the_step_it_is_at(tmp_path: Path, who: str) -> None:
    stopped = Launched(tmp_path / "stopped", parallel={"shard": 2})
    (stopped.out / "slow").write_text("0.1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = subprocess.Popen([sys.executable, "-c", RUN, str(stopped.out)], cwd=ROOT, env=environment)
    stopped.thread = type("Alive", (), {"is_alive": lambda self: command.poll() is None})()  # type: ignore[assignment]
    stopped.at_step(7)
    tree = psutil.Process(command.pid).children(recursive=True)
    for process in [psutil.Process(command.pid), *(tree if who == "everybody at once" else [])]:
        process.send_signal(signal.SIGTERM)
    assert command.wait(90) == 128 + signal.SIGTERM
    _, left = psutil.wait_procs(tree, 10)
    assert not left
    (saved,) = Checkpoints(stopped.out / "checkpoints").steps()
    assert saved == len(stopped.losses()) and 8 <= saved <= 14
    assert stopped.ledger()[-1]["event"] == "stopped"
    (stopped.out / "slow").unlink()
    whole, again = (
        Launched(tmp_path / name, parallel={"shard": 2}, schedule="constant") for name in ("whole", "stopped")
    )
    again.start().finish()
    whole.start().finish()
    assert same_weights(whole, again) and whole.losses() == again.losses()


BF16 = Case(2, 2, steps=6, precision="bf16")


def in_bf16(folder: Path) -> str:
    parallel = Parallel(Ranks(ParallelSettings(shard=2), torch.device("cpu")))
    model = parallel.apply(BF16.model(), bf16=True)
    train(model, NextToken(), BF16.batches(), BF16.settings, folder, parallel=parallel)
    return str(next(model.parameters()).dtype)


def test_two_ranks_in_bf16_train_what_one_does(tmp_path: Path) -> None:
    train(BF16.model(), NextToken(), BF16.batches(), BF16.settings, tmp_path / "one")
    assert run_ranks(2, in_bf16, tmp_path / "two") == ["torch.float32"] * 2  # the weights themselves
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2)


def on_a_full_disk(folder: Path) -> str:
    """Train on where the run stands, with room for small files only; what the run says."""
    parallel = Parallel(Ranks(ParallelSettings(shard=2), torch.device("cpu")))
    case = Case(2, 2, steps=4, checkpoint_every=1)
    model = parallel.apply(case.model())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
    with pytest.raises(UserError) as error:
        train(model, NextToken(), case.batches(), case.settings, folder, parallel=parallel)
    return str(error.value)


def test_a_full_disk_is_told_by_every_rank_and_leaves_the_older_checkpoint_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_ranks(2, Case(2, 2, steps=2).spread, folder, {"shard": 2})
    for said in run_ranks(2, on_a_full_disk, folder):
        assert "step-00000003: the disk is full" in said and "older checkpoints are whole" in said
    assert Checkpoints(folder / "checkpoints").steps() == [2]
    assert Checkpoints(folder / "checkpoints").newest()["step"] == 2  # type: ignore[index]
