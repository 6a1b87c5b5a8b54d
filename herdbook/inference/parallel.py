"""One model on several ranks: the first schedules and draws, the others follow (§6.1).

The first rank's engine has a `SpreadModel` where one process has a `Transformer`. Each of its passes is told to the
others as one array of numbers (which tokens of which sequences, and their blocks), and made by all of them together.
What is sent else are activations. Followers wait for the next pass as long as the first rank lives.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from herdbook.inference.decode import Batch
from herdbook.inference.pipeline import Member
from herdbook.inference.shares import block_bytes
from herdbook.model.cache import KVPool, PoolStep
from herdbook.model.documents import Documents
from herdbook.model.transformer import Transformer

END, POOL, CACHED, PACKED, HEAD = range(5)
"""What a message asks for."""
FIRST = 1024
"""Numbers in a message; longer ones have a second part."""


class RanksLost(RuntimeError):
    """Some rank has failed or gone, so no more passes can be made."""


class SpreadModel(Transformer):
    """The model as the first rank sees it: the shape of the whole, and passes that all ranks make."""

    member: Member

    def __init__(self, member: Member, close: Callable[[], None] = lambda: None) -> None:
        """`close` ends what else was begun for the ranks, after they were told to end."""
        nn.Module.__init__(self)
        embedding = member.share.embedding
        assert embedding is not None
        self.config, self.layout = member.share.whole, member.place.layout
        self.rope, self.embedding = member.share.rope, embedding
        object.__setattr__(self, "member", member)  # not a part of this module
        self.head: Any = _Head(self)
        self.on_close = close
        self.lost = ""
        """Why no more passes can be made; empty while they can."""

    def hidden(self, tokens: Tensor, documents: Documents | None = None, past: PoolStep | None = None) -> Tensor:
        """See `Transformer.hidden`; `past` is the engine's business (`SpreadRunner`)."""
        assert past is None
        lengths = [tokens.shape[1]] * tokens.shape[0] if documents is None else documents.lengths
        flat = tokens.flatten().cpu().numpy().astype(np.int32)
        none = np.zeros(len(lengths), np.int32)
        places = np.arange(len(flat), dtype=np.int32)
        batch = Batch(flat, np.array(lengths, np.int32), none, np.zeros((len(lengths), 0), np.int32), places)
        return self.run(batch, cached=False).view(*tokens.shape, -1)

    def block_bytes(self) -> int:
        """Memory of one block of the cache on the rank that needs most for it."""
        return block_bytes(self.config, self.layout, self.embedding.weight.dtype)

    def lay_pool(self, blocks: int) -> KVPool:
        """Lay out the cache on all ranks; this one's part of it."""
        with self._together():
            tell(POOL, np.array([blocks], np.int32))
            self.member.pool = self.member.share.pool(blocks)
        return self.member.pool

    def run(self, batch: Batch, cached: bool) -> Tensor:  # (M, dim)
        """One pass; what the head reads at the wanted tokens."""
        with self._together():
            tell(CACHED if cached else PACKED, *numbers_of(batch))
            hidden = self.member.run(batch, cached)
        assert hidden is not None
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:  # (M, V)
        """What the head makes of it."""
        flat = hidden.reshape(-1, self.config.dim)
        with self._together():
            tell(HEAD, np.array([len(flat)], np.int32))
            logits = self.member.head(flat, len(flat))
        assert logits is not None
        return logits.view(*hidden.shape[:-1], -1)

    def close(self) -> None:
        """Let the other ranks end."""
        if not self.lost:
            self.lost = "it was closed"
            try:
                tell(END)
            except RuntimeError:
                pass  # they are gone already
        self.on_close()
        self.on_close = lambda: None

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What all ranks do or none: Ctrl-C waits for its end, and after a failure nothing more is begun."""
        if self.lost:
            raise RanksLost(f"this model's ranks work no more ({self.lost}); load it again")
        with torch.inference_mode(), ctrl_c_waits():
            try:
                yield
            except BaseException as error:
                self.lost = f"{type(error).__name__}: {error}"
                raise RanksLost(f"a rank has failed or is gone; its own message says more ({self.lost})") from error


class _Head(nn.Module):
    """The head of a `SpreadModel`."""

    def __init__(self, model: SpreadModel) -> None:
        super().__init__()
        self.made_by = [model]  # in a list, or it would count as a part of this module

    def forward(self, hidden: Tensor) -> Tensor:
        return self.made_by[0].logits(hidden)


class SpreadRunner:
    """A `decode.Runner` over all ranks."""

    def __init__(self, model: SpreadModel) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> Tensor:
        """See `Runner`."""
        return self.model.run(batch, cached=True)

    def head(self, hidden: Tensor) -> Tensor:
        """See `Runner`."""
        return self.model.logits(hidden)


def follow(member: Member) -> None:
    """What all ranks but the first do, until it ends."""
    while True:
        try:
            asked, numbers = hear()
        except RuntimeError:
            return  # the first rank is gone
        if asked == END:
            return
        if asked == POOL:
            member.pool = member.share.pool(int(numbers[0]))
        elif asked == HEAD:
            member.head(None, int(numbers[0]))
        else:
            member.run(batch_of(numbers), cached=asked == CACHED)


def tell(asked: int, *arrays: np.ndarray) -> None:
    """To all other ranks: what comes next, and with which numbers (int32)."""
    flat = np.concatenate([np.zeros(2, np.int32), *arrays])
    flat[:2] = asked, len(flat)
    first = torch.zeros(FIRST, dtype=torch.int32)
    first[: min(FIRST, len(flat))] = torch.from_numpy(flat[:FIRST])
    dist.broadcast(first, 0)
    if len(flat) > FIRST:
        dist.broadcast(torch.from_numpy(flat[FIRST:]), 0)


def hear() -> tuple[int, np.ndarray]:
    """What the first rank told."""
    first = torch.empty(FIRST, dtype=torch.int32)
    dist.broadcast(first, 0)
    asked, size = first[:2].tolist()
    if size <= FIRST:
        return asked, first[2:size].numpy()
    rest = torch.empty(size - FIRST, dtype=torch.int32)
    dist.broadcast(rest, 0)
    return asked, torch.cat([first[2:], rest]).numpy()


def numbers_of(batch: Batch) -> list[np.ndarray]:
    """A batch as it is told; see `batch_of`."""
    sizes = np.array([len(batch.tokens), *batch.tables.shape, len(batch.wanted)], np.int32)
    return [sizes, batch.tokens, batch.counts, batch.pasts, batch.tables.ravel().astype(np.int32), batch.wanted]


def batch_of(numbers: np.ndarray) -> Batch:
    """The batch that was told."""
    tokens, rows, width, wanted = numbers[:4].tolist()
    parts = np.split(numbers[4:], np.cumsum([tokens, rows, rows, rows * width]))
    assert len(parts[4]) == wanted
    return Batch(parts[0], parts[1], parts[2], parts[3].reshape(rows, width), parts[4])


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Hold Ctrl-C back: raised in the middle of a pass it would leave the other ranks waiting for the rest of it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield  # Ctrl-C is raised in the main thread only
        return
    came: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(*came[0])
