"""How many micro-batches a pipeline's rank has in flight, and how long it idles: what the schedules cost (§3.3).

A stage keeps a micro-batch's activations from its forward to its backward. The orders are those of torch's schedules;
here they are only counted, so torch is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from herdbook.train.topology import ParallelSettings


def in_flight(parallel: ParallelSettings, rank: int, micros: int, weights: Sequence[int]) -> list[int]:
    """Micro-batches of each of the rank's stages at its fullest moment; `weights` are what one costs at each."""
    if parallel.pipeline == 1:
        return [1]
    counts, fullest, most = [0] * len(weights), [0] * len(weights), -1
    for stage, change in _changes(parallel, rank, micros):
        counts[stage] += change
        size = sum(count * weight for count, weight in zip(counts, weights, strict=True))
        if (size, sum(counts)) > (most, sum(fullest)):
            most, fullest = size, list(counts)
    return fullest


def _changes(parallel: ParallelSettings, rank: int, micros: int) -> Iterator[tuple[int, int]]:
    """(which of the rank's stages, +1 for a forward or -1 for a backward), in order."""
    if parallel.schedule == "zbv":
        yield from _v_shaped(parallel.pipeline, rank, micros)
        return
    stages = parallel.stages if parallel.schedule == "interleaved" else 1
    ranks, total = parallel.pipeline, micros * stages
    if stages == 1 and parallel.schedule == "1f1b":
        ahead, round_size = ranks - rank - 1, 1
    else:
        round_size = micros // max(1, micros // ranks)
        ahead = (stages - 1) * round_size + 2 * (ranks - 1 - rank)
    ahead = min(ahead, total)
    for number in range(total + ahead):
        if number < total:
            yield number // round_size % stages, 1
        if number >= ahead:
            yield stages - 1 - (number - ahead) // round_size % stages, -1


def _v_shaped(ranks: int, rank: int, micros: int) -> Iterator[tuple[int, int]]:
    """Zero bubble in a V: the rank's first stage runs ahead, its second one comes back (Qi et al. 2024)."""
    done = {(stage, change): 0 for stage in (0, 1) for change in (1, -1)}

    def act(stage: int, change: int) -> Iterator[tuple[int, int]]:
        if done[stage, change] < micros:
            yield stage, change
        done[stage, change] += 1

    for _ in range(2 * (ranks - rank) - 1):
        yield from act(0, 1)
    for _ in range(rank):
        yield from act(1, 1)
        yield from act(0, 1)
    for _ in range(ranks - rank):
        yield from act(1, 1)
        yield from act(1, -1)
    while done[1, 1] < micros:
        for stage in (0, 1):
            yield from act(stage, 1)
            yield from act(stage, -1)


def bubble(parallel: ParallelSettings, micros: int) -> float:
    """Share of a step's time that a rank idles: (p - 1) / (v m + p - 1) of p ranks, v stages each, m micro-batches.

    ZBV fills that time with the weights' gradients: none is left where forward and both backwards take equally long.
    """
    ranks = parallel.pipeline
    if ranks == 1 or parallel.schedule == "zbv":
        return 0.0
    stages = parallel.stages if parallel.schedule == "interleaved" else 1
    return (ranks - 1) / (stages * micros + ranks - 1)
