"""What this machine can do: threads, the faster type for products, and the peak that MFU is measured against."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch import Tensor

from herdbook.train.devices import available_threads

SIDE = 384  # of the trial product: larger than a cache line's worth of effects, smaller than a second's work
REPEATS = 3
WORTH = 0.8  # bf16 must take less than this share of fp32's time: autocast itself costs some


def own_device() -> torch.device:
    """Where a run of one process trains: the accelerator torch was built for, when there is one, else the CPU."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def prepare(threads: int | None) -> int:
    """Set torch's threads and flush denormals: Adam's mean squares of rare words fall that low, and would cost 10 x.

    Call it before any other use of torch's threads, which take the flag over when they start. Returns the threads.
    """
    chosen = threads or available_threads()
    torch.set_flush_denormal(True)
    if torch.get_num_threads() != chosen:
        torch.set_num_threads(chosen)
    return chosen


def one_thread() -> None:
    """Give the calling thread, one beside the training, no team of threads of its own.

    Once there are more OpenMP threads than cores they all stop spinning between two operations and sleep: a small
    model's training then took 1.5 times as long, from the first checkpoint on (LOG.md).
    """
    torch.set_num_threads(1)  # of the caller and of threads that begin later; those at work keep theirs


def products_seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of the three products of a linear layer (output, input's gradient, weight's gradient), best of a few."""
    x, w, g = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(3))

    def products() -> Tensor:
        return (x @ w.t()) + (g @ w) + (g.t() @ x)

    products()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        products()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - start)
        if best > 0.2:  # some CPUs emulate bf16 at a fiftieth of fp32's speed
            break
    return best


@lru_cache
def measured_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Floating point operations per second of products of `dtype`, measured once per process."""
    if device.type == "cpu":
        return 6.0 * SIDE**3 / products_seconds(dtype, device)
    side = 8192
    x = torch.randn(side, side, device=device, dtype=dtype)
    for repeat in range(12):
        if repeat == 2:
            torch.accelerator.synchronize()
            start = time.perf_counter()
        x @ x
    torch.accelerator.synchronize()
    return 10 * 2.0 * side**3 / (time.perf_counter() - start)


def faster_precision(device: torch.device) -> str:
    """`bf16` or `fp32`, whichever multiplies faster here; always bf16 on an accelerator."""
    if device.type != "cpu":
        return "bf16"
    ratio = measured_peak(torch.float32, device) / measured_peak(torch.bfloat16, device)
    return "bf16" if ratio < WORTH else "fp32"
