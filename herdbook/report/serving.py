"""What serving a model costs, as text: a line a quantisation scheme."""

from __future__ import annotations

from collections.abc import Sequence

from herdbook.report.text import table
from herdbook.scaling.serving import Serving


def serving_lines(found: Sequence[Serving]) -> list[str]:
    """The groups that serve a model, one for each scheme."""
    rows = [
        (
            one.scheme, str(one.devices), f"{one.weights / (1 << 30):,.1f}", f"{one.cache_per_token / 1024:.0f}",
            f"{one.most:,}", f"{one.batch:,}", f"{one.prefill:,.0f}", f"{one.decode:,.0f}", f"{1000 * one.step:.1f}",
            f"{one.dollars:.2f}",
        )
        for one in found
    ]  # fmt: skip
    heads = ("scheme", "devices", "weights", "cache", "held", "batch", "prompt/s", "answer/s", "ms", "$/M")
    legend = (
        "weights: GiB; cache: KiB of keys and values a token; held: answers of that length that fit at once; prompt/s",
        "and answer/s: tokens a second and device; ms: between two tokens of an answer; $/M: a million answer tokens,",
        "their prompts' share included",
    )
    return [*table(heads, rows, right=tuple(range(1, 10))), "", *legend]
