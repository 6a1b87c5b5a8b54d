"""Checkpoints that are damaged, half written, or do not fit on the disk."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.settings import UserError
from herdbook.train.checkpoint import Checkpoints


def state(value: float, size: int = 1000) -> dict[str, Any]:
    return {"model": {"a.weight": torch.full((size,), value)}, "optimizer": {"a.weight/step": torch.tensor(value)}}


def saved(folder: Path, steps: list[int], keep: int = 5) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, state(float(step)), {"note": f"after {step}"})
    checkpoints.wait()
    return checkpoints


def test_what_was_saved_comes_back_and_a_later_change_does_not_matter(tmp_path: Path) -> None:
    checkpoints, tensors = Checkpoints(tmp_path), state(3.5)
    checkpoints.save(7, tensors, {"note": "x"})
    checkpoints.settle()
    tensors["model"]["a.weight"].fill_(0)  # the loop goes on while the thread writes
    checkpoints.wait()
    found = checkpoints.newest()
    assert found == {"step": 7, "note": "x"}
    empty = state(0.0)
    checkpoints.load(7, empty)
    assert torch.equal(empty["model"]["a.weight"], state(3.5)["model"]["a.weight"])
    assert float(empty["optimizer"]["a.weight/step"]) == 3.5


def test_memory_for_copies_is_kept_where_the_tensors_are_as_large(tmp_path: Path) -> None:
    checkpoints, tensors = Checkpoints(tmp_path), state(1.0)
    places = []
    for step, tensors in enumerate((state(1.0), state(2.0), state(3.0, size=500))):
        checkpoints.save(step, tensors, {})
        checkpoints.wait()
        copy = checkpoints.copies["model"]["a.weight"]
        assert torch.equal(copy, tensors["model"]["a.weight"])
        places.append(copy.data_ptr())
    assert places[0] == places[1] and len(checkpoints.save_seconds) == 3


def test_the_thread_that_saves_has_no_team_of_its_own(tmp_path: Path) -> None:
    """OpenMP threads beyond the cores make all of them sleep between operations, for the rest of the run."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        checkpoints = saved(tmp_path, [1])
        assert checkpoints.pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2
        checkpoints.close()
    finally:
        torch.set_num_threads(before)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    assert saved(tmp_path, [1, 2, 3, 4], keep=2).steps() == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("how", ["flip", "truncate", "remove", "garble the list"])
def test_a_damaged_newest_is_set_aside_for_the_one_before(tmp_path: Path, how: str) -> None:
    checkpoints = saved(tmp_path, [1, 2])
    data = next(checkpoints.path(2).glob("*.distcp"))
    content = bytearray(data.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "truncate":
        data.write_bytes(content[:-10])
    elif how == "remove":
        data.unlink()
    else:
        (checkpoints.path(2) / "checksums.json").write_text("{")
    assert checkpoints.newest() == {"step": 1, "note": "after 1"}
    assert checkpoints.steps() == [1]
    assert (tmp_path / "damaged-step-00000002").exists()
    checkpoints.save(2, state(2.0), {})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]


def test_a_save_that_was_killed_is_thrown_away(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [1, 2])
    (checkpoints.path(2) / ".metadata").unlink()
    assert checkpoints.newest() == {"step": 1, "note": "after 1"}
    assert not checkpoints.path(2).exists()


def test_one_killed_before_its_checksums_is_whole(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [1, 2])
    (checkpoints.path(2) / "checksums.json").unlink()
    assert checkpoints.newest() == {"step": 2, "note": "after 2"}


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent").newest() is None


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Within the block a file can't grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_the_older_checkpoint_usable(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [1])
    with file_size_limit(100_000):
        checkpoints.save(2, state(2.0, size=100_000), {})
        with pytest.raises(UserError, match=r"step-00000002: the disk is full .* older checkpoints are whole"):
            checkpoints.wait()
    assert not checkpoints.path(2).exists()
    assert checkpoints.newest() == {"step": 1, "note": "after 1"}
    checkpoints.load(1, state(0.0))
