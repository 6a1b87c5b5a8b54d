"""Counts the bytes of all tensors that operations made and nobody has let go of yet, at every operation."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Tracker(TorchDispatchMode):
    """`now` and `peak` are bytes; a storage counts once, as large as it is at the moment (FSDP empties some)."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, Any] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it will be called again with the parts
        found = function(*args, **(kwargs or {}))
        new = False
        for value in tree_iter(found):
            # Shapes are tried out on fake tensors, which hold nothing.
            if isinstance(value, torch.Tensor) and not isinstance(value, (DTensor, FakeTensor)) and not value.is_meta:
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
