"""The data mix from small runs (§3.1.2): each domain's loss as a law of the mix's shares, and the mix of least loss.

L_i(r) = c_i + k_i exp(sum_j t_ij r_j) (Ye et al. 2024, "Data mixing laws"). Letters: M mixes tried, D domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares, minimize

from herdbook.settings import UserError


@dataclass(frozen=True)
class MixLaw:
    """Loss of each domain by the mix."""

    floor: np.ndarray  # (D,) c
    scale: np.ndarray  # (D,) k
    pull: np.ndarray  # (D, D) t: what a share of domain j does to the loss on domain i

    def at(self, shares: np.ndarray) -> np.ndarray:
        """Losses (…, D) at shares (…, D)."""
        return self.floor + self.scale * np.exp(np.asarray(shares) @ self.pull.T)


def fit_mixes(
    shares: np.ndarray,  # (M, D) each row sums to 1
    losses: np.ndarray,  # (M, D)
    seed: int = 1,
) -> MixLaw:
    """Fit each domain's law.

    Raises UserError for rows that are no mixes and for fewer mixes than the law has constants per domain (D + 1,
    since shares sum to 1).
    """
    shares, losses = np.asarray(shares, np.float64), np.asarray(losses, np.float64)
    mixes, domains = shares.shape
    wrong = np.flatnonzero((shares < 0).any(1) | (np.abs(shares.sum(1) - 1) > 1e-6))
    if len(wrong):
        raise UserError(f"mix {wrong[0] + 1}: shares {shares[wrong[0]].tolist()} must be at least 0 and sum to 1")
    if mixes < domains + 1:
        raise UserError(f"{domains} domains have {domains + 1} constants each; there are {mixes} mixes, give more")
    generator = np.random.default_rng(seed)
    floors, scales, pulls = [], [], []
    for domain in range(domains):
        measured = losses[:, domain]

        def residuals(x: np.ndarray, measured: np.ndarray = measured) -> np.ndarray:
            # exp(log k + t r): k is one with t, for shares sum to 1, so it is part of every t here.
            return np.exp(x[0]) + np.exp(np.clip(shares @ x[1:], -50, 50)) - measured

        best = None
        for share in (0.3, 0.6, 0.9):
            for _ in range(4):
                start = np.r_[np.log(measured.min() * share), generator.normal(0, 0.5, domains)]
                found = least_squares(residuals, start, x_scale="jac", max_nfev=500)
                if best is None or found.cost < best.cost:
                    best = found
        assert best is not None
        floors.append(float(np.exp(best.x[0])))
        pull = best.x[1:]
        scales.append(float(np.exp(pull.mean())))
        pulls.append(pull - pull.mean())
    return MixLaw(np.array(floors), np.array(scales), np.array(pulls))


def best_mix(
    law: MixLaw,
    weights: np.ndarray,  # (D,) what each domain's loss counts
    most: np.ndarray | None = None,  # (D,) largest share of each, as far as its tokens go
) -> tuple[np.ndarray, float]:
    """The shares (D,) of least weighted loss, and that loss; UserError when the largest shares cannot make a whole."""
    weights = np.asarray(weights, np.float64)
    count = len(weights)
    most = np.ones(count) if most is None else np.asarray(most, np.float64)
    if most.sum() < 1 - 1e-9:
        raise UserError(
            f"the largest shares sum to {most.sum():.3g}, which is no whole mix; allow more repetition or add a domain"
        )
    best = None
    starts = [most / most.sum(), *(np.minimum(np.eye(count)[i] * 0.7 + 0.3 / count, most) for i in range(count))]
    for start in starts:
        found = minimize(
            lambda r: float(weights @ law.at(r)),
            start,
            bounds=[(0.0, float(limit)) for limit in most],
            constraints={"type": "eq", "fun": lambda r: r.sum() - 1},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-12},
        )
        if found.success and (best is None or found.fun < best.fun):
            best = found
    if best is None:
        raise UserError("no best mix was found; the law may be of too few mixes")
    shares = np.clip(best.x, 0, most)
    return shares / shares.sum(), float(best.fun)
