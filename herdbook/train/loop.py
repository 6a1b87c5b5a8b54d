"""ONE loop for every objective (§3.3): pre-training, SFT, reward, DPO differ in objective and batch source only.

A run is a pure function of model, data and settings: the batch, the learning rate and the momentum of a step
follow from its number, so weights, optimizer state, generators and that number are all a checkpoint
holds, and a run that was killed ends with the weights of one that was not, to the last bit (with the same
number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from herdbook.console import log, progress
from herdbook.settings import UserError
from herdbook.train import pulse
from herdbook.train.checkpoint import Checkpoints, random_state, restore_random_state
from herdbook.train.faults import Skips, StopRequest
from herdbook.train.float8 import to_float8
from herdbook.train.goodput import Ledger
from herdbook.train.gradients import OneProcess
from herdbook.train.machine import faster_precision, measured_peak, prepare
from herdbook.train.metrics import MetricsLog
from herdbook.train.objective import Objective
from herdbook.train.optimizer import Optimizers
from herdbook.train.peak import Peak
from herdbook.train.phases import Plan
from herdbook.train.prefetch import Prefetcher
from herdbook.train.settings import TrainSettings
from herdbook.train.stragglers import Ranking

Validate = Callable[[nn.Module, bool], dict[str, float]]
"""Judges the model (gradients off, under the loop's autocast), True at the end; its figures go into the record."""

Ended = Callable[[dict[str, float]], bool]
"""Whether a validation's figures are those the run was for, so that it ends before its last step."""


class BatchSource(Protocol):
    """Batches as a pure function of their number; a step's micro-batches follow each other (`phases.Plan.micro`)."""

    def batch(self, step: int) -> Any: ...


def train(
    model: nn.Module,
    objective: Objective,
    batches: BatchSource,
    settings: TrainSettings,
    folder: Path,
    *,
    validate: Validate | None = None,
    ended: Ended | None = None,
    parallel: Any = None,
) -> dict[str, Any]:
    """Train `model` in place up to `settings.total_steps`, going on from `folder`/checkpoints where there are any.

    Writes checkpoints, metrics.jsonl and tensorboard/ in `folder`. Returns the run's figures: loss (mean of the last
    tenth of the steps, nats per counted token), tokens, seconds, tokens_per_second, mfu, …, the last validation's,
    and `goodput`, where the seconds of all attempts went.
    Raises UserError on another model's checkpoints, on a full disk, and when the loss stays not finite;
    KeyboardInterrupt or SystemExit after a checkpoint when asked to stop. With `parallel` (`parallel.Parallel`), which
    has been applied to the model, every rank calls this with the same arguments.
    """
    run = Run(model, objective, batches, settings, folder, validate, ended, parallel)
    try:
        run.resume()
        with StopRequest() as request:
            run.go(request)
    finally:
        run.close()
    return run.figures()


class Run:
    """One run of the loop: what is trained, and where it stands."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        batches: BatchSource,
        settings: TrainSettings,
        folder: Path,
        validate: Validate | None,
        ended: Ended | None = None,
        parallel: Any = None,
    ) -> None:
        self.parallel = parallel or OneProcess()
        self.ledger = Ledger(self.parallel.own_folder(folder))
        self.threads = prepare(settings.threads)
        self.model, self.objective, self.plan = model, objective, Plan.of(settings)
        self.settings, self.folder, self.validate, self.ended = settings, folder, validate, ended
        self.device = next(model.parameters()).device
        ahead = settings.prefetch if settings.prefetch is not None else 0 if self.device.type == "cpu" else 2
        self.batches = Prefetcher(
            self.parallel.share(batches), ahead, self.device, self.plan.micro(self.plan.total_steps)
        )
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.keep_checkpoints, self.parallel.ranks)
        self.found = self.parallel.found(self.checkpoints, self._standing)
        # A resumed run must not choose anew: a busy machine may measure another winner.
        self.precision = self._chosen_precision()
        self.dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        if self.precision == "float8" and self.parallel.ranks is None:  # else it was done before the model was spread
            to_float8(model, settings.float8, self.device)
        self.optimizers = Optimizers(model, settings, self.dtype)
        self.step = self.tokens = 0
        self.saved: int | None = None
        self.seconds = self.flops = self.full_flops = self.waited = 0.0
        self.done = False
        self.skips = Skips(settings.max_skipped, spike=settings.spike)
        self.losses: list[float] = []
        self.validation: dict[str, float] = {}
        self.memory = Peak(self.device, able=not settings.compile and self.precision != "float8")
        self.metrics: MetricsLog | None = None
        self.last: dict[str, Any] = {}  # the record of the step before
        self.ranking = Ranking(self.parallel.ranks, settings.parallel)

    def _chosen_precision(self) -> str:
        if self.settings.precision != "auto":
            return self.settings.precision
        return self.found["precision"] if self.found else self.parallel.same(lambda: faster_precision(self.device))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: the trained shapes and what trains them."""
        shapes = self.parallel.shapes(self.model)
        config = getattr(self.model, "config", None)
        shape = config.model_dump(mode="json") if config is not None else {}
        return {"model": shape, "shapes": shapes, "optimizer": self.settings.optimizer}

    def state(self) -> dict[str, Any]:
        """All tensors of the run, by name; loading into them restores it. What is frozen is where it came from."""
        return {
            "model": {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad},
            "optimizer": self.optimizers.state(),
            "random": random_state(),
        }

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one, and open the record."""
        self.identity  # noqa: B018 - all ranks find it together, and a thread may ask for it later
        if self.found is not None:
            self._go_on_from(self.found)
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.found.get("ledger", {}) if self.found else {}
        self.ledger.resume(kept, self.step, self.folder / "metrics.jsonl")
        self._keep_record()

    def _go_on_from(self, found: dict[str, Any]) -> None:
        """Take over the tensors and figures of a checkpoint, or of where a living group stands."""
        self._check_identity(found["identity"])
        state = self.state()
        self.parallel.load(self.checkpoints, found["step"], state)
        restore_random_state(state["random"])
        self.step, self.saved = found["step"], found["step"]
        for key in ("tokens", "seconds", "flops", "full_flops", "losses", "validation"):
            setattr(self, key, found[key])
        self.done, self.last = found.get("done", False), found.get("last", {})
        self.memory.bytes = found.get("most_bytes", 0)
        self.skips = Skips(self.settings.max_skipped, *found["skips"], spike=self.settings.spike)
        log("resumed", step=self.step, of=self.plan.total_steps, folder=self.folder)
        if found["threads"] != self.threads:
            log("resumed_inexactly", threads=self.threads, threads_before=found["threads"])

    def _keep_record(self) -> None:
        """Have the record open where it is this process that writes it."""
        writes = self.parallel.leads and self.parallel.rank == 0
        if writes and self.metrics is None:
            self.metrics = MetricsLog(self.folder, self.step, self.settings.tensorboard, self.last)
        elif not writes and self.metrics is not None:
            self.metrics.close()
            self.metrics = None

    def _check_identity(self, saved: dict[str, Any]) -> None:
        now = self.identity
        if saved == now:
            return
        differs = [
            f"{key}: {saved[part].get(key)} there, {now[part].get(key)} here"
            for part in ("model", "shapes")
            for key in sorted(saved[part].keys() | now[part].keys())
            if saved[part].get(key) != now[part].get(key)
        ] or [f"optimizer: {saved['optimizer']} there, {now['optimizer']} here"]
        raise UserError(
            f"{self.checkpoints.folder}: the checkpoints are of another model ({'; '.join(differs[:3])}); "
            "give the settings they were made with, or another folder"
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the model runs."""
        return torch.autocast(self.device.type, dtype=self.dtype) if self.precision != "fp32" else nullcontext()

    def go(self, request: StopRequest) -> None:
        """Do the steps that are left."""
        settings, total = self.settings, self.plan.total_steps
        peak = settings.peak_flops or measured_peak(self.dtype, self.device)
        log(
            "train", steps=total, first=self.step, optimizer=settings.optimizer, precision=self.precision,
            threads=self.threads, peak_gflops=peak * self.parallel.size / 1e9,
        )  # fmt: skip
        with progress("train", total, "steps") as tracker:
            tracker.advance(self.step)
            if self.step < total and not self.done:
                self.ledger.started()
            while self.step < total and not self.done:
                self._meet(tracker)
                record = self._counted_step(peak)
                if record is None:
                    continue
                self.step += 1
                record |= self.ranking.after(self.step)
                due = settings.validate_every and self.step % settings.validate_every == 0
                if self.validate is not None and (due or self.step == total):
                    record |= self._validated()
                    self.done = self.ended is not None and self.ended(self.validation)
                self.last = {"step": self.step - 1, **record, "clock": time.monotonic()}
                if self.metrics is not None:
                    self.metrics.write(self.step - 1, self.last)
                tracker.note(loss=record["loss"], tokens_per_second=record["tokens_per_second"])
                tracker.advance(1)
                request.signal = self.parallel.agreed(request.signal)
                due = settings.checkpoint_every and self.step % settings.checkpoint_every == 0
                last = self.done or self.step == total
                if due or last or request.signal is not None:
                    self.save()
                if request.signal is not None:
                    self._wait()
                    if not last:
                        self.ledger.stopped(self.step)
                        request.stop(self.step)
                if last:
                    self._wait()
                    self.ledger.finished(self.step)

    def _meet(self, tracker: Any) -> None:
        """Know who takes part in the next step; where replica groups live, catch up with them."""
        start, before = time.perf_counter(), self.step
        found = self.parallel.meet(self.step)
        if found is None and not self.parallel.changed:
            return
        self.batches.forget()
        if found is not None:
            self._go_on_from(found)
            self.ledger.kept |= found["ledger"]
        self._keep_record()
        self.ledger.lost(time.perf_counter() - start, 0, before)
        tracker.advance(self.step - before)

    def _counted_step(self, peak: float) -> dict[str, Any] | None:
        """One step; the first of a phase is watched for the bytes of tensors that it needs."""
        if not self.memory.able or (self.memory.bytes and self.step != self.plan.at(self.step).first):
            return self._one_step(peak)
        there = chain(self.model.parameters(), self.model.buffers(), self.optimizers.state().values())
        with self.memory.watching(there):
            record = self._one_step(peak)
        self.memory.bytes = self.parallel.most(self.memory.bytes) if record else self.memory.bytes
        return record

    def _one_step(self, peak: float) -> dict[str, Any] | None:
        """Gradients of all micro-batches, summed, made a mean over all that was counted, clipped, applied.

        None when they did not come together because others were lost meanwhile.
        """
        start, worked = time.perf_counter(), time.process_time()
        part = self.plan.at(self.step)
        if self.step == part.first > 0:
            self.skips.new_phase()
        share = self.optimizers.set_step(self.step)
        micros = self._micro_batches(self.plan.micro(self.step), part.accumulate)
        sums = self.parallel.gradients(self.model, self.objective, micros, self.autocast)
        if not self.parallel.commit():
            self.optimizers.zero_grad()
            self.ledger.lost(time.perf_counter() - start, 1, self.step)
            return None
        peak *= self.parallel.size
        count, tokens, flops, full_flops = sums.count, sums.tokens, sums.flops, sums.full_flops
        waited, divisor = self.waited, max(count, 1)
        norm = self.parallel.scale(self.optimizers.weights, divisor, self.settings.clip)
        mean, norm_value = float(sums.total) / divisor, float(norm)
        rate = self.optimizers.rates()
        pulse.mark("optimizer")
        if not self.skips.must_skip(self.step, mean, norm_value, max(rate.values())):
            asked = time.perf_counter()
            self.checkpoints.settle()
            settled = time.perf_counter() - asked
            start += settled  # it is the checkpoint's time
            self.ledger.kept["checkpointing"] += settled
            self.optimizers.step()
        self.optimizers.zero_grad()
        seconds = time.perf_counter() - start
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds
        self.ledger.kept["training"] += seconds - waited
        self.ledger.kept["waiting_for_data"] += waited
        self.flops, self.full_flops = self.flops + flops, self.full_flops + full_flops
        if math.isfinite(mean):  # the mean of the last tenth of the steps is the run's loss
            self.losses = [*self.losses, mean][-max(1, self.plan.total_steps // 10) :]
        return {
            "loss": mean,
            **{key: float(value) / divisor for key, value in sums.metrics.items()},
            **rate,
            "lr_share": share,
            "gradient_norm": norm_value,
            "counted": count,
            "tokens": self.tokens,
            "tokens_per_second": tokens / seconds,
            "mfu": flops / seconds / peak,
            "mfu_full_attention": full_flops / seconds / peak,
            "seconds": seconds,
            "processor_seconds": time.process_time() - worked,
            "waiting_seconds": waited,
        }

    def _micro_batches(self, first: int, count: int) -> Iterator[Any]:
        """The step's micro-batches; how long they were waited for is left in `waited`."""
        self.waited = 0.0
        for micro in range(first, first + count):
            asked = time.perf_counter()
            pulse.mark("data", self.step)
            batch = self.batches.batch(micro)
            self.waited += time.perf_counter() - asked
            yield batch

    def _validated(self) -> dict[str, float]:
        assert self.validate is not None
        pulse.mark("validating", self.step)
        start = time.perf_counter()
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), self.autocast():
            self.validation = self.validate(self.model, self.step == self.plan.total_steps)
        self.model.train(training)
        self.ledger.kept["validating"] += time.perf_counter() - start
        log("validated", step=self.step, **self.validation)
        return self.validation

    def save(self) -> None:
        """Start writing a checkpoint of where the run stands, unless there is one, or others write it."""
        if self.saved == self.step or not self.parallel.leads:
            return
        pulse.mark("checkpointing", self.step)
        self.saved, start = self.step, time.perf_counter()
        state, run = self._standing()
        self.checkpoints.save(self.step, state, run)
        self.ledger.kept["checkpointing"] += time.perf_counter() - start

    def _standing(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where the run stands: all that is needed to go on from here, tensors (`state`) and what JSON can hold."""
        keys = ("tokens", "seconds", "flops", "full_flops", "losses", "validation", "precision", "threads", "last")
        run = {"step": self.step, "most_bytes": self.memory.bytes, **{key: getattr(self, key) for key in keys}}
        run |= {"identity": self.identity, "skips": self.skips.state}
        return self.state(), run | {"done": self.done, "ledger": dict(self.ledger.kept)}

    def _wait(self) -> None:
        """Wait until the last checkpoint is on disk."""
        pulse.mark("checkpointing", self.step)
        start = time.perf_counter()
        self.checkpoints.wait()
        self.ledger.kept["checkpointing"] += time.perf_counter() - start

    def close(self) -> None:
        """Let go of files and threads, and give the caller's arithmetic its smallest numbers back."""
        torch.set_flush_denormal(False)
        if self.metrics is not None:
            self.metrics.close()
        self.batches.close()
        self.checkpoints.close()
        self.parallel.close()

    def figures(self) -> dict[str, Any]:
        """The run's figures."""
        seconds = max(self.seconds, 1e-9)
        peak = (self.settings.peak_flops or measured_peak(self.dtype, self.device)) * self.parallel.size
        return {
            "loss": sum(self.losses) / max(len(self.losses), 1),
            "steps": self.step,
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / seconds,
            "mfu": self.flops / seconds / peak,
            "mfu_full_attention": self.full_flops / seconds / peak,
            "skipped_steps": self.skips.total,
            "goodput": self.ledger.figures(),
            **self.memory.figures(),
            **{key: getattr(self, key) for key in ("threads", "precision")},
            **self.validation,
        }
