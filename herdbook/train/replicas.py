"""Replica groups: whole copies of a topology that die and come back one by one, while the others go on (torchft).

Before each step the living groups meet (torchft's quorum) and share out its rows among them, so that a step is made of
the same rows however many there are. Gradients are sums, added up over groups after backward, and divided once by all
that was counted. A step in which a group is lost does not count, and is done again by those left. A group that comes
back takes weights, optimizer state and figures from a living one, as it would from a checkpoint.
"""

from __future__ import annotations

import datetime
import logging
import os
import signal
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from herdbook import console
from herdbook.console import log
from herdbook.settings import UserError
from herdbook.train import pulse
from herdbook.train.faults import SIGNALS
from herdbook.train.gradients import Autocast, Offer, OneProcess, Part, Sums
from herdbook.train.objective import Objective
from herdbook.train.spread import local
from herdbook.train.topology import ParallelSettings

GROUP, LIGHTHOUSE = "HERDBOOK_GROUP", "HERDBOOK_LIGHTHOUSE"
"""Where the launcher leaves a group's number, and the address at which groups meet."""

BUCKET_NUMBERS = 1 << 24  # of gradients that travel together

_current: Replicas | None = None


def among_groups(inside: OneProcess | None, settings: ParallelSettings) -> OneProcess | None:
    """What the loop asks, over all replica groups; `inside` (from `start.joined`) is what it asks within one."""
    global _current
    if settings.replica_groups == 1:
        return inside
    _current = Replicas(inside or OneProcess(), settings, int(os.environ[GROUP]), os.environ[LIGHTHOUSE])
    return _current


def leads() -> bool:
    """Whether this process's group is the one that writes what there is one of."""
    return _current is None or _current.leads


class Replicas(OneProcess):
    """One group among several: answers the loop's questions for its ranks, and over all groups where it matters."""

    def __init__(
        self, inside: OneProcess, settings: ParallelSettings, number: int, lighthouse: str, store: str | None = None
    ) -> None:
        """`number` is the group's, `store` the host:port where its ranks meet; when not given torchrun's is taken."""
        self.inside, self.settings, self.number = inside, settings, number
        self.rank, self.ranks = inside.rank, inside.ranks
        self.place, self.count, self.met, self.changed = 0, 0, False, False
        self.offer: Offer | None = None
        self.received: dict[str, Any] | None = None
        self.asked: signal.Signals | None = None
        self.told: signal.Signals | None = None
        self.manager = _manager(self, number, lighthouse, store or "{MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ))
        self._show()

    @property
    def size(self) -> int:  # type: ignore[override]
        """Processes that take part in this step."""
        return self.inside.size * max(self.count, 1)

    @property
    def leads(self) -> bool:  # type: ignore[override]
        """Whether this group is the first of those that take part."""
        return self.count > 0 and self.place == 0

    def found(self, checkpoints: Any, offer: Offer) -> dict[str, Any] | None:
        """Where living groups stand; with none of them the newest checkpoint, which one group reads for all."""
        self.offer = offer
        while True:
            received = self._meet(0)
            saved = self.inside.same(checkpoints.steps)
            if received is not None or not saved:
                self.met = True
                return received
            if self.leads:
                run: dict[str, Any] | None = checkpoints.newest()
                return run

    def load(self, checkpoints: Any, step: int, state: dict[str, Any]) -> None:
        """Fill `state` with what a living group gave, else from disk."""
        if self.received is None:
            checkpoints.load(step, state)
            return
        _fill(state, self.received["state"])
        self.received = None

    def meet(self, step: int) -> dict[str, Any] | None:
        """Wait for the groups of this step; what to go on from when they are further than this one."""
        if self.met:  # as it began, and nothing came between
            self.met = self.changed = False
            return None
        return self._meet(step)

    def _meet(self, step: int) -> dict[str, Any] | None:
        pulse.mark("meeting", step)
        before = (self.place, self.count)
        while True:
            self.received = None
            self.manager.load_state_dict({"step": step, "batches_committed": 0})
            self.manager.start_quorum()
            problem = self.manager.errored()
            received = -1 if self.received is None else self.received["run"]["step"]
            mine = (problem is None, received)
            if set(self.ranks.gathered(mine) if self.ranks else [mine]) == {(True, received)}:
                break
            log("group_again", group=self.number, step=step, why=_why(problem))
            self.manager.report_error(RuntimeError("a rank of the group could not meet the others"))
            self.manager.should_commit()  # says no, and has all groups meet anew
        place = self.manager.participating_rank()
        assert place is not None
        self.place, self.count = place, self.manager.num_participants()
        self.changed = (self.place, self.count) != before
        if self.changed:
            self._show()
            log("groups", step=step if received < 0 else received, taking_part=self.count, place=self.place)
        return None if self.received is None else self.received["run"]

    def _show(self) -> None:
        """One process's lines are seen."""
        console.err.quiet = console.out.quiet = not (self.rank == 0 and (self.leads or self.count == self.number == 0))

    def given(self) -> dict[str, Any]:
        """What a group that comes back gets from this rank; asked while the loop waits in `meet`."""
        assert self.offer is not None
        state, run = self.offer()
        return {"state": _parts(state), "run": run}

    def commit(self) -> bool:
        """Whether all groups' gradients are in the sums; every rank of the group finds the same."""
        problem = self.manager.errored()
        whole: bool = self.manager.should_commit()
        if not whole:
            log("step_again", step=self.manager.current_step(), why=_why(problem), next="those left do it")
        return whole

    def part(self, size: int) -> tuple[int, int]:
        """As `OneProcess.part`: groups share out the rows as evenly as their ranks can."""
        return shared(size, self.settings.row_ranks, self.place, self.count, self.inside.part)

    def share(self, source: Any, part: Part | None = None) -> Any:
        """The batches of this rank, in each step among the groups that take part in it."""
        return self.inside.share(source, part or self.part)

    def gradients(self, model: nn.Module, objective: Objective, batches: Iterable[Any], autocast: Autocast) -> Sums:
        """As `OneProcess.gradients`, over all groups."""
        sums = self.inside.gradients(model, objective, self._pieces(batches), autocast)
        pulse.mark("groups")
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in weights:
            if weight.grad is None:  # every group sends as much
                weight.grad = torch.zeros_like(weight)
        self._add_up([local(weight.grad) for weight in weights if weight.grad is not None])
        return self._over_groups(sums, weights[0].device)

    def _pieces(self, batches: Iterable[Any]) -> Iterator[Any]:
        """With fewer groups a rank has more rows; they come in pieces as small as with all, to need no more memory."""
        most = -(-self.settings.replica_groups // self.count)
        for batch in batches:
            pieces = min(most, len(batch))
            if pieces == 1:
                yield batch
                continue
            for piece in range(pieces):
                yield batch.rows(len(batch) * piece // pieces, len(batch) * (piece + 1) // pieces)

    @torch.no_grad()
    def _add_up(self, parts: list[Tensor]) -> None:
        """Each part the sum over groups; in buckets, for a message costs more than its numbers when they are few."""
        if self.count == 1:
            return
        for bucket in _buckets(parts):
            flat = torch.cat([part.reshape(-1) for part in bucket])
            self.manager.allreduce(flat, reduce_op=dist.ReduceOp.SUM).wait()
            pieces = flat.split([part.numel() for part in bucket])
            for part, piece in zip(bucket, pieces, strict=True):
                part.copy_(piece.view(part.shape))

    def _over_groups(self, sums: Sums, device: torch.device) -> Sums:
        names = sorted(sums.metrics)
        figures = [sums.total, sums.count, sums.tokens, sums.flops, sums.full_flops]
        figures += [sums.metrics[name] for name in names] + [self.asked == number for number in SIGNALS]
        told = torch.tensor([float(figure) for figure in figures], dtype=torch.float64, device=device)
        if self.count > 1:
            self.manager.allreduce(told, reduce_op=dist.ReduceOp.SUM).wait()
        total, count, tokens, flops, full_flops, *rest = told.tolist()
        asked = [number for number, groups in zip(SIGNALS, rest[len(names) :], strict=True) if groups]
        self.told = asked[0] if asked else None
        return Sums(total, int(count), int(tokens), flops, full_flops, dict(zip(names, rest)))

    def agreed(self, asked: signal.Signals | None) -> signal.Signals | None:
        """The signal that any rank of any group got before the sums of this step, so that all end at the same one."""
        self.asked = self.inside.agreed(asked) or self.asked
        return self.told

    def close(self) -> None:
        """Take no further part: others need not wait for this group."""
        self.manager.shutdown(wait=False)

    def scale(self, weights: list[Tensor], count: float, clip: float) -> Tensor:
        """Make the summed gradients a clipped mean; returns the mean's norm."""
        return self.inside.scale(weights, count, clip)

    def shapes(self, model: nn.Module) -> dict[str, list[int]]:
        """The whole shape of every weight of the model, wherever it lies."""
        return self.inside.shapes(model)

    def own_folder(self, folder: Path) -> Path:
        """Where this rank keeps what each rank keeps for itself."""
        return self.inside.own_folder(folder if self.number == 0 else folder / "groups" / f"{self.number:05}")

    def same(self, decide: Any) -> Any:
        """What the first rank of the group decides."""
        return self.inside.same(decide)

    def most(self, value: int) -> int:
        """The largest value of any rank of the group."""
        return self.inside.most(value)


def shared(size: int, unit: int, place: int, count: int, within: Part) -> tuple[int, int]:
    """Rows (start, stop) of a rank: `size` rows go to `count` groups in multiples of `unit`, then `within` a group."""
    units, rest = divmod(size, unit)
    assert not rest, "rows that do not divide are told before"
    first, end = units * place // count * unit, units * (place + 1) // count * unit
    start, stop = within(end - first)
    return first + start, first + stop


def _why(problem: Any) -> str:
    """What torchft's manager met with, in a line."""
    if problem is None:
        return "another rank of the group"
    return (str(problem.original_exception).splitlines() or [type(problem.original_exception).__name__])[0]


def _buckets(parts: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for part in parts:
        if bucket and (sum(one.numel() for one in bucket) >= BUCKET_NUMBERS or part.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(part)
    if bucket:
        yield bucket


def _parts(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors that lie here; ranks of the same place in other groups have the same parts."""
    return {k: _parts(v) if isinstance(v, dict) else local(v.detach()) for k, v in state.items()}


@torch.no_grad()
def _fill(state: dict[str, Any], given: dict[str, Any]) -> None:
    for key, value in state.items():
        if isinstance(value, dict):
            _fill(value, given[key])
        else:
            local(value.detach()).copy_(given[key])


def _manager(replicas: Replicas, number: int, lighthouse: str, store: str) -> Any:
    """torchft's manager of this rank: a quorum before the step, so that nothing is computed that will not count."""
    try:
        from torchft import Manager, ProcessGroupGloo, ProcessGroupNCCL
    except ImportError as error:
        raise missing(error) from error
    for name in ("torchft", "torchft.manager", "torchft.checkpointing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters of it is told in lines of ours
    settings, (host, _, port) = replicas.settings, store.rpartition(":")
    wait = datetime.timedelta(seconds=settings.group_timeout)

    def load(given: Any) -> None:
        replicas.received = given

    group = ProcessGroupNCCL if torch.cuda.is_available() else ProcessGroupGloo
    return Manager(
        pg=group(timeout=wait),
        load_state_dict=load,
        state_dict=replicas.given,
        min_replica_size=settings.least_groups,
        use_async_quorum=False,
        timeout=wait,
        quorum_timeout=datetime.timedelta(seconds=settings.timeout * pulse.PATIENCE),
        connect_timeout=wait,
        rank=replicas.rank,
        world_size=replicas.inside.size,
        store_addr=host,
        store_port=int(port),
        lighthouse_addr=lighthouse,
        replica_id=f"group-{number:05}",
        hostname="localhost",
        checkpoint_transport=_transport(wait),
        init_sync=False,  # the seed draws the same weights everywhere
    )


def missing(error: ImportError) -> UserError:
    """What to say where torchft is not installed."""
    return UserError(f"parallel.replica_groups needs torchft ({error}); pip install 'herdbook[replicas]'")


def _transport(wait: datetime.timedelta) -> Any:
    """How a group that comes back gets tensors: from a server in a thread of the rank of the same place."""
    from torchft.checkpointing import HTTPTransport

    class Transport(HTTPTransport):  # type: ignore[misc]
        def address(self) -> str:
            """Groups are on one machine, whose name need not be known to anybody."""
            port = self._server.socket.getsockname()[1]
            return f"http://localhost:{port}/checkpoint/"

    warnings.filterwarnings("ignore", message="The given buffer is not writable")  # it is only copied from
    found = Transport(timeout=wait, num_chunks=0)
    found._server.RequestHandlerClass.log_message = lambda *words: None
    return found
