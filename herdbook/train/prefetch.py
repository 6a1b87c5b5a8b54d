"""Batches made ahead by a thread, so that an accelerator need not wait for them (§3.3).

Which batch has which number does not change, nor does anything else: a batch that was not made ahead is made when it is
asked for. Copies to an accelerator leave from pinned memory, beside its work.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from herdbook.train.machine import one_thread


class Source(Protocol):
    """Batches as a pure function of their number."""

    def batch(self, step: int) -> Any: ...


class Prefetcher:
    """`source` with the next `ahead` batches made by a thread, and moved to `device`."""

    def __init__(self, source: Source, ahead: int, device: torch.device, end: int | None = None) -> None:
        """No batch of number `end` or later is made ahead."""
        self.source, self.ahead, self.device, self.end = source, ahead, device, end
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=one_thread) if ahead else None
        self.pending: dict[int, Future[Any]] = {}

    def batch(self, step: int) -> Any:
        """The batch of that number, on the device; raises what making it raised."""
        found = self.pending.pop(step, None)
        batch = found.result() if found is not None else self._make(step)
        if self.pool is not None:
            for old in [number for number in self.pending if not step < number <= step + self.ahead]:
                self.pending.pop(old).cancel()
            for number in range(step + 1, step + 1 + self.ahead):
                if number not in self.pending and (self.end is None or number < self.end):
                    self.pending[number] = self.pool.submit(self._make, number)
        return batch if self.device.type == "cpu" else batch.to(self.device)

    def _make(self, step: int) -> Any:
        batch = self.source.batch(step)
        if self.device.type == "cuda" and hasattr(batch, "pin_memory"):
            batch = batch.pin_memory()
        return batch

    def forget(self) -> None:
        """Throw away what was made ahead: the source has changed."""
        for future in self.pending.values():
            future.cancel()
        self.pending = {}

    def close(self) -> None:
        """Stop the thread."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
