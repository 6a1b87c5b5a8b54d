"""The loop: accumulation equals the whole batch, resume is exact, faults end in a clear line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from herdbook.model.transformer import Transformer
from herdbook.settings import UserError
from herdbook.tokens.batches import Batch
from herdbook.train.loop import train
from herdbook.train.metrics import read_metrics
from herdbook.train.objective import Loss, NextToken
from tests.support.models import tiny_model
from tests.train.support import OneBatch, RandomBatches, tiny_settings


def run(folder: Path, seed: int = 0, split: int = 1, **changes: Any) -> tuple[Transformer, dict[str, Any]]:
    model = tiny_model(seed)
    batches = RandomBatches(split=split)
    return model, train(model, NextToken(), batches, tiny_settings(accumulate=split, **changes), folder)


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_accumulated_micro_batches_equal_the_whole_batch_however_unevenly_they_count(
    tmp_path: Path, optimizer: str
) -> None:
    whole, figures = run(tmp_path / "whole", optimizer=optimizer)
    parts, same = run(tmp_path / "parts", split=4, optimizer=optimizer)
    assert figures["tokens"] == same["tokens"]
    records = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for one, other in zip(*records, strict=True):
        assert one["counted"] == other["counted"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


def test_first_loss_and_gradient_norm_are_those_of_plain_torch(tmp_path: Path) -> None:
    run(tmp_path)
    model, batch = tiny_model(), RandomBatches().batch(0)
    loss = NextToken()(model, batch)
    (loss.total / loss.count).backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in model.parameters()])
    first = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(float(loss.total.detach()) / loss.count)
    assert first["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)


class Noisy:
    """An objective that draws random numbers, as dropout would."""

    def __call__(self, model: Transformer, batch: Batch) -> Loss:
        loss = NextToken()(model, batch)
        return Loss(loss.total * (1 + 0.1 * torch.rand(())), loss.count, tokens=loss.tokens)


class StopsAt(RandomBatches):
    """Asks the process to stop while a step's batch is made."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        super().__init__()
        self.at, self.number = step, number

    def batch(self, step: int) -> Batch:
        if step == self.at:
            os.kill(os.getpid(), self.number)
        return super().batch(step)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_run_asked_to_stop_saves_first_and_resumes_to_the_last_bit(
    tmp_path: Path, number: signal.Signals, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, stopped, resumed = tiny_model(), tiny_model(), tiny_model(seed=5)
    torch.manual_seed(3)
    train(undisturbed, Noisy(), RandomBatches(), tiny_settings(), tmp_path / "a")
    torch.manual_seed(3)
    with pytest.raises(error):
        train(stopped, Noisy(), StopsAt(2, number), tiny_settings(), tmp_path / "b")
    assert f"stopped signal={number.name} step=3" in capsys.readouterr().err
    torch.manual_seed(99)  # the checkpoint's generator is what counts
    figures = train(resumed, Noisy(), RandomBatches(), tiny_settings(), tmp_path / "b")
    assert_equal(undisturbed, resumed)
    assert figures["steps"] == 6
    assert [record["step"] for record in read_metrics(tmp_path / "b" / "metrics.jsonl")] == list(range(6))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_finished_run_that_is_started_again_changes_nothing(tmp_path: Path) -> None:
    once, figures = run(tmp_path)
    again, same = run(tmp_path, seed=7)
    assert_equal(once, again)
    assert same == figures


def test_records_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    run(tmp_path, checkpoint_every=4)
    for folder in (tmp_path / "checkpoints").glob("step-*6"):
        (folder / "checksums.json").unlink()
        (folder / ".metadata").unlink()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    run(tmp_path, checkpoint_every=4)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == list(range(6))


def test_checkpoints_of_another_model_are_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(UserError, match=r"of another model \(ffn_dim: 48 there, 64 here"):
        train(tiny_model(ffn_dim=64), NextToken(), RandomBatches(), tiny_settings(), tmp_path)
    with pytest.raises(UserError, match="optimizer: muon there, adamw here"):
        run(tmp_path, optimizer="adamw")


class NotFinite:
    """Loss is NaN at some steps (one call a step)."""

    def __init__(self, steps: set[int]) -> None:
        self.steps, self.calls = steps, -1

    def __call__(self, model: Transformer, batch: Batch) -> Loss:
        self.calls += 1
        loss = NextToken()(model, batch)
        return Loss(loss.total * float("nan") if self.calls in self.steps else loss.total, loss.count)


def test_a_step_that_is_not_finite_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    model = tiny_model()
    figures = train(model, NotFinite({1, 2, 4}), RandomBatches(), tiny_settings(max_skipped=2), tmp_path)
    assert figures["skipped_steps"] == 3
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    assert [record["loss"] is None for record in read_metrics(tmp_path / "metrics.jsonl")] == [
        step in {1, 2, 4} for step in range(6)
    ]


def test_too_many_of_them_in_a_row_stop_the_run_with_a_clear_line(tmp_path: Path) -> None:
    model = tiny_model()
    with pytest.raises(UserError, match=r"step 3: the loss is nan .* 3\. time in a row .* Lower peak_lr"):
        train(model, NotFinite(set(range(1, 6))), RandomBatches(), tiny_settings(max_skipped=2), tmp_path)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


@pytest.mark.parametrize("changes", [{"optimizer": "muon"}, {"optimizer": "adamw", "peak_lr": 0.02}])
def test_a_tiny_text_is_learnt_by_heart(tmp_path: Path, changes: dict[str, Any]) -> None:
    text = torch.tensor([list(b"In the herd book every animal has its line, and its parents theirs.")]) % 97
    batch = Batch(text[:, :-1], text[:, 1:], torch.zeros_like(text[:, :-1], dtype=torch.int32))
    model = Transformer(tiny_model().config)
    model.initialize(0)
    figures = train(model, NextToken(), OneBatch(batch), tiny_settings(steps=80, **changes), tmp_path)
    assert figures["loss"] < 0.03


def test_bf16_stays_close_to_fp32_and_weights_stay_fp32(tmp_path: Path) -> None:
    _, figures = run(tmp_path / "fp32")
    rough, close = run(tmp_path / "bf16", precision="bf16")
    assert close["loss"] == pytest.approx(figures["loss"], rel=0.03)
    assert {weight.dtype for weight in rough.parameters()} == {torch.float32}


def test_validation_runs_when_due_and_at_the_end_without_gradients(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def validate(model: nn.Module, final: bool) -> dict[str, float]:
        seen.append((final, torch.is_grad_enabled() or model.training))
        return {"bits_per_byte": 1.0 + len(seen)}

    settings = tiny_settings(validate_every=4)
    figures = train(tiny_model(), NextToken(), RandomBatches(), settings, tmp_path, validate=validate)
    assert seen == [(False, False), (True, False)]
    assert figures["bits_per_byte"] == 3.0
    found = {record["step"]: record.get("bits_per_byte") for record in read_metrics(tmp_path / "metrics.jsonl")}
    assert found == {0: None, 1: None, 2: None, 3: 2.0, 4: None, 5: 3.0}


def test_speed_and_mfu_follow_from_work_and_time(tmp_path: Path) -> None:
    _, figures = run(tmp_path, peak_flops=5e9)
    flops = full = 0.0
    for step in range(6):
        loss = NextToken()(tiny_model(), RandomBatches().batch(step))
        flops, full = flops + loss.flops, full + loss.full_flops
    assert figures["mfu"] == pytest.approx(flops / figures["seconds"] / 5e9)
    assert figures["mfu_full_attention"] == pytest.approx(full / figures["seconds"] / 5e9)
    assert figures["tokens_per_second"] == pytest.approx(figures["tokens"] / figures["seconds"])


def test_tensorboard_has_the_steps_of_the_record(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert losses == pytest.approx({json.loads(line)["step"]: json.loads(line)["loss"] for line in lines})
