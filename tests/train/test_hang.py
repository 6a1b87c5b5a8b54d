"""A run that hangs says which rank holds it up and where, and goes on by itself; a slow rank is named."""

from __future__ import annotations

import json
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.settings import UserError
from herdbook.train.hang import Verdict, arrivals, judge
from herdbook.train.metrics import read_metrics
from herdbook.train.versions import check, code_digest
from tests.train.launched import Launched, same_weights


def beat(count: int, **arrived: int) -> dict[str, Any]:
    known = {group: [number, f"gloo:all_reduce of group {group}"] for group, number in arrived.items()}
    place = {"count": count, "step": 7, "stage": "forward", "pid": 1 << 22, "born": 0.0, "host": "elsewhere"}
    return {"beat": 1, **place, "arrived": known}


def test_who_has_not_come_where_others_wait_holds_them_up() -> None:
    verdict = judge({0: beat(9, world=41), 1: beat(9, world=40), 2: beat(9, world=41)}, [], 30)
    assert verdict.ranks == [1] and verdict.waiting == "#41 gloo:all_reduce of group world"
    assert verdict.line == (
        "step 7: rank 1, last seen in forward of step 7, has not come; "
        "the others wait in #41 gloo:all_reduce of group world (30 s)"
    )


def test_who_waits_for_another_in_a_smaller_group_is_not_to_blame() -> None:
    beats = {
        0: beat(9, world=5, pair_a=8),
        1: beat(9, world=4, pair_a=8, pair_b=3),  # not come to the world's: it waits for 2
        2: beat(9, world=4, pair_b=2),
    }
    assert judge(beats, [], 30).ranks == [2]


def test_collectives_of_both_recorders_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On accelerators NCCL has a recorder of its own, as bytes, and counts apart from gloo in the same group."""

    def dumped(library: str, *numbers: int) -> bytes:
        one = {"process_group": ["0", "default_pg"], "input_sizes": [[4]], "is_p2p": False}
        entries = [{**one, "profiling_name": f"{library}:all_reduce", "collective_seq_id": n} for n in numbers]
        return json.dumps({"entries": entries} if entries else {}).encode()

    recorders = torch._C._distributed_c10d
    monkeypatch.setattr(recorders, "_dump_fr_trace_json", lambda: dumped("gloo", 1, 2).decode())
    monkeypatch.setattr(recorders, "_dump_nccl_trace_json", lambda: dumped("nccl", 40, 41), raising=False)
    assert [number for number, _ in arrivals().values()] == [2, 41]
    monkeypatch.setattr(recorders, "_dump_nccl_trace_json", lambda: dumped("nccl"), raising=False)
    assert list(arrivals().values()) == [[2, "gloo:all_reduce of [[4]] in group 0 default_pg"]]


def test_the_silent_come_before_all_and_their_processes_are_named() -> None:
    verdict = judge({0: beat(9, world=41), 1: beat(9), 2: beat(9, world=41)}, [1], 30)
    assert verdict.ranks == [1] and verdict.stopped == [(1 << 22, 0.0, "elsewhere")]
    assert verdict.why == "gives no sign of life on elsewhere" and verdict.waiting.startswith("#41")


def test_without_collectives_the_stages_tell_who_is_behind() -> None:
    assert judge({0: beat(9), 1: beat(8)}, [], 30).ranks == [1]
    assert Verdict(**json.loads(json.dumps(judge({0: beat(9)}, [0], 30).__dict__))).ranks == [0]


def test_ranks_with_another_version_are_named(tmp_path: Path) -> None:
    usual = {"torch": "2.13", "code": "abc", "host": "a"}
    check([usual, usual])
    with pytest.raises(UserError, match=r"code is not the same.*: rank 2 on b has xyz, the others have abc"):
        check([usual, usual, usual | {"code": "xyz", "host": "b"}])
    (tmp_path / "one.py").write_text("a = 1\n")
    before = code_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert code_digest(tmp_path) == before
    (tmp_path / "one.py").write_text("a = 2\n")
    assert code_digest(tmp_path) != before


@pytest.mark.slow
def test_a_stopped_rank_is_named_killed_and_started_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = Launched(tmp_path / "whole", parallel={"shard": 3}, rows=6).start()
    whole.finish()
    hung = Launched(tmp_path / "hung", parallel={"shard": 3, "timeout": 8}, rows=6)
    (hung.out / "slow").write_text("0.1")
    hung.start()
    pid = hung.at_step(10, rank=2)
    os.kill(pid, signal.SIGSTOP)
    goodput = hung.finish()["goodput"]
    assert same_weights(whole, hung) and goodput["restarts"] == 1
    records = next((hung.out / "hangs").iterdir())
    told = json.loads((records / "hang.json").read_text())
    assert told["ranks"] == [2] and 10 <= told["step"] <= 12 and "gloo:" in told["waiting"]
    assert told["why"] == f"gives no sign of life (process {pid} is stopped)"
    assert f"hang rank=2 step={told['step']} last_seen=" in capfd.readouterr().err
    assert pickle.loads((records / "rank_0").read_bytes())["entries"]
    assert "rank_jobs.py" in (records / "stack_0.txt").read_text()
    assert {path.name for path in records.glob("rank_*")} == {"rank_0", "rank_1"}


@pytest.mark.slow
def test_a_rank_that_is_lost_in_its_own_work_is_named_where_it_is(tmp_path: Path) -> None:
    hung = Launched(tmp_path, parallel={"shard": 2, "timeout": 8, "restarts": 0})
    hung.start()
    hung.at_step(5)
    (hung.out / "slow-1").write_text("1000")
    with pytest.raises(UserError, match=r"lost 1 times"):
        hung.finish()
    told = json.loads(next((hung.out / "hangs").iterdir()).joinpath("hang.json").read_text())
    assert told["ranks"] == [1] and told["last_seen"].startswith("data of step ") and told["why"] == "has not come"


@pytest.mark.slow
def test_a_slow_rank_is_ranked_first_and_told_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    slow = Launched(tmp_path, steps=20, parallel={"shard": 3, "rank_every": 10}, rows=6)
    (slow.out / "slow").write_text("0.1")
    (slow.out / "slow-2").write_text("0.5")
    slow.start()
    slow.finish()
    ranked = [record for record in read_metrics(slow.out / "metrics.jsonl") if "slowest_ranks" in record]
    assert [record["step"] for record in ranked] == [9, 19]
    for record in ranked:
        ranks = [rank for rank, _ in record["slowest_ranks"]]
        assert ranks[0] == 2 and sorted(ranks) == [0, 1, 2] and record["straggling"] > 1.5
        assert 0.5 <= record["slowest_ranks"][0][1] < 1.5
    assert "straggler rank=2" in capfd.readouterr().err
