"""How many processes train one model, and along which of its axes (§3.3): settings and checks that need no torch.

Order, from the outermost: [pipeline, data, shard, context, tensor]; neighbouring ranks share what needs most bandwidth.
Every mistake is told before a process is started, with the numbers that would do.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from herdbook.model.config import ModelConfig
from herdbook.settings import Settings, UserError
from herdbook.train.phases import Plan


class ParallelSettings(Settings):
    """The topology of a run; data * shard * tensor * context * pipeline is the number of processes."""

    data: int = Field(1, gt=0)
    """Copies of the whole model, each on other rows; with `shard` above 1 this is hybrid sharding (HSDP)."""

    shard: int = Field(1, gt=0)
    """Ranks that share the weights, gradients and optimizer state of one copy (FSDP2), each on other rows."""

    tensor: int = Field(1, gt=0)
    """Ranks that share each matrix, the vocabulary and, between matrices, the sequence."""

    context: int = Field(1, gt=0)
    """Ranks that share the tokens of a row; keys and values are gathered."""

    expert: int = Field(1, gt=0)
    """Ranks, of those of `shard` and `context`, that share out the experts of a mixture; tokens travel to theirs."""

    pipeline: int = Field(1, gt=0)
    """Ranks that share the blocks in order; the micro-batches are those of `accumulate`."""

    schedule: Literal["1f1b", "interleaved", "zbv"] = "1f1b"
    """Order of the pipeline's work: 1f1b (one stage a rank), interleaved or zbv (several, less idle time)."""

    stages: int = Field(2, gt=0)
    """Stages of one rank with schedule=interleaved; zbv always has 2, 1f1b 1."""

    recompute: Literal["none", "selective", "full"] = "none"
    """What is computed again in backward to save memory: nothing, all but matrix products, or whole blocks."""

    reshard: bool = False
    """Free a block's gathered weights after forward and gather them again in backward: less memory, more traffic."""

    restarts: int = Field(3, ge=0)
    """How often all processes are started again when one is lost, with no new checkpoint between."""

    timeout: float = Field(600.0, gt=0)
    """Seconds a rank may stand still before it is told who holds the run up, and all are started again."""

    rank_every: int = Field(50, ge=0)
    """Steps between rankings of the ranks by the seconds they work themselves; 0 for none."""

    straggler: float = Field(1.5, gt=1)
    """A rank that works this many times as long as the middle one is told of in a line."""

    replica_groups: int = Field(1, gt=0)
    """Copies of the whole topology that start, die and come back each by itself, sharing the rows (torchft)."""

    least_groups: int = Field(1, gt=0)
    """Replica groups without which no step is done: with fewer living ones the run waits for them."""

    group_timeout: float = Field(60.0, gt=0)
    """Seconds a replica group may keep the others waiting within a step before they do it without that group."""

    machines: int = Field(1, gt=0)
    """Machines the processes are spread over evenly; the same command runs on each."""

    rendezvous: str | None = None
    """host:port of the first machine, where the others meet it; when not given the environment tells."""

    @model_validator(mode="after")
    def _machines_divide(self) -> ParallelSettings:
        if self.size % self.machines:
            raise UserError(f"machines={self.machines} does not divide the {self.size} processes of this topology")
        return self

    @model_validator(mode="after")
    def _groups_can_share(self) -> ParallelSettings:
        if self.least_groups > self.replica_groups:
            raise UserError(f"least_groups={self.least_groups}, but there are replica_groups={self.replica_groups}")
        if self.replica_groups > 1 and self.pipeline > 1:
            raise UserError(
                f"replica_groups={self.replica_groups} and pipeline={self.pipeline}: a pipeline's stages expect as "
                "many rows at every step, which changes with the groups; use shard, tensor and context within a group"
            )
        if self.replica_groups > 1 and self.machines > 1:
            raise UserError(
                f"replica_groups={self.replica_groups} start on one machine, and machines={self.machines}; "
                "use data for copies of the model on several"
            )
        return self

    @property
    def size(self) -> int:
        """Processes that hold one model together: all, or those of one replica group."""
        return self.data * self.shard * self.tensor * self.context * self.pipeline

    @property
    def processes(self) -> int:
        """Processes in all."""
        return self.size * self.replica_groups

    @property
    def row_ranks(self) -> int:
        """Groups of ranks that work on different rows."""
        return self.data * self.shard

    @property
    def row_shares(self) -> int:
        """Parts that the rows of a micro-batch are cut into; with fewer replica groups a rank does several in turn."""
        return self.row_ranks * self.replica_groups

    @property
    def total_stages(self) -> int:
        """Stages of the whole pipeline."""
        if self.pipeline == 1:
            return 1
        return self.pipeline * {"1f1b": 1, "interleaved": self.stages, "zbv": 2}[self.schedule]


def check(parallel: ParallelSettings, config: ModelConfig, rows: int, length: int, accumulate: int) -> None:
    """UserError when the topology does not divide the model or the batch; it says which numbers would."""
    tensor = parallel.tensor
    if parallel.expert > 1:
        if not config.experts:
            raise UserError(
                f"parallel.expert={parallel.expert} shares out the experts of a mixture, and the model is dense; "
                "leave it out, or upcycle the model"
            )
        _divides("parallel.expert", parallel.expert, "the model's experts", config.experts)
        _divides("parallel.expert", parallel.expert, "shard * context", parallel.shard * parallel.context)
    for name in ("heads", "kv_heads", "ffn_dim"):
        _divides("parallel.tensor", tensor, f"the model's {name}", getattr(config, name))
    if tensor > 1:
        _divides("parallel.shard * parallel.context", parallel.shard * parallel.context, "the model's dim", config.dim)
    _divides("parallel.data * parallel.shard", parallel.row_ranks, "rows", rows)
    if parallel.replica_groups > 1:
        _check_groups(parallel, config, rows)
    check_length(parallel, length)
    if parallel.pipeline > 1:
        _check_pipeline(parallel, config, accumulate)


def check_length(parallel: ParallelSettings, length: int, name: str = "length") -> None:
    """UserError when rows of this many tokens can't be cut; `name` is the setting that gave it."""
    unit = (2 * parallel.context if parallel.context > 1 else 1) * parallel.tensor
    if length % unit:
        raise UserError(
            f"parallel: context={parallel.context} and tensor={parallel.tensor} cut a row into {unit} pieces, and "
            f"{name}={length} is no multiple of that; {length // unit * unit or unit} or {(length // unit + 1) * unit} "
            "would be"
        )


def check_plan(parallel: ParallelSettings, config: ModelConfig, plan: Plan) -> None:
    """`check` for every phase of a run."""
    if parallel.processes > 1:
        for part in plan.parts:
            check(parallel, config, part.rows, part.length, part.accumulate)


def _check_groups(parallel: ParallelSettings, config: ModelConfig, rows: int) -> None:
    groups, least = parallel.replica_groups, parallel.replica_groups * parallel.row_ranks
    if rows < least:
        raise UserError(
            f"parallel: rows={rows} leave some of the {groups} replica groups without any; {least} would be enough"
        )
    if config.experts:
        raise UserError(
            f"parallel.replica_groups={groups}: what evens out a mixture's routers is counted over all rows of a step, "
            "and a group knows only its own; use data for copies of a mixture"
        )


def _check_pipeline(parallel: ParallelSettings, config: ModelConfig, accumulate: int) -> None:
    stages = parallel.total_stages
    if config.layers + 2 < stages:
        raise UserError(
            f"parallel: {stages} pipeline stages for {config.layers} layers, embedding and head; "
            f"at most {config.layers + 2} stages have work to do"
        )
    if parallel.schedule == "interleaved":
        _divides("parallel.pipeline", parallel.pipeline, "accumulate", accumulate)
    least = parallel.pipeline if parallel.schedule == "interleaved" else stages
    if accumulate < least:
        raise UserError(
            f"parallel: a pipeline of {stages} stages on {parallel.pipeline} ranks needs {least} micro-batches, and "
            f"accumulate={accumulate}; accumulate={least} would do"
        )


def _divides(name: str, value: int, what: str, number: int) -> None:
    if number % value:
        good = [str(divisor) for divisor in range(1, number + 1) if number % divisor == 0]
        shown = good if len(good) <= 8 else [*good[:6], "…", good[-1]]
        raise UserError(f"{name}={value} does not divide {what}={number}; {', '.join(shown)} would")


def layers_of_stages(layers: int, stages: int) -> list[range]:
    """The blocks of each stage: embedding and head count as one block each, as in the paper (§3.3)."""
    slots = layers + 2
    each, more = divmod(slots, stages)
    # What does not divide goes to the middle: first and last stage hold logits and most activations in flight.
    first = (stages - more + 1) // 2
    sizes = [each + (first <= stage < first + more) for stage in range(stages)]
    if stages == 1:
        return [range(layers)]
    sizes[0] -= 1
    sizes[-1] -= 1
    ends = [sum(sizes[: stage + 1]) for stage in range(stages)]
    return [range(end - size, end) for end, size in zip(ends, sizes)]


def stages_of_rank(parallel: ParallelSettings, rank: int) -> list[int]:
    """The stages that lie on a rank of the pipeline, in the order of their work."""
    ranks, total = parallel.pipeline, parallel.total_stages
    if parallel.schedule == "zbv" and ranks > 1:
        return [rank, total - 1 - rank]
    return list(range(rank, total, ranks))
