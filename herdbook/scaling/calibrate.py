"""What share of the makers' figures is reached, fitted to step times that were measured.

A step's seconds are a sum of parts, each divided by one share, so they are linear in the shares' inverses: least
squares of relative errors finds them. One shape of run tells one share, that of the arithmetic; a second shape tells
that of memory as well, and runs of several ranks that of the links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import lsq_linear

from herdbook.scaling.cluster import Calibration
from herdbook.scaling.steps import Step
from herdbook.settings import UserError

ARITHMETIC = ("matmul", "attention_forward", "attention_backward")
MEMORY = ("memory",)
LINKS = ("node_link", "network")
FREE = 1e30  # a share so large that its parts take no time
LEAST = 0.02  # of the time that a group of parts was thought to take


def fit_matmul(step: Step, tflops: float) -> Calibration:
    """The calibration with which this step reaches so many TFLOPs a device, only `matmul` changed.

    Raises UserError when no share of the peak up to 1 does.
    """
    return fit_shares([step], [step.flops() / (tflops * 1e12 * step.layout.devices)], [("matmul",)])


def calibrated(steps: Sequence[Step], seconds: Sequence[float], about: str = "") -> Calibration:
    """The shares that explain measured steps; as many as their shapes can tell.

    Raises UserError where products at the full peak would take longer than was measured.
    """
    groups: list[tuple[str, ...]] = [ARITHMETIC]
    if len({(step.config, step.length, step.layout.rows) for step in steps}) > 1:
        groups.append(MEMORY)
    if any(step.layout.devices > 1 for step in steps):
        groups.append(LINKS)
    while True:
        try:
            return fit_shares(steps, seconds, groups).model_copy(update={"about": about})
        except UserError:
            if len(groups) == 1:
                raise
            # Noise, or something that is no part of the arithmetic: one share for all is then the better guess.
            groups = groups[:1]


def fit_shares(steps: Sequence[Step], seconds: Sequence[float], groups: Sequence[tuple[str, ...]]) -> Calibration:
    """The calibration of the first step with the shares of each group changed by one factor."""
    base, measured = steps[0].calibration, np.asarray(seconds, np.float64)
    free = base.model_copy(update={name: FREE for group in groups for name in group})
    fixed = _seconds(steps, free)
    columns = []
    for group in groups:
        kept = free.model_copy(update={name: getattr(base, name) for name in group})
        columns.append((_seconds(steps, kept) - fixed) / measured)
    # Shares of what makers tell are at most 1; only a memory's may be more.
    least = np.array([LEAST if group == MEMORY else max(getattr(base, name) for name in group) for group in groups])
    found = lsq_linear(np.stack(columns, axis=1), 1 - fixed / measured, bounds=(least, np.inf)).x
    if "matmul" in groups[0] and found[0] <= least[0] * (1 + 1e-9):
        at_peak = fixed + sum(column * measured * share for column, share in zip(columns, found))
        worst = int(np.argmax(at_peak / measured))
        step = steps[worst]
        reached, most = (step.flops() / one[worst] / step.layout.devices / 1e12 for one in (measured, at_peak))
        raise UserError(
            f"{reached:.4g} TFLOPs a device cannot be explained: with products at the full peak it would be "
            f"{most:.4g}; check the cluster's figures"
        )
    shares = {name: getattr(base, name) / factor for group, factor in zip(groups, found) for name in group}
    return base.model_copy(update={name: float(share) for name, share in shares.items()})


def _seconds(steps: Sequence[Step], calibration: Calibration) -> np.ndarray:
    return np.array([replace(step, calibration=calibration).seconds for step in steps])
