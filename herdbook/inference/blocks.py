"""Who holds which block of the cache: references, names by content, and which block is given up first.

A full block is named by a hash of its tokens chained to the name of the block before it, so one name stands for
a whole beginning; a sequence that begins alike takes the block instead of reading its tokens again. A block that
nobody holds any longer stays findable until its place is needed; the one let go longest ago goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

Name = bytes


def block_name(before: Name, tokens: Sequence[int]) -> Name:
    """The name of a full block: of its tokens and of all before them."""
    return hashlib.blake2b(array("q", tokens).tobytes(), key=before, digest_size=16).digest()


class Blocks:
    """The blocks of a pool, by number."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.references = [0] * count
        self.names: list[Name | None] = [None] * count
        self.known: dict[Name, int] = {}
        # Blocks that nobody holds, in the order in which they are given out: nameless ones, then the longest unused.
        self.idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))

    @property
    def used(self) -> int:
        """How many blocks somebody holds."""
        return self.count - len(self.idle)

    def take(self) -> int | None:
        """A block for new tokens, held once and nameless; None when all are held."""
        if not self.idle:
            return None
        block, _ = self.idle.popitem(last=False)
        self._unname(block)
        self.references[block] = 1
        return block

    def find(self, name: Name) -> int | None:
        """The block of this name, if it is still there; does not hold it."""
        return self.known.get(name)

    def hold(self, block: int) -> None:
        """Hold a block that was found."""
        self.idle.pop(block, None)
        self.references[block] += 1

    def release(self, block: int) -> None:
        """Let a block go. Sequences let their last block go first, so that beginnings are kept longest."""
        assert self.references[block] > 0, f"block {block} is let go more often than it was held"
        self.references[block] -= 1
        if not self.references[block]:
            self.idle[block] = None
            if self.names[block] is None:
                self.idle.move_to_end(block, last=False)

    def name(self, block: int, name: Name) -> None:
        """Make a full block findable, unless another of that name is."""
        if name not in self.known:
            self._unname(block)
            self.known[name], self.names[block] = block, name

    def forget(self) -> None:
        """Let no block be found any more: what the named ones hold is not to be relied on."""
        for block in self.known.values():
            self.names[block] = None
        self.known.clear()

    def _unname(self, block: int) -> None:
        name = self.names[block]
        if name is not None:
            del self.known[name]
            self.names[block] = None
