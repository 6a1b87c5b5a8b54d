"""The `ladder` (§3.2.1): models of several sizes for several budgets of compute, each a stage of its own, then laws.

Every run is an entry of the book, so a ladder that was killed goes on, and one more width or budget trains only what
is new. The last step fits the laws and draws the curves (`fitting.py`).
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from herdbook.model.config import ModelConfig
from herdbook.settings import Settings, UserError
from herdbook.steps import Step

LAYER_WIDTH = 32
SCORED = 3  # budgets that a forecast of scores needs, as `forecast` says


class LadderSettings(Settings):
    """Which models a ladder trains."""

    budgets: tuple[float, ...] = Field(min_length=2)
    """Operations, forward and backward, of each isoFLOP curve."""

    widths: tuple[int, ...] = (32, 48, 64, 96, 128, 160, 192, 256)
    """Widths that models may have; the feed-forward is 8/3 as wide."""

    layers: int | None = Field(None, gt=0)
    """Layers of every model; one for each 32 of width, and at least two, when empty."""

    head_width: int = Field(16, gt=1)
    """Width of a head, where `heads` does not say how many there are."""

    heads: int | None = Field(None, gt=0)
    """Heads of every model; on a CPU few of them are faster in models this small."""

    sizes: int = Field(5, ge=4)
    """Models of each budget: the widths nearest to where the optimum is thought to lie."""

    tokens_per_parameter: float = Field(20.0, gt=0)
    """Where the optimum is thought to lie."""

    vocab_size: int = Field(4096, gt=0)
    """The tokenizer's vocabulary, to choose widths by."""

    length: int = Field(512, gt=1)
    """Tokens of a row."""

    batch_tokens: int | None = Field(None, gt=0)
    """Tokens of a step at the largest budget, in whole rows; `run.rows` says how many at every budget when empty."""

    batch_power: float = Field(0.37, ge=0, le=1)
    """Power of the budget that a step's tokens grow with (§3.2.1: from 250K at 6e18 FLOPs to 4M at 1e22)."""

    peak_lr: float | None = Field(None, gt=0)
    """Learning rate at the smallest budget; `run.peak_lr` holds for all budgets when empty."""

    lr_power: float = Field(0.0, ge=0, lt=1)
    """Power of the budget that the learning rate falls with; larger models and longer runs want smaller rates."""

    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary frequencies."""

    target: float | None = Field(None, gt=0)
    """Operations of a model whose loss is forecast from the ladder; 8 times the largest budget when empty."""

    tasks: tuple[str, ...] = ()
    """Tasks by which scores are forecast, asked of every model, such as facts; none when empty."""

    chance: float = Field(0.25, ge=0, lt=1)
    """Score of a model that knows nothing, in these tasks."""

    @model_validator(mode="after")
    def _enough(self) -> LadderSettings:
        for name in ("budgets", "widths"):
            given = getattr(self, name)
            wrong = [one for one in given if not 0 < one < math.inf]
            twice = [one for one in given if given.count(one) > 1]
            if wrong or twice:
                raise UserError(f"{name}: {(wrong or twice)[0]:g} is {'no number above 0' if wrong else 'there twice'}")
        if len(self.widths) < self.sizes:
            raise UserError(f"sizes={self.sizes}, and there are {len(self.widths)} widths; give more of them")
        name, unit = ("2 * heads", 2 * self.heads) if self.heads else ("head_width", self.head_width)
        odd = [width for width in self.widths if width % unit]
        if odd:
            raise UserError(f"widths: {odd[0]} is no multiple of {name}={unit}")
        if self.lr_power and self.peak_lr is None:
            raise UserError("lr_power: the rate falls from peak_lr, that of the smallest budget; give it")
        if self.tasks and len(self.budgets) < SCORED:
            raise UserError(
                f"tasks: a score is forecast from the best model of each of at least {SCORED} budgets, and there are "
                f"{len(self.budgets)}; give more of them, or leave out tasks"
            )
        return self

    def shape(self, width: int) -> dict[str, Any]:
        """The shape of a model of that width."""
        heads = self.heads or width // self.head_width
        layers = self.layers or max(2, round(width / LAYER_WIDTH))
        return {
            "dim": width, "layers": layers, "heads": heads, "kv_heads": heads,
            "ffn_dim": -(-width * 8 // 3 // 8) * 8, "max_length": self.length, "rope_theta": self.rope_theta,
        }  # fmt: skip

    def rows(self, budget: float) -> int | None:
        """Rows of a step at that budget, which may be a larger one than any here; None when `run` says."""
        if self.batch_tokens is None:
            return None
        tokens = self.batch_tokens * (budget / max(self.budgets)) ** self.batch_power
        return max(1, round(tokens / self.length))

    def rate(self, budget: float) -> float | None:
        """Peak learning rate at that budget, which may be a larger one than any here; None when `run` says."""
        if self.peak_lr is None:
            return None
        return float(f"{self.peak_lr * (budget / min(self.budgets)) ** -self.lr_power:.3g}")

    def chosen(self, budget: float) -> list[int]:
        """The widths of a budget's models, ascending."""

        def away(width: int) -> float:
            config = ModelConfig(vocab_size=self.vocab_size, **self.shape(width))
            tokens = budget / config.flops_per_token((self.length + 1) / 2)
            return abs(math.log(tokens / config.matmul_parameters() / self.tokens_per_parameter))

        return sorted(sorted(self.widths, key=away)[: self.sizes])


def steps(name: str, settings: Settings, inputs: dict[str, tuple[str, ...]]) -> list[Step]:
    """The stages that a `ladder` becomes; the last one gives the laws."""
    assert isinstance(settings, LadderSettings)
    made: list[Step] = []
    models: list[str] = []
    exams: list[str] = []
    for number, budget in enumerate(settings.budgets, start=1):
        for width in settings.chosen(budget):
            run = f"{name}.c{number}.w{width}"
            models.append(run)
            given: dict[str, Any] = {"model": settings.shape(width), "flops": budget, "length": settings.length}
            if rows := settings.rows(budget):
                given["rows"] = rows
            if rate := settings.rate(budget):
                given["peak_lr"] = rate
            made.append(Step(run, "pretrain", {"tokens": list(inputs["tokens"])}, "run", given))
            if settings.tasks:
                exams.append(f"{run}-exam")
                fed = {"model": [run], "world": list(inputs.get("world", ()))}
                made.append(Step(exams[-1], "evaluate", fed, "exam", {"tasks": list(settings.tasks)}))
    target = settings.target or 8 * max(settings.budgets)
    given = {"target": target, "chance": settings.chance}
    fed = {"model": models, "results": exams, "known": list(inputs.get("known", ()))}
    made.append(Step(name, "laws", fed, "laws", given))
    return made
