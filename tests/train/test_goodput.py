"""The ledger, spikes and prefetching: seconds add up over killed attempts; nothing changes what is trained."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.settings import UserError
from herdbook.train import checkpoint, goodput
from herdbook.train.faults import Skips, StopRequest
from herdbook.train.loop import Run, train
from herdbook.train.metrics import read_metrics
from herdbook.train.objective import Loss, NextToken
from herdbook.train.prefetch import Prefetcher
from tests.support.models import tiny_model
from tests.train.support import RandomBatches, tiny_settings


class Slow(RandomBatches):
    """Takes a tenth of a second for one batch, and dies at another."""

    def __init__(self, slow: int = -1, dies: int = -1) -> None:
        super().__init__()
        self.slow, self.dies = slow, dies

    def batch(self, step: int) -> Any:
        if step == self.dies:
            raise RuntimeError("killed")
        time.sleep(0.1 * (step == self.slow))
        return super().batch(step)


def test_seconds_of_all_attempts_have_an_account(tmp_path: Path) -> None:
    settings, begun = tiny_settings(checkpoint_every=2), time.monotonic()
    with pytest.raises(RuntimeError, match="killed"):
        train(tiny_model(), NextToken(), Slow(dies=3), settings, tmp_path)
    in_vain = read_metrics(tmp_path / "metrics.jsonl")[2]["seconds"]
    time.sleep(0.15)
    with pytest.raises(RuntimeError, match="killed"):
        train(tiny_model(), NextToken(), Slow(dies=2), settings, tmp_path)
    found = train(tiny_model(), NextToken(), Slow(slow=4), settings, tmp_path)["goodput"]
    spent = time.monotonic() - begun
    accounts = {key: value for key, value in found.items() if key.endswith("_seconds")}
    assert found["restarts"] == 2 and found["lost_steps"] == 1
    assert found["lost_work_seconds"] == pytest.approx(in_vain, abs=0.01)
    assert found["restarting_seconds"] > 0.15
    kept = read_metrics(tmp_path / "metrics.jsonl")
    waited = sum(record["waiting_seconds"] for record in kept)  # longer than the sleep on a busy machine
    assert found["waiting_for_data_seconds"] == pytest.approx(waited, abs=2e-3) and waited >= 0.1
    worked = sum(record["seconds"] - record["waiting_seconds"] for record in kept)
    assert found["training_seconds"] == pytest.approx(worked, abs=0.01)
    assert 0.05 * spent < sum(accounts.values()) <= spent  # imports of a first save count nowhere
    assert found["share"] == pytest.approx(found["training_seconds"] / sum(accounts.values()), rel=0.05)


def test_a_clock_that_jumps_changes_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(checkpoint_every=2)
    with pytest.raises(RuntimeError, match="killed"):
        train(tiny_model(), NextToken(), Slow(dies=3), settings, tmp_path)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 1e6)
    found = train(tiny_model(), NextToken(), Slow(), settings, tmp_path)["goodput"]
    assert all(0 <= value < 30 for key, value in found.items() if key.endswith("_seconds"))


def test_after_the_machine_was_started_again_the_time_of_day_is_asked_and_never_below_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = goodput.Ledger(tmp_path)
    ledger.resume({}, 0, tmp_path / "metrics.jsonl")
    ledger.started()
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "seconds": 2.5, "clock": 9e9}\n{"step": 1, "sec')
    monkeypatch.setattr(goodput, "machine_start", lambda: "another start")
    again = goodput.Ledger(tmp_path)
    again.resume({}, 0, tmp_path / "metrics.jsonl")
    again.started()
    found = again.figures()
    assert found["lost_work_seconds"] == 2.5 and found["lost_steps"] == 1
    assert 0 <= found["restarting_seconds"] < 30


def test_time_after_a_stop_that_was_asked_for_is_nobodys_fault(tmp_path: Path) -> None:
    ledger = goodput.Ledger(tmp_path)
    ledger.resume({}, 0, tmp_path / "metrics.jsonl")
    ledger.started()
    ledger.stopped(3)
    time.sleep(1.5)
    again = goodput.Ledger(tmp_path)
    again.resume({}, 3, tmp_path / "metrics.jsonl")
    again.started()
    assert again.figures()["restarting_seconds"] < 1.5  # not the pause


def test_a_spike_is_skipped_a_slow_rise_is_not_and_too_many_stop_the_run() -> None:
    skips = Skips(2, spike=6.0)
    losses = [3.0 + 0.1 * (step % 3) for step in range(30)]
    assert not any(skips.must_skip(step, loss, 1.0, 0.1) for step, loss in enumerate(losses))
    again = Skips(2, *skips.state, spike=6.0)  # as after a checkpoint
    assert again.must_skip(30, 4.5, 1.0, 0.1)
    assert not again.must_skip(31, 3.3, 1.0, 0.1)
    assert again.must_skip(32, 4.5, 1.0, 0.1) and again.must_skip(33, float("inf"), 1.0, 0.1)
    with pytest.raises(UserError, match=r"loss is 4\.5 .* above the 3\.\d+ .* 3\. time in a row"):
        again.must_skip(34, 4.5, 1.0, 0.1)
    assert not Skips(2).must_skip(0, 1e9, 1.0, 0.1)


def test_another_phase_may_have_another_loss() -> None:
    skips = Skips(2, spike=6.0)
    for step in range(30):
        skips.must_skip(step, 3.0 + 0.1 * (step % 3), 1.0, 0.1)
    skips.new_phase()
    assert not skips.must_skip(30, 7.0, 1.0, 0.1)


def test_batches_made_ahead_are_the_same_and_train_the_same(tmp_path: Path) -> None:
    models = [tiny_model(), tiny_model()]
    for model, ahead in zip(models, (0, 3)):
        train(model, NextToken(), RandomBatches(), tiny_settings(prefetch=ahead), tmp_path / str(ahead))
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def test_batches_are_made_before_they_are_asked_for_and_none_beyond_the_end() -> None:
    source = RandomBatches()
    made: list[int] = []
    plain = source.batch
    source.batch = lambda step: (made.append(step), plain(step))[1]  # type: ignore[method-assign, func-returns-value]
    ahead = Prefetcher(source, 2, torch.device("cpu"), end=4)
    ahead.batch(0)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert made == [0, 1, 2]
    assert torch.equal(ahead.batch(3).tokens, plain(3).tokens)  # a leap
    ahead.close()
    assert max(made) == 3


def test_the_optimizer_waits_until_the_weights_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(state: Any, into: Any) -> Any:
        time.sleep(0.05)  # meanwhile the loop is at the next step
        return plain(state, into)

    plain = checkpoint._copied
    settings = tiny_settings(steps=8, checkpoint_every=1, keep_checkpoints=9)
    train(tiny_model(), NextToken(), RandomBatches(), settings, tmp_path / "quick")
    monkeypatch.setattr(checkpoint, "_copied", copied)
    found = train(tiny_model(), NextToken(), RandomBatches(), settings, tmp_path / "slow")
    assert found["goodput"]["checkpointing_seconds"] > 0.05
    for step in range(1, 9):
        models = [tiny_model(seed=5), tiny_model(seed=6)]
        for name, model in zip(("quick", "slow"), models):
            with torch.no_grad():
                saved = {"model": dict(model.named_parameters())}
                checkpoint.Checkpoints(tmp_path / name / "checkpoints").load(step, saved)
        for one, other in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(one, other), step


def test_what_making_a_batch_raises_is_raised_where_it_is_asked_for() -> None:
    ahead = Prefetcher(Slow(dies=1), 2, torch.device("cpu"))
    ahead.batch(0)
    with pytest.raises(RuntimeError, match="killed"):
        ahead.batch(1)
    ahead.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_while_steps_are_recorded_ends_the_run_with_a_line_and_loses_no_checkpoint(
    tmp_path: Path,
) -> None:
    class Fills(RandomBatches):
        def batch(self, step: int) -> Any:
            if step == 3:
                (tmp_path / "run" / "metrics.jsonl").rename(tmp_path / "kept.jsonl")
                run.metrics.file = open("/dev/full", "w")  # type: ignore[union-attr]  # noqa: SIM115
            return super().batch(step)

    run = Run(tiny_model(), NextToken(), Fills(), tiny_settings(checkpoint_every=2), tmp_path / "run", None)
    run.resume()
    with StopRequest() as request, pytest.raises(UserError, match=r"can't be written .*No space left.*run again"):
        run.go(request)
    run.close()
    (tmp_path / "kept.jsonl").rename(tmp_path / "run" / "metrics.jsonl")
    undisturbed, resumed = tiny_model(), tiny_model(seed=3)
    train(undisturbed, NextToken(), RandomBatches(), tiny_settings(), tmp_path / "whole")
    train(resumed, NextToken(), RandomBatches(), tiny_settings(checkpoint_every=2), tmp_path / "run")
    for one, other in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_whose_losses_jump_leaves_those_steps_out_and_resumes_with_what_it_knew(tmp_path: Path) -> None:
    class Jumps:
        def __init__(self, at: set[int]) -> None:
            self.at, self.step = at, -1

        def __call__(self, model: Any, batch: Any) -> Loss:
            self.step += 1
            loss = NextToken()(model, batch)
            return Loss(loss.total * (3 if self.step in self.at else 1), loss.count)

    settings = tiny_settings(steps=40, spike=8.0, checkpoint_every=30)
    figures = train(tiny_model(), Jumps({25, 33}), RandomBatches(), settings, tmp_path)
    assert figures["skipped_steps"] == 2
    with pytest.raises(UserError, match=r"step 28: .* above the .* allow \(spike=8\.0\) for the 4\. time in a row"):
        train(tiny_model(), Jumps(set(range(25, 40))), RandomBatches(), settings, tmp_path / "bad")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a CUDA device")
def test_batches_come_to_a_cuda_device_from_pinned_memory() -> None:
    ahead = Prefetcher(RandomBatches(), 2, torch.device("cuda"))
    assert ahead._make(1).tokens.is_pinned()
    for step in (0, 1, 2):
        assert torch.equal(ahead.batch(step).tokens.cpu(), RandomBatches().batch(step).tokens)
    ahead.close()
