"""What is done in the next step: answers go on, prompts are read in pieces, new ones come in while there is room.

Answers that are being written go first, one token each; what is left of the step's tokens goes to prompts, the
oldest first, so a long prompt holds up nobody. When the cache is full the newest request gives its blocks back
and is read again later (its draws are the same: chance counts tokens, not steps).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from herdbook.inference.blocks import Blocks, block_name
from herdbook.inference.request import Request


@dataclass(frozen=True)
class Load:
    """How busy an engine is."""

    running: int
    """Requests that hold blocks."""

    waiting: int
    """Requests that wait for room."""

    blocks_used: int
    """Blocks of the cache that some request holds."""

    blocks: int
    """Blocks of the cache."""

    guessed: int = 0
    """Tokens guessed so far (speculative decoding)."""

    guessed_right: int = 0
    """Those of them that were right."""


class Scheduler:
    """The queue, the requests at work, and their blocks."""

    def __init__(self, blocks: int, block: int, rows: int, step_tokens: int, longest: int) -> None:
        """`rows`: most requests at work; `step_tokens`: most tokens read in a step; `longest`: of a sequence."""
        self.blocks, self.block = Blocks(blocks), block
        self.step_tokens = max(step_tokens, rows)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # oldest first
        self.tables = np.zeros((rows, -(-longest // block)), np.int32)  # blocks of each row's sequence
        self.free_rows = list(range(rows - 1, -1, -1))
        self.preemptions = 0

    @property
    def load(self) -> Load:
        """A snapshot."""
        return Load(len(self.running), len(self.waiting), self.blocks.used, self.blocks.count)

    def plan(self) -> list[tuple[Request, int]]:
        """Requests of the next step and how many tokens of each are read; those with one token come first."""
        before = self.preemptions
        plan = self._answers()
        left = self.step_tokens - len(plan)
        for request in self.running:
            unread = len(request.tokens) - request.read
            if unread > 1 and left > 0:
                plan.append((request, min(unread, left)))
                left -= plan[-1][1]
        for request, count in plan:
            self._name_full(request, count)
        while left > 0 and self.preemptions == before and self.waiting and self._admit(self.waiting[0]):
            request = self.waiting.popleft()
            self.running.append(request)
            plan.append((request, min(len(request.tokens) - request.read, left)))
            left -= plan[-1][1]
            self._name_full(*plan[-1])
        return plan

    def _answers(self) -> list[tuple[Request, int]]:
        """Those with one token to read, each with a block for it; when there is none, the newest gives its up."""
        plan = []
        going = [request for request in self.running if len(request.tokens) - request.read == 1]
        for request in going:
            if request.row < 0:
                continue  # it gave its blocks to an older one
            while request.read == len(request.table) * self.block and request.row >= 0:
                block = self.blocks.take()
                if block is None:
                    self._preempt(self.running[-1])
                else:
                    self._append(request, block)
            if request.row >= 0:
                plan.append((request, 1))
        return plan

    def extend(self, request: Request, tokens: int) -> int:
        """Give a request at work blocks for so many tokens, as far as some are idle; how many it now has room for."""
        while len(request.table) * self.block < tokens:
            block = self.blocks.take()
            if block is None:
                break
            self._append(request, block)
        return len(request.table) * self.block

    def read_on(self, request: Request, count: int) -> None:
        """Count so many more tokens as read, of those that it holds, and make the blocks findable that they filled."""
        self._name_full(request, count)
        request.read += count

    def _append(self, request: Request, block: int) -> None:
        self.tables[request.row, len(request.table)] = block
        request.table.append(block)

    def _admit(self, request: Request) -> bool:
        """Give a waiting request a row and blocks for all it has to read, if they are there."""
        if not self.free_rows:
            return False
        found = self._find_beginning(request) if request.prompt_scored else []
        need = -(-len(request.tokens) // self.block) - len(found)
        idle = len(self.blocks.idle) - sum(1 for block in found if not self.blocks.references[block])
        # One block for each that is at work: else what comes in now would soon be put out again.
        if idle < need + len(self.running):
            return False
        request.row = self.free_rows.pop()
        for block in found:
            self.blocks.hold(block)
            self._append(request, block)
        for _ in range(need):
            block_taken = self.blocks.take()
            assert block_taken is not None
            self._append(request, block_taken)
        request.read = len(found) * self.block
        if not request.started:
            request.started, request.cached = True, request.read
        return True

    def _find_beginning(self, request: Request) -> list[int]:
        """Blocks that hold the request's first tokens; its last token is always read, for what follows it."""
        found: list[int] = []
        for number in range((len(request.tokens) - 1) // self.block):
            block = self.blocks.find(self._name(request, number))
            if block is None:
                break
            found.append(block)
        return found

    def _name(self, request: Request, number: int) -> bytes:
        """The name of a request's block `number`; of those before, too."""
        for at in range(len(request.names), number + 1):
            before = request.names[-1] if request.names else b""
            request.names.append(block_name(before, request.tokens[at * self.block : (at + 1) * self.block]))
        return request.names[number]

    def _name_full(self, request: Request, count: int) -> None:
        """Make the blocks findable that this step fills: a request that comes in the same step may look at them."""
        for number in range(request.read // self.block, (request.read + count) // self.block):
            self.blocks.name(request.table[number], self._name(request, number))

    def _preempt(self, request: Request) -> None:
        """Put a request back to the head of the queue; all of it is read again, but for what the cache still holds."""
        self.drop(request)
        self.waiting.appendleft(request)
        self.preemptions += 1

    def drop(self, request: Request) -> None:
        """Take a request out, at work or waiting; its blocks are free at once."""
        if request.row < 0:
            if request in self.waiting:
                self.waiting.remove(request)
            return
        self.running.remove(request)
        for block in reversed(request.table):
            self.blocks.release(block)
        self.free_rows.append(request.row)
        request.table, request.read, request.row = [], 0, -1
