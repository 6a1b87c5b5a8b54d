"""Batches of a run in phases: neighbouring phases with rows of one length share one table of rows (see `phases`).

So a ramp of the batch size, or another mix, goes on exactly where the phase before it stopped in every token set; rows
of another length are packed anew, which begins a new pass over the data, in another order.
"""

from __future__ import annotations

from bisect import bisect_right

from herdbook.tokens.batches import Batch, HeldOut, PackedBatches, Packing
from herdbook.tokens.shards import TokenSets
from herdbook.train.phases import Part, Plan

SEED_STEP = 1_000_003  # between the seeds of passes over rows of different lengths


class PhasedBatches:
    """Batches by their number in the whole run; as `PackedBatches` where the plan has one part."""

    def __init__(self, sets: TokenSets, plan: Plan, seed: int, packing: Packing = "best_fit") -> None:
        self.sets, self.plan = sets, plan
        self.starts = [parts[0].first_micro for parts in plan.runs()]
        self.runs = [
            packed(sets, parts, seed + SEED_STEP * number, packing) for number, parts in enumerate(plan.runs())
        ]
        self.names = [name for name in sets.names if any(name in run.names for run in self.runs)]

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """The micro-batch of that number, or only its rows `start` to `stop`."""
        number = bisect_right(self.starts, step) - 1
        return self.runs[number].batch(step - self.starts[number], start, stop)

    def size(self, step: int) -> int:
        """Rows of the micro-batch of that number."""
        number = bisect_right(self.starts, step) - 1
        return self.runs[number].size(step - self.starts[number])

    def heldout(self, name: str | None = None, max_tokens: int | None = None, rows: int | None = None) -> HeldOut:
        """Held-out documents in rows as the last phase has them; see `PackedBatches.heldout`."""
        last = self.runs[-1]
        return HeldOut(
            [self.sets.sets[one]["heldout"] for one in (self.names if name is None else [name])],
            last.length, rows or last.rows, max_tokens,
        )  # fmt: skip

    def epochs(self) -> dict[str, float]:
        """How many times the run goes through each set."""
        ends = [*self.starts[1:], self.plan.micro(self.plan.total_steps)]
        passes = dict.fromkeys(self.names, 0.0)
        for run, start, end in zip(self.runs, self.starts, ends):
            for name, share in run.epochs(end - start).items():
                passes[name] += share
        return passes


def packed(sets: TokenSets, parts: list[Part], seed: int, packing: Packing) -> PackedBatches:
    """The batches of neighbouring parts whose rows are of one length, counted from the first of them."""
    by_tokens = {name: float(len(splits["train"].tokens)) for name, splits in sets.sets.items()}
    start = parts[0].first_micro
    mixes = [(part.first_micro - start, part.mix or by_tokens) for part in parts]
    rows = [(part.first_micro - start, part.rows) for part in parts]
    return PackedBatches(sets, mix=mixes, length=parts[0].length, rows=rows, seed=seed, packing=packing)
