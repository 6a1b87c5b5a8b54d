"""The rounds of post-training (§4.1) as stages: reward model, rejection sampling, SFT, preferences, averaging, gate.

The reward model and the fine-tuned model begin from the pre-trained one in every round (or, where told, from the best
one so far); the reward model learns from the preferences of all rounds, the preference training from the latest.
Answers are drawn from the best model so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from herdbook.files import read_json
from herdbook.posttrain.round_settings import RoundsEndSettings, RoundsSettings
from herdbook.settings import Settings
from herdbook.steps import Step

ASKING = ("sft", "collect", "sample", "gate")
"""Kinds whose steps must agree on what is kept back for the gates."""


def steps(name: str, settings: Settings, inputs: dict[str, tuple[str, ...]]) -> list[Step]:
    """The stages that a `posttrain` stage becomes; the last one gives the last round's model."""
    assert isinstance(settings, RoundsSettings)
    return Plan(name, settings, {key: list(names) for key, names in inputs.items()}).steps


class Plan:
    """The steps of all rounds, in the order they run."""

    def __init__(self, name: str, settings: RoundsSettings, inputs: dict[str, list[str]]) -> None:
        self.name, self.settings, self.inputs = name, settings, inputs
        self.base, self.requests = inputs.get("model", []), inputs.get("requests", [])
        self.steps: list[Step] = []
        self.best = self.base
        self.collected: list[str] = []
        self.sampled: list[str] = []
        self.second: list[str] = []
        gates = []
        if inputs.get("dialogs"):
            fed = {"model": self.base, "dialogs": inputs["dialogs"]}
            self.best = self.add("start", "sft", fed)
        for number in range(1, settings.rounds + 1):
            self.best = self.round(number)
            gates += self.best
        self.steps.append(Step(name, "rounds", {"gates": gates}))

    def add(self, own: str, kind: str, inputs: dict[str, list[str]], like: str = "", **settings: Any) -> list[str]:
        """One more step; its whole name, as an input of others."""
        whole = f"{self.name}.{own}"
        if kind in ASKING:
            settings["kept_back"] = self.settings.kept_back
        self.steps.append(Step(whole, kind, inputs, like, settings))
        return [whole]

    def seed(self, number: int) -> int:
        """The seed of a step that there is one of in each round, or for each member."""
        return 1000 * self.settings.seed + number

    def averaged(self, own: str, kind: str, members: int, inputs: dict[str, list[str]]) -> tuple[list[str], list[str]]:
        """A step of `members` models and their average; the one that counts, and all that were trained."""
        if members == 1:
            made = self.add(own, kind, inputs)
            return made, made
        made = []
        for member in range(1, members + 1):
            made += self.add(f"{own}{member}", kind, inputs, kind, seed=self.seed(member))
        average, fed = ("average_reward", "reward") if kind == "reward" else ("average", "model")
        return self.add(f"{own}_average", average, {fed: made}), made

    def round(self, number: int) -> list[str]:
        """The steps of one round; the gate's name."""
        own, members, given = f"round{number}", self.settings.members, self.inputs
        # Each round asks what none asked before, as long as there is more; and a reward model judges other requests
        # than it learnt from, for collecting and sampling each have an order of their own.
        part: dict[str, Any] = {"seed": self.seed(number), "part": number, "order": 2 * self.settings.seed}
        fed = {"model": [*self.best, *self.second], "requests": self.requests}
        self.collected += self.add(f"{own}.collect", "collect", fed, **part, round=number)
        every = [*given.get("preferences", []), *self.collected]
        fed = {"model": self.best if self.settings.reward_from == "tuned" else self.base, "preferences": every}
        reward, _ = self.averaged(f"{own}.reward", "reward", members.reward, fed)
        fed = {"model": self.best, "requests": self.requests, "reward": reward}
        self.sampled += self.add(f"{own}.sample", "sample", fed, **(part | {"order": part["order"] + 1}))
        taught = [*given.get("dialogs", []), *self.sampled[-self.settings.samples :]]
        fed = {"model": self.best if self.settings.sft_from == "tuned" else self.base, "dialogs": taught}
        tuned, _ = self.averaged(f"{own}.sft", "sft", members.sft, fed)
        fed = {"model": tuned, "preferences": self.collected[-self.settings.latest :]}
        model, trained = self.averaged(f"{own}.preference", "preference", members.preference, fed)
        self.second = tuned
        fed = {"model": model, "previous": self.best, "requests": self.requests, "trained": trained}
        if self.best == self.base:
            del fed["previous"]
        return self.add(f"{own}.gate", "gate", fed)


def rounds(settings: RoundsEndSettings, gates: list[Path], out: Path) -> dict[str, Any]:
    """Give the last gate's model as `out`/model; returns its figures, and by round the candidate's and the choice's."""
    from herdbook.posttrain.gate import link_tree

    found = [read_json(folder / "gate.json") for folder in gates]
    link_tree(gates[-1] / "model", out / "model")
    kept = ("score", "ended", "passed", "change", "given")
    by_round = {f"r{number}": {key: one[key] for key in kept if key in one} for number, one in enumerate(found, 1)}
    return {**found[-1]["given"], "by": by_round}
