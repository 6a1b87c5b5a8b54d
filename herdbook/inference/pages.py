"""Large pages for what a decode step reads from end to end: weights and the cache, on Linux.

A processor looks up each page's place in memory, and its prefetching stops at a page's end; with pages of 2 MB instead
of 4 KB one thread here reads a fifth faster (LOG.md). The system is asked, and may decline: nothing depends on it.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator

from torch import Tensor

PAGE = 2 << 20
"""Size of a large page, bytes."""
FUTURE, NOW = 14, 25  # MADV_HUGEPAGE; MADV_COLLAPSE, from Linux 6.1 on


def prefer_large_pages(
    tensors: Iterable[Tensor],
    written: bool,  # whether they hold something already, which is then moved (a copy of 2 MB at a time)
) -> None:
    """Have these tensors lie on large pages where they are in a CPU's memory and the system has such pages."""
    if not sys.platform.startswith("linux") or mmap.PAGESIZE >= PAGE:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in ranges(tensors):
        advise(start, end - start, FUTURE)
        if written:
            advise(start, end - start, NOW)


def ranges(tensors: Iterable[Tensor]) -> Iterator[tuple[int, int]]:
    """Addresses of the large pages over which the tensors stretch, those that touch as one range."""
    spans = sorted(
        (tensor.data_ptr() // PAGE * PAGE, -(-(tensor.data_ptr() + tensor.nbytes) // PAGE) * PAGE)
        for tensor in tensors
        if tensor.device.type == "cpu" and tensor.nbytes
    )
    start = end = 0
    for first, last in spans:
        if first > end:
            if end:
                yield start, end
            start, end = first, last
        else:
            end = max(end, last)
    if end:
        yield start, end
