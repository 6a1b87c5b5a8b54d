"""The arithmetic of memory against real tensors: exact where weights lie, within 5 % where activations come and go."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.pipelining import schedules

from herdbook.model import attention, cpu_attention
from herdbook.model.config import ModelConfig, preset
from herdbook.model.transformer import Transformer
from herdbook.tokens.batches import Batch
from herdbook.train import loss, memory
from herdbook.train.distributed import Ranks
from herdbook.train.inflight import in_flight
from herdbook.train.loop import train
from herdbook.train.memory import Load, need_of, needed, optimizer_bytes
from herdbook.train.objective import NextToken
from herdbook.train.optimizer import Optimizers
from herdbook.train.parallel import Parallel
from herdbook.train.peak import Peak, Tracker
from herdbook.train.recompute import recompute
from herdbook.train.settings import TrainSettings
from herdbook.train.shares import held
from herdbook.train.spread import local
from herdbook.train.start import drawn_model
from herdbook.train.topology import ParallelSettings, stages_of_rank
from tests.support.models import tiny_config
from tests.support.ranks import run_ranks

LENGTH = 1152  # longer documents than this are attended to by torch's own kernel on a CPU, as elsewhere
SHAPE = {"dim": 128, "layers": 3, "heads": 4, "kv_heads": 2, "ffn_dim": 384, "vocab_size": 900, "max_length": LENGTH}


def bytes_of(weights: Any) -> int:
    return sum(local(weight).nbytes for weight in weights)


def batch(rows: int, words: int, length: int = LENGTH) -> Batch:
    tokens = torch.arange(rows * length).view(rows, length) % words
    targets = torch.where(torch.arange(length) == length - 1, -100, tokens)
    return Batch(tokens, targets, torch.zeros(rows, length, dtype=torch.int32))


def settings_of(load: Load) -> TrainSettings:
    return TrainSettings.model_validate(
        {
            "steps": 5,
            "rows": load.rows,
            "length": load.length,
            "accumulate": load.accumulate,
            "optimizer": "muon" if load.muon else "adamw",
            "precision": "bf16" if load.bf16 else "fp32",
            "parallel": load.parallel.model_dump(),
        }
    )


def load_of(parallel: dict[str, Any] | None = None, shape: dict[str, Any] | None = None, **changes: Any) -> Load:
    config = tiny_config(**{**SHAPE, **(shape or {})})
    given: dict[str, Any] = {"rows": 2, "length": LENGTH, "bf16": False, "cpu": True, **changes}
    return Load(config, ParallelSettings(**(parallel or {})), **given)


def autocast(load: Load) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=load.bf16)


def one_process(load: Load) -> tuple[int, int, int]:
    """(bytes of weights and optimizer state, of gradients after backward, at the fullest moment of a step)."""
    with Tracker() as tracker:
        model = Transformer(load.config)
        for block in model.blocks:
            recompute(block, load.parallel.recompute)
        dtype = torch.bfloat16 if load.bf16 else torch.float32
        optimizers = Optimizers(model, settings_of(load), dtype)
        optimizers.set_step(1)
        steady, tracker.peak = tracker.now, 0
        for _ in range(load.accumulate):
            part = batch(load.rows, load.config.vocab_size, load.length)
            with autocast(load):
                found = NextToken()(model, part)
            found.total.backward()
            del found, part
        gradients = bytes_of(weight.grad for weight in model.parameters())
        optimizers.step()
    return steady, gradients, tracker.peak


@pytest.mark.parametrize(
    "load",
    [
        load_of(rows=1),
        load_of(bf16=True, rows=1, shape={"layers": 8, "vocab_size": 300}),
        load_of(bf16=True, rows=1, accumulate=2, shape={"layers": 4, "tied_embeddings": True}),
        load_of(bf16=True, rows=1, parallel={"recompute": "selective"}, shape={"layers": 5}),
        load_of(parallel={"recompute": "full"}, rows=1, shape={"layers": 6}),
        load_of(muon=True, rows=1, length=128, shape={"dim": 256, "ffn_dim": 1024, "layers": 2}),
        load_of(length=512),  # attention that keeps its probabilities
        load_of(shape={"vocab_size": 9000}, rows=1),  # the head weighs most
        load_of(rows=1, shape={"experts": 4, "experts_per_token": 2}),
    ],
    ids=["fp32", "bf16", "accumulated", "selective", "full", "muon", "short", "wide head", "experts"],
)  # fmt: skip
def test_one_process_needs_what_is_reckoned(load: Load) -> None:
    steady, gradients, peak = one_process(load)
    need = needed(load)
    assert steady == need.parts["weights"] + need.parts["optimizer state"]
    assert gradients == 4 * load.config.parameters()
    assert need.total == pytest.approx(peak, rel=0.05)


def spread(loads: list[Load]) -> list[dict[str, Any]]:
    """What each load takes on this rank."""
    return [spread_one(load) for load in loads]


def spread_one(load: Load) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    parallel = Parallel(Ranks(load.parallel, torch.device("cpu")))
    with Tracker() as tracker:
        model = drawn_model(parallel, load.config, settings_of(load))
        dtype = torch.bfloat16 if load.bf16 else torch.float32
        optimizers = Optimizers(model, settings_of(load), dtype)
        optimizers.set_step(1)
        source = SimpleNamespace(batch=lambda _: batch(load.rows, load.config.vocab_size, load.length))
        part = parallel.share(source).batch(0)
        tracker.peak = 0
        parallel.gradients(model, NextToken(), [part] * load.accumulate, lambda: autocast(load))
        gradients = bytes_of(weight.grad for weight in model.parameters() if weight.grad is not None)
        optimizers.step()
    ranks, context = parallel.ranks, load.parallel.context
    row = ranks.row_rank % load.parallel.shard
    return {
        "place": (ranks.stage_rank, row * context + ranks.context_rank, ranks.tensor_rank),
        "weights": bytes_of(model.parameters()),
        "state": bytes_of(optimizers.state().values()),
        "gradients": gradients,
        "peak": tracker.peak,
    }


def compare(loads: list[Load], within: float) -> None:
    """Bytes of tensors are exact on every rank, the fullest moment is near on the fullest of each pipeline rank."""
    found = run_ranks(loads[0].parallel.size, spread, loads)
    for number, load in enumerate(loads):
        for told in (rank[number] for rank in found):
            stage, shard, tensor = told["place"]
            has = held(load.config, load.parallel, stage)
            numbers = sum(
                count * weight.local(load.parallel, shard, tensor)
                for weight, count in has.weights(load.config, load.parallel)
            )
            assert (told["weights"], told["gradients"]) == (4 * numbers, 4 * numbers), (load, told["place"])
            assert told["state"] == optimizer_bytes(load, has, shard, tensor), (load, told["place"])
            if shard == tensor == 0:
                assert need_of(load, stage).total == pytest.approx(told["peak"], rel=within), (load, told["place"])


def test_two_ranks_need_what_is_reckoned() -> None:
    compare(
        [
            load_of(parallel={"shard": 2}),
            load_of(parallel={"tensor": 2, "recompute": "full"}, rows=1, shape={"vocab_size": 901}),
            load_of(parallel={"pipeline": 2}, rows=1, accumulate=3),
        ],
        0.06,
    )


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_every_axis_needs_what_is_reckoned(bf16: bool) -> None:
    two = [{"shard": 2, "reshard": True}, {"context": 2}, {"shard": 2, "recompute": "full"}]
    two += [{"pipeline": 2, "schedule": how} for how in ("1f1b", "interleaved", "zbv")]
    shape = {"layers": 6, "vocab_size": 901}  # what does not divide shows who cuts which axis
    compare([load_of(parallel=one, accumulate=4, rows=2, bf16=bf16, shape=shape) for one in two], 0.10)
    mixture = {**shape, "experts": 4, "experts_per_token": 2}
    compare([load_of(parallel={"shard": 2, "expert": 2}, rows=2, bf16=bf16, shape=mixture)], 0.10)
    four = [{"data": 2, "shard": 2}, {"shard": 2, "tensor": 2}, {"shard": 2, "pipeline": 2}]
    compare([load_of(parallel=one, accumulate=4, rows=4, bf16=bf16, muon=True, shape=shape) for one in four], 0.10)


def orders(schedule: str, ranks: int, stages: int, micros: int) -> dict[int, list[Any]]:
    """What torch's schedule lets each rank do, in order."""
    if schedule == "1f1b":
        told = SimpleNamespace(_n_microbatches=micros, _num_stages=ranks, pp_group_size=ranks)
        return schedules.Schedule1F1B._get_pipeline_order(told)  # type: ignore[arg-type, return-value]
    kind = {"interleaved": schedules.ScheduleInterleaved1F1B, "zbv": schedules.ScheduleZBVZeroBubble}[schedule]
    made: Any = kind.__new__(kind)
    made.pp_group_size, made._n_microbatches = ranks, micros
    made.n_local_stages, made.num_stages = stages, ranks * stages
    made.number_of_rounds = max(1, micros // ranks)
    made.microbatches_per_round = micros // made.number_of_rounds
    return {rank: made._calculate_single_rank_operations(rank) for rank in range(ranks)}


@pytest.mark.parametrize(
    ("schedule", "ranks", "stages"),
    [("1f1b", 4, 1), ("1f1b", 7, 1), ("interleaved", 2, 2), ("interleaved", 4, 3), ("zbv", 2, 2), ("zbv", 5, 2)],
)
def test_micro_batches_in_flight_are_those_of_torchs_schedules(schedule: str, ranks: int, stages: int) -> None:
    parallel = ParallelSettings(pipeline=ranks, schedule=schedule, stages=stages)  # type: ignore[arg-type]
    for micros in (2 * ranks, 4 * ranks) if schedule == "interleaved" else (2 * ranks, 2 * ranks + 1, 5 * ranks):
        for rank, order in orders(schedule, ranks, stages, micros).items():
            for weights in ([1] * stages, [3, 1, 2][:stages], [0, 1, 5][:stages]):
                counts, most = dict.fromkeys(stages_of_rank(parallel, rank), 0), 0
                for action in filter(None, order):
                    kind = action.computation_type.name
                    counts[action.stage_index] += kind == "FORWARD"
                    counts[action.stage_index] -= kind in ("FULL_BACKWARD", "BACKWARD_WEIGHT")
                    most = max(most, sum(n * weight for n, weight in zip(counts.values(), weights)))
                found = in_flight(parallel, rank, micros, weights)
                assert sum(n * weight for n, weight in zip(found, weights)) == most, (micros, rank, weights)


def test_the_papers_8b_in_closed_form() -> None:
    config: ModelConfig = preset("llama3-8b")
    parallel = ParallelSettings(shard=64, recompute="full", reshard=True)
    load = Load(config, parallel, rows=64, length=8192)
    need = needed(load)
    assert config.parameters() == 8_030_261_248
    assert need.parts["weights"] == 4 * 8_030_261_248 // 64
    assert need.parts["optimizer state"] == 8 * 8_030_261_248 // 64 + 4 * (9 * 32 + 3)
    stream, block = 4 * 8192 * 4096, 2 * (2 * 4096 * 4096 * 5 // 4 + 3 * 4096 * 14_336 + 2 * 4096)
    outer = 4 * (2 * 128_256 * 4096 + 4096)
    assert need.parts["gathered weights"] == 2 * block + outer
    assert memory.block_activations(load).full == stream


def test_the_arithmetic_has_the_numbers_of_the_code_it_counts() -> None:
    assert memory.CHUNK_NUMBERS == {True: loss.CHUNK_NUMBERS, False: loss.ACCELERATOR_CHUNK_NUMBERS}
    assert loss.CHUNK_ROWS == memory.CHUNK_ROWS
    assert (cpu_attention.BLOCK, cpu_attention.LONGEST) == (memory.ATTENTION_BLOCK, memory.ATTENTION_LONGEST)
    kernel = attention.varlen_attn
    assert kernel is None or memory.keys_repeated() == ("enable_gqa" not in signature(kernel).parameters)


def test_a_tracker_counts_what_lies_there_at_once() -> None:
    before = torch.ones(100)  # 400 bytes
    with Tracker([before, before.view(10, 10)]) as tracker:
        one = torch.ones(50)  # 600
        other = one + 1  # 800, the most
        del one
        view = other[:10]
        del other  # its 200 bytes are still there
        (view + 1).sum()  # 40 and 4 more
    assert (tracker.peak, tracker.now) == (800, 600)


def run_figures(folder: Path, load: Load, batches: Any, parallel: Any = None) -> tuple[Any, dict[str, Any]]:
    settings = settings_of(load)
    settings = settings.model_copy(update={"steps": 2, "tensorboard": False, "checkpoint_every": 0, "threads": 1})
    if parallel is None:
        model: Any = Transformer(load.config)
        model.initialize(1)
    else:
        model = drawn_model(parallel, load.config, settings)
    return model, train(model, NextToken(), batches, settings, folder, parallel=parallel)


def test_a_run_tells_the_bytes_that_its_fullest_step_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = load_of(rows=1, parallel={"recompute": "none"}, bf16=True)
    source = SimpleNamespace(batch=lambda _: batch(load.rows, load.config.vocab_size, load.length))
    model, figures = run_figures(tmp_path / "counted", load, source)
    assert figures["memory"]["counted"] == "tensors"
    assert figures["memory"]["peak_bytes"] == pytest.approx(needed(load).total, rel=0.05)
    monkeypatch.setattr(Peak, "watching", lambda self, held: nullcontext())
    same, others = run_figures(tmp_path / "not", load, source)
    assert "memory" not in others
    for one, other in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)  # counting changes nothing


def ranks_figures(folder: Path, loads: list[Load]) -> list[int]:
    warnings.simplefilter("ignore")
    found = []
    for number, load in enumerate(loads):
        parallel = Parallel(Ranks(load.parallel, torch.device("cpu")))
        source = SimpleNamespace(batch=lambda _, load=load: batch(load.rows, load.config.vocab_size, load.length))
        found.append(run_figures(folder / str(number), load, source, parallel)[1]["memory"]["peak_bytes"])
    return found


def test_ranks_tell_the_bytes_of_the_fullest_of_them(tmp_path: Path) -> None:
    loads = [
        load_of(parallel={"shard": 2}, rows=2),
        load_of(parallel={"pipeline": 2}, rows=1, accumulate=3, shape={"vocab_size": 5000}),
    ]
    one, other = run_ranks(2, ranks_figures, tmp_path, loads)
    assert one == other
    for load, found in zip(loads, one, strict=True):
        assert found == pytest.approx(needed(load).total, rel=0.06), load.parallel
