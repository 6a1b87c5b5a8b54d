"""Large pages: the ranges asked for cover every tensor, and no number changes."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import re
import sys
from pathlib import Path

import pytest
import torch

from herdbook.inference.pages import PAGE, prefer_large_pages, ranges


def test_ranges_cover_every_tensor_in_whole_pages_and_do_not_meet() -> None:
    tensors = [torch.empty(size, dtype=torch.uint8) for size in (0, 1, 4096, PAGE, PAGE + 1, 7 * PAGE - 3)] * 2
    tensors += [tensors[5][10:20], tensors[3].view(torch.float32)]
    found = list(ranges(tensors))
    assert all(start % PAGE == 0 == end % PAGE and start < end for start, end in found)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found))
    for tensor in tensors:
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        assert not tensor.nbytes or any(start <= first and last <= end for start, end in found)
    touched = {
        page
        for t in tensors
        if t.nbytes
        for page in range(t.data_ptr() // PAGE, (t.data_ptr() + t.nbytes - 1) // PAGE + 1)
    }
    assert {page for start, end in found for page in range(start // PAGE, end // PAGE)} == touched


def test_numbers_stay_as_they_are() -> None:
    weights = torch.randn(5_000_000, generator=torch.Generator().manual_seed(0))
    before = weights.clone()
    prefer_large_pages([weights, torch.empty(0), torch.empty(3, device="meta")], written=True)
    assert torch.equal(weights, before)


def large_bytes(tensor: torch.Tensor) -> int:
    """Bytes on large pages in the mappings that hold `tensor`."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(bound, 16) for bound in bounds.groups())
            inside = start < tensor.data_ptr() + tensor.nbytes and tensor.data_ptr() < end
        elif inside and line.startswith("AnonHugePages:"):
            total += 1024 * int(line.split()[1])
    return total


def on_small_pages(pages: int) -> torch.Tensor:
    """Ones that stretch over so many large pages and lie on small ones, in a mapping that joins no neighbour's.

    The system is told to use none; a page at each end keeps that setting when the tensor's own are told otherwise.
    """
    memory = mmap.mmap(-1, (pages + 3) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    skipped = -whole.data_ptr() % PAGE + PAGE
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return whole[skipped : skipped + pages * PAGE].fill_(1)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has them")
def test_weights_come_to_lie_on_large_pages_where_the_system_gives_them() -> None:
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    release = tuple(map(int, re.findall(r"\d+", Path("/proc/sys/kernel/osrelease").read_text())[:2]))
    if not mode.is_file() or "[never]" in mode.read_text() or release < (6, 1):
        pytest.skip("this system has none to give")
    weights = on_small_pages(20)
    assert large_bytes(weights) == 0
    prefer_large_pages([weights], written=True)
    found = large_bytes(weights)
    assert found <= 20 * PAGE and bool((weights == 1).all())
    if not found:
        asked, advise = on_small_pages(20), ctypes.CDLL(None, use_errno=True).madvise
        place = (ctypes.c_void_p(asked.data_ptr()), ctypes.c_size_t(asked.nbytes))
        assert advise(*place, 14) == 0  # MADV_HUGEPAGE, then MADV_COLLAPSE, as a program of its own would ask
        assert advise(*place, 25), "the system gives large pages and the weights got none"
        assert ctypes.get_errno() in (errno.ENOMEM, errno.EAGAIN, errno.EBUSY)
        pytest.skip("this system's memory lies in small pieces")
