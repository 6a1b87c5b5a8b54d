"""The `quantize` stage (§6.2): a model with its matrices in 8 or 4 bits, and what that cost it, measured.

The model before and the model after take the same exam; what changed is told with 95 % intervals over the same
questions and documents, which are far narrower than those of two exams apart. Where there are held-out tokens, the
two models' predictions are compared token by token besides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from herdbook.evaluate.settings import EvaluateSettings
from herdbook.settings import Settings, UserError

Part = Literal["attention", "feed_forward", "head"]


class QuantizeSettings(Settings):
    """How a model's matrices are rounded, and how it is judged before and after."""

    scheme: Literal["fp8", "int8", "int4", "int8_dynamic"] = "fp8"
    """fp8: e4m3 weights and activations (§6.2); int8, int4: weights only; int8_dynamic: activations too, per token."""

    group: Literal[32, 64, 128] = 128
    """Weights of a row that share a scale; int4 only, the others have one scale per row."""

    matrices: tuple[Part, ...] | None = None
    """Which are rounded; empty for feed_forward with fp8 (§6.2), attention and feed_forward with the others."""

    ends: int | None = Field(None, ge=0)
    """Blocks left as they are at the beginning and at the end; empty for 1 with fp8 (§6.2), 0 with the others."""

    activation_bound: float = Field(1200.0, gt=0)
    """Activations beyond it are cut to it (§6.2: 1200); fp8 only."""

    search: int = Field(1, ge=1)
    """Scales tried per row or group, the least squared error wins; 1 makes room for the largest weight."""

    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Precision of what is not rounded, and of the scales; empty for what the model is stored in."""

    divergence_tokens: int | None = Field(20_000, ge=1)
    """Held-out tokens per set on which the predictions before and after are compared; empty for all."""

    exam: EvaluateSettings = EvaluateSettings.model_validate({"xz": False})
    """The exam that the model takes before and after."""

    def parts(self) -> tuple[Part, ...]:
        """Which matrices are rounded."""
        if self.matrices is not None:
            return self.matrices
        return ("feed_forward",) if self.scheme == "fp8" else ("attention", "feed_forward")

    def left_out(self) -> int:
        """Blocks left as they are at each end."""
        return self.ends if self.ends is not None else int(self.scheme == "fp8")


def quantize(
    settings: QuantizeSettings, model: Path, questions: Path | None, tokens: Path | None, out: Path
) -> dict[str, Any]:
    """Write `out`/model, and judge it by the exam on `questions` and on the held-out documents of `tokens`.

    Returns what rounding came to (`rounded`), memory (`size`), figures `before` and `after`, their `change` with
    intervals, and the `divergence` of predictions; the last four as far as there is anything to judge by.
    """
    from dataclasses import replace

    import torch

    from herdbook.evaluate.change import paired_change
    from herdbook.evaluate.run import evaluate, model_folder
    from herdbook.inference.quantize import quantize_folder
    from herdbook.model.quantized import SCHEMES

    source = model_folder(model)
    if not (source / "config.json").is_file():
        raise UserError(f"{source} is not in Hugging Face's layout (no config.json); convert it first")
    scheme = SCHEMES[settings.scheme]
    if settings.scheme == "int4":
        scheme = replace(scheme, group=settings.group)
    if settings.scheme == "fp8":
        scheme = replace(scheme, bound=settings.activation_bound)
    metrics: dict[str, Any] = {}
    judged = bool(settings.exam.data or questions or tokens)
    if judged:  # first, so that mistakes in the exam are found before any work
        (out / "before").mkdir()
        metrics["before"] = evaluate(settings.exam, source, questions, tokens, out / "before")
    report = quantize_folder(
        source,
        out / "model",
        scheme,
        parts=settings.parts(),
        ends=settings.left_out(),
        search=settings.search,
        dtype=getattr(torch, settings.dtype) if settings.dtype else None,
    )
    metrics["rounded"] = report.figures()
    metrics["size"] = {"of_before": report.bytes_after / report.bytes_before, "bytes": report.bytes_after}
    if judged:
        (out / "after").mkdir()
        metrics["after"] = evaluate(settings.exam, out / "model", questions, tokens, out / "after")
        metrics["change"] = paired_change(out / "before", out / "after", settings.exam.seed)
    metrics |= compare(settings, source, out / "model", tokens)
    return metrics


def compare(settings: QuantizeSettings, source: Path, target: Path, tokens: Path | None) -> dict[str, Any]:
    """Bytes in memory of both models as the engine holds them, and how far their predictions are apart."""
    from herdbook.evaluate.divergence import measure_divergence
    from herdbook.inference.engine import Engine

    before, after = (Engine.load(folder, device=settings.exam.device).model for folder in (source, target))
    found: dict[str, Any] = {
        "memory": {name: memory_of(model) for name, model in (("before", before), ("after", after))}
    }
    if tokens is not None:
        found["divergence"] = measure_divergence(before, after, tokens, settings.divergence_tokens, settings.exam.seed)
    return found


def memory_of(model: Any) -> int:
    """Bytes of a model's parameters and buffers, what is shared counted once."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
