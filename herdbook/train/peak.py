"""How many bytes of tensors a training step needs at its fullest moment, counted while the step runs (§3.3).

An accelerator's allocator counts by itself. On a CPU every operation is looked at, which slows a step down, so that
only the first step of each phase of a run is counted; the other steps are alike. What operations use within
themselves, and what is made ready for later steps, is not in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from herdbook.train.spread import is_spread, local


class Tracker(TorchDispatchMode):
    """Counts the tensors that operations made and nobody has let go of yet, at every operation.

    `now` and `peak` are bytes; a storage counts once, as large as it is at the moment (FSDP empties some). What was
    made before counts where it is given.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live: dict[int, Any] = {}
        for value in held:
            self._see(local(value).untyped_storage())
        self.peak = self.now

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "device_mesh") for kind in types):
            return NotImplemented  # it will be called again with the parts
        found = function(*args, **(kwargs or {}))
        new = False
        for value in tree_iter(found):
            # Shapes are tried out on fake tensors, which hold nothing.
            plain = isinstance(value, Tensor) and not isinstance(value, FakeTensor) and not is_spread(value)
            if plain and not value.is_meta:
                new |= self._see(value.untyped_storage())
        if new:
            self.peak = max(self.peak, self.now)
        return found

    @property
    def now(self) -> int:
        """Bytes that are there."""
        return sum(storage.nbytes() for reference in list(self.live.values()) if (storage := reference()) is not None)

    def _see(self, storage: Any) -> bool:
        key = storage._cdata
        if key in self.live:
            return False
        self.live[key] = weakref.ref(storage, lambda _: self.live.pop(key, None))
        return True


class Peak:
    """The most that the counted steps of a run needed on this process."""

    def __init__(self, device: torch.device, able: bool = True) -> None:
        """`able` is False where what the operations are cannot be seen on a CPU (compiled, or emulated types)."""
        self.device, self.able = device, able or device.type != "cpu"
        self.bytes = 0

    def figures(self) -> dict[str, Any]:
        """`memory`: the bytes, and what was counted; nothing where nothing was."""
        counted = "tensors" if self.device.type == "cpu" else "allocator"
        return {"memory": {"peak_bytes": self.bytes, "counted": counted}} if self.bytes else {}

    @contextmanager
    def watching(self, held: Iterable[Tensor]) -> Iterator[None]:
        """Count what is done within; `held` are the tensors that are there before and after."""
        if self.device.type == "cpu":
            with Tracker(held) as tracker:
                yield
            self.bytes = max(self.bytes, tracker.peak)
            return
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self.bytes = max(self.bytes, torch.cuda.max_memory_allocated(self.device))
