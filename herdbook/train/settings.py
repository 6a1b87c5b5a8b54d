"""Settings of the training loop. They import no torch, so that listing the kinds of stages starts fast."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from herdbook.model.lora_settings import LoraSettings
from herdbook.settings import Settings, UserError
from herdbook.train.phases import Plan
from herdbook.train.topology import ParallelSettings


class Phase(Settings):
    """What changes within a run, and where; what is not given stays as it was."""

    after_tokens: int | None = Field(None, gt=0)
    """Begins when this many tokens of the rows lie behind; give this or `after_steps`."""

    after_steps: int | None = Field(None, gt=0)
    """Begins when this many steps lie behind."""

    rows: int | None = Field(None, gt=0)
    """Rows of one micro-batch from here on."""

    accumulate: int | None = Field(None, gt=0)
    """Micro-batches of one step from here on."""

    length: int | None = Field(None, gt=1)
    """Tokens of one row from here on; a change of length begins a new pass over the data."""

    mix: dict[str, float] | None = None
    """Share of the rows from each token set from here on."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Phase:
        if (self.after_tokens is None) == (self.after_steps is None):
            raise UserError("a phase needs either after_tokens or after_steps, not both or none")
        if self.rows is self.accumulate is self.length is self.mix is None:
            raise UserError("a phase changes nothing; give rows, accumulate, length or mix")
        return self


class TrainSettings(Settings):
    """How long, how fast and how safely a model is trained."""

    steps: int | None = Field(None, gt=0)
    """Optimizer steps; give this or `tokens`."""

    tokens: int | None = Field(None, gt=0)
    """Budget in tokens of the rows; steps are this / (rows * length * accumulate), rounded up."""

    rows: int = Field(8, gt=0)
    """Rows of one micro-batch."""

    length: int = Field(512, gt=1)
    """Tokens of one row."""

    accumulate: int = Field(1, gt=0)
    """Micro-batches whose gradients make one step."""

    phases: tuple[Phase, ...] = ()
    """Places within the run from which on rows, accumulate, length or mix are others, in order (§3.4)."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: orthogonalised momentum for the blocks' matrices, AdamW for the rest; adamw: for all, as in the paper."""

    peak_lr: float | None = Field(None, gt=0)
    """Highest learning rate of the blocks' matrices; when not given 0.02 with muon, 0.002 with adamw."""

    embedding_lr: float | None = Field(None, gt=0)
    """Highest learning rate of the embedding; when not given 0.4 * sqrt(128 / dim) with muon, peak_lr with adamw."""

    head_lr: float | None = Field(None, gt=0)
    """Highest learning rate of the head (tied or not); when not given 0.02 * sqrt(128 / dim) with muon."""

    norm_lr: float | None = Field(None, gt=0)
    """Highest learning rate of the norms' scales; when not given 0.01 with muon, peak_lr with adamw."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of the mean and of the mean square of gradients, per step."""

    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's momentum, reached from 0.85 over the first 300 steps."""

    weight_decay: float = Field(0.1, ge=0)
    """Share of the blocks' matrices taken away per step, times the learning rate; norms and embeddings keep theirs."""

    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient of all weights together."""

    schedule: Literal["cosine", "linear", "wsd", "constant"] = "wsd"
    """Shape of the learning rate after warm-up: cosine or linear to `floor`, or wsd: level, then linear to `floor`."""

    warmup: int = Field(20, ge=0)
    """Steps in which the learning rate rises from 0 to its highest."""

    floor: float = Field(0.0, ge=0, le=1)
    """Where the learning rate ends, as a share of its highest (§3.4: 0.01)."""

    decay: float = Field(0.5, gt=0, le=1)
    """Share of the steps in which the wsd schedule falls."""

    precision: Literal["auto", "bf16", "fp32", "float8"] = "auto"
    """Type of the matrix products; auto takes bf16 where a short trial finds it faster. Weights are always fp32."""

    float8: Literal["rowwise", "tensorwise"] = "rowwise"
    """With precision=float8, whether each row of a matrix has its own scale (more exact) or each matrix (faster)."""

    compile: bool = False
    """Compile the blocks (on a CPU, and where they recompute, their feed-forwards only); worth it for long runs."""

    validate_every: int = Field(0, ge=0)
    """Steps between validations; 0 validates at the end only."""

    checkpoint_every: int = Field(200, ge=0)
    """Steps between checkpoints; 0 keeps one at the end only."""

    keep_checkpoints: int = Field(2, gt=0)
    """How many of the newest checkpoints are kept."""

    max_skipped: int = Field(3, ge=0)
    """Steps in a row that may be skipped because loss or gradient is not finite or spikes, before the run stops."""

    spike: float | None = Field(None, gt=0)
    """Skip a step whose loss lies this many standard deviations above the mean of the last 100; none when not given."""

    prefetch: int | None = Field(None, ge=0)
    """Batches that a thread makes ahead; when not given 2 on an accelerator, 0 on a CPU, whose cores are busy."""

    parallel: ParallelSettings = Field(default_factory=lambda: ParallelSettings.model_validate({}))
    """How many processes train the model, and along which of its axes; one when not given (§3.3)."""

    seed: int = 0
    """Seed of the weights and of the order of data."""

    threads: int | None = Field(None, gt=0)
    """CPU threads; when not given OMP_NUM_THREADS, else the physical cores this process may use."""

    peak_flops: float | None = Field(None, gt=0)
    """Floating point operations per second the machine can do, for MFU; measured by a short product when not given."""

    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl."""

    @model_validator(mode="after")
    def _can_be_run(self) -> TrainSettings:
        self._check_end()
        if self.parallel.replica_groups > 1 and self.precision == "auto":
            raise UserError(
                "precision=auto is decided by a trial, which replica groups that start apart may decide differently; "
                "give precision=bf16 or fp32"
            )
        return self

    def _check_end(self) -> None:
        """UserError unless the settings say where the run ends."""
        if (self.steps is None) == (self.tokens is None):
            raise UserError(f"give either steps or tokens, not both or none (steps={self.steps}, tokens={self.tokens})")
        Plan.of(self)  # phases out of order are told when the recipe is read

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return Plan.of(self).total_steps


class TuningSettings(TrainSettings):
    """How a model is trained on from a Hugging Face folder, whole or beside it."""

    lora: LoraSettings | None = None
    """Train adapters beside frozen matrices (LoRA, QLoRA) instead of the weights; all weights when not given."""

    export_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in the model folder."""

    @model_validator(mode="after")
    def _adapters_lie_whole(self) -> TuningSettings:
        if self.lora is not None and (self.parallel.tensor > 1 or self.parallel.expert > 1):
            raise UserError("lora lies whole on each rank: leave out parallel.tensor and parallel.expert, take shard")
        if self.lora is not None and self.lora.chat_tokens and self.parallel.processes > 1:
            raise UserError("lora.chat_tokens trains rows of the embedding, which one process does; leave parallel out")
        if self.lora is not None and self.precision == "float8":
            raise UserError("lora trains beside frozen matrices, which float8 has no use for; take precision=bf16")
        return self
