"""What over-training buys (§3.2.1, §5): a model smaller than the compute-optimal one, trained longer until it is as
good, costs more to train and less to serve.

All of it follows from a fitted law of loss over size and tokens; 6 N D operations to train, 2 N for a token served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from herdbook.scaling.laws import Fit
from herdbook.scaling.runs import make_runs
from herdbook.settings import UserError

TRAIN, SERVE = 6.0, 2.0
WIDE = 30.0  # natural logarithms on either side of a start, in which sizes and tokens are searched
SHARES = (0.75, 0.5, 0.35, 0.25)


@dataclass(frozen=True)
class Overtrained:
    """A smaller model beside the compute-optimal one of a budget."""

    share: float
    """Its parameters as a share of the optimal model's."""

    parameters: float
    tokens: float | None
    """Tokens after which it is as good; None when no number of tokens makes it so."""

    training: float | None
    """Operations of its training as a multiple of the optimal model's."""

    served: float | None
    """Tokens to serve from which on training and serving together cost less than with the optimal model."""

    loss: float
    """Its loss when it is given the optimal model's operations, and no more."""


def loss_of(fitted: Fit, parameters: float, tokens: float) -> float:
    """The law's loss of one model."""
    return float(fitted.predict(make_runs(np.array([parameters]), np.array([tokens]), np.array([1.0])))[0])


def optimal(fitted: Fit, flops: float) -> tuple[float, float, float]:
    """Parameters, tokens and loss of the best model that `flops` = 6 N D operations train, by the law.

    Raises UserError for next to no operations, and when the law has no best size: its loss falls towards one end.
    """
    middle = 0.5 * np.log(flops / TRAIN)
    if middle < 1:
        raise UserError(f"{flops:g} FLOPs train no model: give 6 for each parameter and token")
    reach = min(WIDE, middle - 1e-3)

    def at(log_size: float) -> float:
        return loss_of(fitted, float(np.exp(log_size)), float(np.exp(2 * middle - log_size)))

    # A coarse look first: far out, where a law is flat, a search that only goes downhill would stop.
    grid = np.linspace(middle - reach, middle + reach, 241)
    lowest = int(np.argmin([at(x) for x in grid]))
    if lowest in (0, len(grid) - 1):
        raise UserError(
            f"the law {fitted.law.name} has no best size for {flops:.3g} FLOPs: its loss falls all the way towards "
            f"{'small' if lowest == 0 else 'large'} models; fit it to runs of more sizes for each budget"
        )
    found = minimize_scalar(at, bounds=(grid[lowest - 1], grid[lowest + 1]), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x)), float(np.exp(2 * middle - found.x)), float(found.fun)


def overtrained(fitted: Fit, flops: float, shares: Sequence[float] = SHARES) -> list[Overtrained]:
    """Models of these shares of the optimal size; UserError for a share that is not between 0 and 1."""
    wrong = [share for share in shares if not 0 < share < 1]
    if wrong:
        raise UserError(
            f"share={wrong[0]:g}: an over-trained model's size is a share of the best size, between 0 and 1"
        )
    size, tokens, loss = optimal(fitted, flops)
    found = []
    for share in shares:
        own = share * size
        least = loss_of(fitted, own, tokens / share)
        needed = _tokens_for(fitted, own, loss, tokens)
        if needed is None:
            found.append(Overtrained(share, own, None, None, None, least))
            continue
        more = TRAIN * (own * needed - size * tokens)
        served = more / (SERVE * (size - own))
        found.append(Overtrained(share, own, needed, own * needed / (size * tokens), served, least))
    return found


def _tokens_for(fitted: Fit, parameters: float, loss: float, start: float) -> float | None:
    """Tokens with which so large a model comes down to `loss`; None when it never does."""

    def above(log_tokens: float) -> float:
        return loss_of(fitted, parameters, float(np.exp(log_tokens))) - loss

    low, high = np.log(start), np.log(start) + WIDE
    return float(np.exp(brentq(above, low, high))) if above(high) < 0 else None
