"""What changes within a run, as pure functions of the step: a resumed run needs no scheduler state (§3.4).

Learning rates are returned as a share of the highest, because each kind of weight has its own highest.
"""

from __future__ import annotations

import math

from herdbook.train.settings import TrainSettings

MOMENTUM_START, MOMENTUM_STEPS = 0.85, 300


def warmup_share(step: int, warmup: int) -> float:
    """Linear rise that reaches 1 at the last of `warmup` steps."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def cosine(progress: float, floor: float) -> float:
    """Half a cosine from 1 (progress 0) to `floor` (progress 1)."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float, floor: float) -> float:
    """A line from 1 (progress 0) to `floor` (progress 1)."""
    return 1 - (1 - floor) * progress


def learning_rate_share(step: int, settings: TrainSettings) -> float:
    """Learning rate of the step (from 0) as a share of its highest, in [0, 1]."""
    steps, warmup = settings.total_steps, settings.warmup
    if step < warmup:
        return warmup_share(step, warmup)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if settings.schedule == "cosine":
        return cosine(progress, settings.floor)
    if settings.schedule == "linear":
        return linear(progress, settings.floor)
    if settings.schedule == "wsd":
        falling = max(1.0, settings.decay * steps)
        return linear(min(1.0, max(0.0, step - (steps - falling)) / falling), settings.floor)
    return 1.0


def momentum(step: int, final: float) -> float:
    """Muon's momentum: early gradients turn fast, so it rises to `final` over the first 300 steps."""
    share = min(1.0, step / MOMENTUM_STEPS)
    return min(MOMENTUM_START, final) * (1 - share) + final * share
