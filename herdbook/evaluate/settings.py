"""Settings of an exam: which tasks, how many questions of each, and how they are asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from herdbook.evaluate.sandbox import SandboxSettings
from herdbook.evaluate.tasks import find_task
from herdbook.inference.layout import Layout
from herdbook.settings import InputPath, Settings


class EvaluateSettings(Settings):
    tasks: tuple[str, ...] = ()
    """Tasks by name; empty for all whose questions are there."""

    data: InputPath | None = None
    """Folder of question files, used instead of a world's: benchmarks as their authors publish them, or the world's."""

    limit: int | None = Field(None, ge=1)
    """Questions per task at most, drawn by the seed; empty for all."""

    only: dict[str, tuple[str, ...]] = Field({})
    """Only questions of these groups, such as `{task: [fact]}` or `{exposures: ["1", "10"]}`; empty for all."""

    shots: int | None = Field(None, ge=0)
    """Worked examples before each question; empty for the task's usual number, as far as example files are there."""

    samples: int = Field(1, ge=1)
    """Programs written per programming question; more than one needs a temperature above 0."""

    pass_at: tuple[int, ...] = (1,)
    """The k of each pass@k to report; none above `samples`."""

    temperature: float = Field(0.0, ge=0)
    """Sampling temperature of written answers; 0 takes the likeliest token."""

    max_tokens: int = Field(512, ge=1)
    """Tokens per written answer at most; where right answers are known, half again as long as the longest is enough."""

    form: Literal["auto", "plain", "chat"] = "auto"
    """How word problems and programs are asked: as text to go on with, or in the chat format; auto: as was taught."""

    batch: int = Field(128, ge=1)
    """Answers written together, as far as memory allows."""

    seed: int = 1
    """Seed of the questions drawn by `limit`, of the needles' hay, of sampling and of the bootstrap."""

    device: str | None = None
    """Where the model runs, such as cpu or cuda; empty for the engine's choice."""

    layout: Layout = Layout()
    """How the model lies over several processes."""

    needle_lengths: tuple[int, ...] = ()
    """Windows a needle is hidden in, tokens, prompt and answer together; empty for 1/4, 1/2 and all of the model's."""

    needle_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where in the hay the needle lies: 0 at the start, 1 at the end."""

    needle_questions: int = Field(10, ge=1)
    """Needles asked for at each length and depth."""

    bits_tokens: int | None = Field(200_000, ge=1)
    """Held-out tokens measured per set, whole documents; empty for all."""

    bits_context: int | None = Field(None, ge=2)
    """Tokens the model sees at once when bits per byte are measured; empty for the model's length."""

    bits_overlap: float = Field(0.5, ge=0, lt=1)
    """Share of each window that only serves as context because the window before has counted it."""

    xz: bool = True
    """Compress the same held-out text with `xz -9e`, as a measure beside the model's."""

    xz_train_mb: float = Field(200.0, ge=0)
    """Also let xz read the training text first, where that is at most this many megabytes; 0 never does."""

    sandbox: SandboxSettings = SandboxSettings()
    """Limits on the programs that are run."""

    @field_validator("tasks")
    @classmethod
    def known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse a task that does not exist, naming the nearest."""
        for name in tasks:
            find_task(name)
        return tasks

    @field_validator("needle_depths")
    @classmethod
    def within(cls, depths: tuple[float, ...]) -> tuple[float, ...]:
        """Depths lie between the context's start and its end."""
        for depth in depths:
            if not 0.0 <= depth <= 1.0:
                raise ValueError(f"needle_depths has {depth}, but a depth lies between 0 (start) and 1 (end)")
        return depths
