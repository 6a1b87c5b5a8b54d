"""Replica groups (torchft): threads of this process, each a group of one rank, train what one process does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from herdbook import console
from herdbook.settings import UserError
from herdbook.train.gradients import OneProcess
from herdbook.train.loop import train
from herdbook.train.metrics import read_metrics
from herdbook.train.objective import NextToken
from herdbook.train.replicas import Replicas, shared
from herdbook.train.settings import TrainSettings
from herdbook.train.topology import ParallelSettings, check
from tests.support.models import tiny_model
from tests.train.support import RandomBatches, tiny_settings

STEPS = 10

Alone = tuple[list[dict[str, Any]], dict[str, torch.Tensor]]
"""The records of one process's run, and its weights."""


class Lost(Exception):
    """What ends a group in the midst of a step."""


class Losing(RandomBatches):
    """Random rows; calls `at` before each batch is made."""

    def __init__(self, settings: TrainSettings, at: Callable[[int], None]) -> None:
        super().__init__(settings.rows, settings.length)
        self.at = at

    def batch(self, step: int) -> Any:
        self.at(step)
        return super().batch(step)


class Team:
    """Groups of one run in `folder`, each in a thread with a model of its own."""

    def __init__(
        self, address: str, folder: Path, groups: int, kind: type[Replicas] = Replicas, **changes: Any
    ) -> None:
        self.kind = kind
        parallel = {"replica_groups": groups, "group_timeout": 2, **changes.pop("parallel", {})}
        self.settings = tiny_settings(steps=STEPS, parallel=parallel, **changes)
        self.address, self.folder = address, folder
        self.asking = threading.Event()
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.errors: list[BaseException] = []
        self.threads: list[threading.Thread] = []

    def start(self, number: int, at: Callable[[int, Replicas], None] = lambda step, group: None) -> threading.Thread:
        self.asking.clear()
        thread = threading.Thread(target=self._run, args=(number, at))
        self.threads.append(thread)
        thread.start()
        return thread

    def _run(self, number: int, at: Callable[[int, Replicas], None]) -> None:
        try:
            store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            group = self.kind(OneProcess(), self.settings.parallel, number, self.address, f"localhost:{store.port}")
            self.asking.set()
            model, batches = tiny_model(), Losing(self.settings, lambda step: at(step, group))
            train(model, NextToken(), batches, self.settings, self.folder, parallel=group)
            self.weights[number] = {name: weight.detach() for name, weight in model.named_parameters()}
        except Lost:
            pass
        except BaseException as error:
            self.errors.append(error)

    def wait_until_it_asks(self) -> None:
        """Until a group that was started is about to meet the others."""
        assert self.asking.wait(30)
        time.sleep(0.3)

    def finish(self) -> Team:
        for thread in self.threads:
            thread.join(60)
        assert not self.errors, self.errors
        assert not any(thread.is_alive() for thread in self.threads)
        return self

    def check(self, alone: Alone) -> None:
        """All groups have the same weights to the last bit, and the run is what one process's is, step by step."""
        expected, weights = alone
        records = read_metrics(self.folder / "metrics.jsonl")
        for key in ("step", "counted", "tokens"):  # each step once, whoever wrote it, and no row twice
            assert [record[key] for record in records] == [record[key] for record in expected]
        losses, others = ([record["loss"] for record in some] for some in (records, expected))
        torch.testing.assert_close(losses, others, rtol=1e-5, atol=0)
        first, *others = self.weights.values()
        for name, weight in first.items():
            torch.testing.assert_close(
                weight, weights[name], rtol=0, atol=1e-4
            )  # Adam makes much of small gradients' rounding
            assert all(torch.equal(weight, other[name]) for other in others)


@pytest.fixture(autouse=True)
def as_loud_as_before() -> Iterator[None]:
    """Groups that do not lead are quiet, and these ones live in our process."""
    before = console.err.quiet, console.out.quiet
    yield
    console.err.quiet, console.out.quiet = before


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    monkey = pytest.MonkeyPatch()
    monkey.setenv("RUST_LOG", "error")
    coordination = pytest.importorskip("torchft.coordination", reason="torchft is not installed (extra: replicas)")
    server = coordination.LighthouseServer("[::]:0", min_replicas=1, join_timeout_ms=10_000, heartbeat_timeout_ms=500)
    yield f"http://localhost:{server.address().rpartition(':')[2]}"
    server.shutdown()
    monkey.undo()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """What one process makes of the same settings."""
    folder, model, settings = tmp_path_factory.mktemp("alone"), tiny_model(), tiny_settings(steps=STEPS)
    train(model, NextToken(), RandomBatches(settings.rows, settings.length), settings, folder)
    return read_metrics(folder / "metrics.jsonl"), {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("groups", [2, 3])  # three share four rows unevenly
def test_groups_train_what_one_process_does(address: str, alone: Alone, tmp_path: Path, groups: int) -> None:
    team, together = Team(address, tmp_path, groups, parallel={"least_groups": groups}), set()
    for number in range(groups):
        team.start(number, lambda step, group: together.add((group.place, group.count)))
    team.finish().check(alone)
    assert together == {(place, groups) for place in range(groups)}


@pytest.mark.parametrize("lost", [0, 1])  # the one that writes the record, and the other
def test_a_lost_group_leaves_the_others_training_and_comes_back(
    address: str, alone: Alone, tmp_path: Path, lost: int
) -> None:
    team, both = Team(address, tmp_path, 2), threading.Event()
    counts: dict[int, list[int]] = {}
    first_of_back: list[int] = []

    def of_lost(step: int, group: Replicas) -> None:
        if group.count == 2:
            both.set()
        if step == 4:
            raise Lost

    def of_other(step: int, group: Replicas) -> None:
        counts.setdefault(step, []).append(group.count)
        if step == 1:
            team.start(lost, of_lost)
            team.wait_until_it_asks()
        if step == 6:
            team.start(lost, lambda step, group: first_of_back.append(step))
            team.wait_until_it_asks()

    team.start(1 - lost, of_other)
    team.finish().check(alone)
    assert both.is_set()
    assert counts == {0: [1], 1: [1], 2: [2], 3: [2], 4: [2, 1], 5: [1], 6: [1], 7: [2], 8: [2], 9: [2]}
    assert first_of_back == [7, 8, 9]


def test_when_all_were_lost_one_group_reads_the_checkpoint(address: str, alone: Alone, tmp_path: Path) -> None:
    how: dict[str, Any] = {"parallel": {"least_groups": 2}, "checkpoint_every": 4}
    before, after = Team(address, tmp_path, 2, **how), Team(address, tmp_path, 2, **how)

    def until_six(step: int, group: Replicas) -> None:
        if step == 6:
            raise Lost

    for number in range(2):
        before.start(number, until_six)
    before.finish()
    read = []
    for number in range(2):
        after.start(number, lambda step, group: read.append(step))
    after.finish().check(alone)
    assert sorted(read) == sorted([*range(4, STEPS)] * 2)


def test_a_request_to_stop_ends_all_groups_at_the_same_step(address: str, tmp_path: Path) -> None:
    class Asked(Replicas):
        def agreed(self, asked: signal.Signals | None) -> signal.Signals | None:
            return super().agreed(signal.SIGTERM if self.number == 1 and self.steps == 3 else asked)

    team, steps = Team(address, tmp_path, 2, parallel={"least_groups": 2}, kind=Asked), set()
    for number in range(2):
        team.start(number, lambda step, group: (setattr(group, "steps", step), steps.add((group.number, step))))
    for thread in team.threads:
        thread.join(60)
    assert [type(error) for error in team.errors] == [SystemExit] * 2
    assert steps == {(number, step) for number in range(2) for step in range(5)}  # what 3 asked is told with 4
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == list(range(5))
    assert (tmp_path / "checkpoints" / "step-00000005" / ".metadata").exists()


def test_fewer_groups_work_in_pieces_as_small_as_all_would(address: str, tmp_path: Path) -> None:
    group = SimpleNamespace(settings=SimpleNamespace(replica_groups=3), count=1)
    batch = RandomBatches(7).batch(0)
    for count, sizes in ((1, [2, 2, 3]), (2, [3, 4]), (3, [7])):
        group.count = count
        pieces = list(Replicas._pieces(group, [batch]))  # type: ignore[arg-type]
        assert [len(piece) for piece in pieces] == sizes
        assert torch.equal(torch.cat([piece.tokens for piece in pieces]), batch.tokens)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parallel": {"replica_groups": 2, "pipeline": 2}}, "use shard, tensor and context within a group"),
        ({"parallel": {"replica_groups": 2, "shard": 2, "machines": 2}}, "start on one machine"),
        ({"parallel": {"replica_groups": 2, "least_groups": 3}}, "least_groups=3"),
        ({"parallel": {"replica_groups": 2}, "precision": "auto"}, "give precision=bf16 or fp32"),
    ],
)
def test_what_groups_cannot_do_is_told_when_the_recipe_is_read(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_settings(**settings)


def test_each_group_needs_rows_and_a_dense_model() -> None:
    parallel = ParallelSettings.model_validate({"replica_groups": 3, "shard": 2})
    with pytest.raises(UserError, match="rows=4 leave some of the 3 replica groups without any; 6"):
        check(parallel, tiny_model().config, 4, 16, 1)
    check(parallel, tiny_model().config, 6, 16, 1)
    with pytest.raises(UserError, match="use data for copies of a mixture"):
        check(parallel, tiny_model(experts=2).config, 6, 16, 1)


def test_rows_go_to_exactly_one_rank_however_many_groups_live() -> None:
    for unit in (1, 2, 4):
        for units in range(1, 12):
            size = units * unit

            def within(rank: int, unit: int = unit) -> Callable[[int], tuple[int, int]]:
                return lambda rows: (rank * rows // unit, (rank + 1) * rows // unit)

            for count in range(1, units + 1):
                parts = [
                    shared(size, unit, place, count, within(rank)) for place in range(count) for rank in range(unit)
                ]
                assert sorted(row for part in parts for row in range(*part)) == list(range(size))
                sizes = [stop - start for start, stop in parts]
                assert max(sizes) - min(sizes) <= 1
