"""A ladder over data mixes (§3.1.2): one small model for each of several mixes, a law of every set's loss, and the mix
that the law holds to be best for a longer run.

Every run is a stage and an entry of its own, as in `ladder.py`; the last step fits and chooses (`mixes.py`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from herdbook.files import read_json, write_json
from herdbook.settings import Settings, UserError
from herdbook.steps import Step

if TYPE_CHECKING:
    import numpy as np

CANDIDATES = 50


class ChoiceSettings(Settings):
    """Which mix is the best."""

    weights: dict[str, float] = Field(default_factory=dict)
    """What each set's loss counts; all count the same when empty."""

    tokens: float | None = Field(None, gt=0)
    """Tokens of the run that the mix is chosen for; as many as each of the small runs had when empty."""

    passes: float = Field(4.0, gt=0)
    """Most passes over a set in that run; beyond about four a token seen again is worth less than a new one."""

    @field_validator("weights")
    @classmethod
    def _some_count(cls, weights: dict[str, float]) -> dict[str, float]:
        wrong = [name for name, weight in weights.items() if not 0 <= weight < math.inf]
        if wrong:
            raise UserError(f"weights: {wrong[0]} counts {weights[wrong[0]]:g}; a weight is a number from 0 on")
        if weights and not any(weights.values()):
            raise UserError("weights: no set counts; give one of them a weight above 0")
        return weights


class MixesSettings(ChoiceSettings):
    """Which mixes are tried."""

    sets: tuple[str, ...] = Field(min_length=2)
    """Token sets that are mixed."""

    count: int = Field(8, gt=0)
    """How many mixes; at least two more than there are sets."""

    least: float = Field(0.05, ge=0, lt=1)
    """Smallest share of a set in the mixes that are tried."""

    seed: int = 1
    """Seed of the mixes."""

    @model_validator(mode="after")
    def _can_be_fitted(self) -> MixesSettings:
        names = len(self.sets)
        if len(set(self.sets)) < names:
            raise UserError(f"sets: a set is named twice among {', '.join(self.sets)}")
        if self.count < names + 2:
            raise UserError(
                f"count={self.count}: the law of {names} sets has {names + 1} constants for each; try at least "
                f"{names + 2} mixes"
            )
        if names * self.least >= 1:
            raise UserError(
                f"least={self.least}: {names} sets of that share make more than a whole; give a smaller one"
            )
        unknown = sorted(set(self.weights) - set(self.sets))
        if unknown:
            raise UserError(f"weights: {unknown[0]!r} is none of the sets {', '.join(self.sets)}")
        return self

    def mixes(self) -> Iterator[dict[str, float]]:
        """The mixes, far from one another: each the farthest of many drawn evenly over all there can be."""
        generator = random.Random(self.seed)
        found: list[list[float]] = []

        def drawn() -> list[float]:
            parts = [generator.expovariate(1.0) for _ in self.sets]
            free = 1 - len(self.sets) * self.least
            return [self.least + free * part / sum(parts) for part in parts]

        def away(mix: list[float]) -> float:
            return min((sum((a - b) ** 2 for a, b in zip(mix, one, strict=True)) for one in found), default=0.0)

        for _ in range(self.count):
            found.append(max((drawn() for _ in range(CANDIDATES)), key=away))
            yield dict(zip(self.sets, found[-1], strict=True))


def steps(name: str, settings: Settings, inputs: dict[str, tuple[str, ...]]) -> list[Step]:
    """The stages that a `mixes` becomes; the last one chooses."""
    assert isinstance(settings, MixesSettings)
    made = []
    for number, mix in enumerate(settings.mixes(), start=1):
        shares = {key: round(share, 4) for key, share in mix.items()}
        made.append(Step(f"{name}.m{number}", "pretrain", {"tokens": list(inputs["tokens"])}, "run", {"mix": shares}))
    given = settings.model_dump(include=set(ChoiceSettings.model_fields), exclude_none=True)
    return [*made, Step(name, "mix_law", {"model": [step.name for step in made]}, "mix_law", given)]


def choose(settings: ChoiceSettings, model: dict[str, Path], out: Path) -> dict[str, Any]:
    """The `mix_law` stage: fit a law to the models of the named entries, and choose; writes mix.json to `out`.

    The figures are the mix, each set's forecast loss (bits per byte), the best of the mixes tried, and `error`: how far
    the law is off mixes it has not seen, each left out once, as a share of the loss. Raises UserError for entries
    without what is needed, for different sets, and for limits that leave no whole mix.
    """
    import numpy as np

    from herdbook.scaling.mixes import best_mix, fit_mixes

    names, shares, losses, sizes, tokens = read_mixes(model)
    unknown = sorted(set(settings.weights) - set(names))
    if unknown:
        raise UserError(f"weights: {unknown[0]!r} is none of the sets {', '.join(names)}")
    weights = np.array([settings.weights.get(name, 0.0 if settings.weights else 1.0) for name in names])
    weights = weights / weights.sum()
    most = np.minimum(1.0, settings.passes * sizes / (settings.tokens or tokens))
    law = fit_mixes(shares, losses)
    chosen, loss = best_mix(law, weights, most)
    left_out = np.arange(len(shares))
    missed = [
        fit_mixes(shares[left_out != at], losses[left_out != at]).at(shares[at]) / losses[at] - 1 for at in left_out
    ]
    tried = int(np.argmin(losses @ weights))
    figures = {
        "mix": dict(zip(names, map(float, chosen), strict=True)),
        "loss": {"value": loss, **dict(zip(names, map(float, law.at(chosen)), strict=True))},
        "tried": {"loss": float(losses[tried] @ weights), **dict(zip(names, map(float, shares[tried]), strict=True))},
        "limits": dict(zip(names, map(float, most), strict=True)),
        "error": float(np.sqrt(np.mean(np.square(missed)))),
        "mixes": len(shares),
    }
    law_told = {"floor": law.floor.tolist(), "scale": law.scale.tolist(), "pull": law.pull.tolist()}
    runs = {"shares": shares.tolist(), "losses": losses.tolist()}
    write_json(out / "mix.json", {"sets": list(names), "law": law_told, "runs": runs, **figures})
    return figures


def read_mixes(entries: dict[str, Path]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, float]:
    """Sets, shares (M, D), losses (M, D) in bits per byte, each set's tokens (D,), and the tokens of a run.

    A set's tokens follow from a run's share of it and how often it went through them.
    """
    import numpy as np

    names: list[str] = []
    shares, losses, sizes, tokens = [], [], [], []
    for name, folder in entries.items():
        found = read_json(folder / "entry.json")
        mix, metrics = found["settings"].get("mix"), found["metrics"]
        if not mix or len(mix) < 2:
            raise UserError(f"{name} was trained on no mix of several sets; give its pretrain stage a mix")
        names = names or sorted(mix)
        if sorted(mix) != names:
            raise UserError(
                f"{name} mixes {', '.join(sorted(mix))}, and others {', '.join(names)}; all must mix the same"
            )
        missing = [key for one in names for key in (f"bits_per_byte/{one}", f"epochs_{one}") if key not in metrics]
        if missing:
            raise UserError(f"{name} tells no {', '.join(missing)}; every set needs held-out pages")
        whole = sum(mix.values())
        shares.append([mix[one] / whole for one in names])
        losses.append([metrics[f"bits_per_byte/{one}"] for one in names])
        tokens.append(metrics["tokens"])
        sizes.append([mix[one] / whole * metrics["tokens"] / max(metrics[f"epochs_{one}"], 1e-12) for one in names])
    middle = np.median(np.array(sizes), axis=0)
    return names, np.array(shares), np.array(losses), middle, float(np.median(tokens))
