"""The allocator behaves as a plain list of what everybody holds says it should; names stand for whole beginnings."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from herdbook.inference.blocks import Blocks, block_name

COUNT = 5
NAMES = [block_name(b"", [number]) for number in range(7)]


class AgainstBruteForce(RuleBasedStateMachine):
    """What the allocator does, and beside it a list of holders and the order of letting go, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(COUNT)
        self.held: list[int] = []  # one item per hold
        self.named: dict[int, bytes] = {}
        self.let_go: list[int] = []  # named blocks that nobody holds, longest ago first

    @rule()
    def take(self) -> None:
        block = self.blocks.take()
        unheld = [b for b in range(COUNT) if b not in self.held]
        if not unheld:
            assert block is None
            return
        nameless = [b for b in unheld if b not in self.named]
        assert block in nameless if nameless else block == self.let_go[0]
        if block in self.let_go:
            self.let_go.remove(block)
        self.named.pop(block, None)
        self.held.append(block)

    @rule(name=st.sampled_from(NAMES))
    def find_and_hold(self, name: bytes) -> None:
        block = self.blocks.find(name)
        assert block == next((b for b, known in self.named.items() if known == name), None)
        if block is not None:
            self.blocks.hold(block)
            self.held.append(block)
            if block in self.let_go:
                self.let_go.remove(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.blocks.release(block)
        self.held.remove(block)
        if block not in self.held and block in self.named:
            self.let_go.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def name(self, data: st.DataObject, name: bytes) -> None:
        block = data.draw(st.sampled_from(self.held))
        self.blocks.name(block, name)
        if name not in self.named.values():
            self.named[block] = name

    @rule()
    def forget(self) -> None:
        self.blocks.forget()
        self.named.clear()
        self.let_go.clear()

    @invariant()
    def nothing_leaks(self) -> None:
        assert self.blocks.used == len(set(self.held))
        assert [self.blocks.references[b] for b in range(COUNT)] == [self.held.count(b) for b in range(COUNT)]
        assert set(self.blocks.idle) == set(range(COUNT)) - set(self.held)
        assert self.blocks.known == {name: block for block, name in self.named.items()}


TestAgainstBruteForce = AgainstBruteForce.TestCase
TestAgainstBruteForce.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_names_stand_for_all_that_came_before() -> None:
    first = block_name(b"", [1, 2])
    assert block_name(b"", [1, 2]) == first
    chains = {block_name(first, [3]), block_name(b"", [3]), block_name(block_name(b"", [2, 1]), [3]), first}
    assert len(chains) == 4
