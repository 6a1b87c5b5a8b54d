"""The command `herdbook plan`: settings from the command line, a plan, and what it prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from herdbook.check import validate
from herdbook.marked import Marked, Problem
from herdbook.recipe import override
from herdbook.report.plan import plan_lines, serving_lines
from herdbook.scaling.planner import PlanSettings, make_plan
from herdbook.scaling.serving import WEIGHT_BYTES, Serving, serve
from herdbook.settings import UserError


def plan_settings(model: str, overrides: Iterable[str]) -> PlanSettings:
    """Settings from `SETTING=VALUE` words; UserError tells every mistake."""
    problems: list[Problem] = []
    raw = {"plan": Marked({"model": Marked(model, "command line")}, "command line")}
    for word in overrides:
        if "=" not in word:
            raise UserError(f"{word!r} is no setting; write SETTING=VALUE, such as devices=16384 or remedies.spares=20")
        raw = override(raw, f"plan.{word}", problems)
    found = validate("plan", raw["plan"], raw["plan"].bare(), PlanSettings, "a plan", problems)
    if problems or not isinstance(found, PlanSettings):
        raise UserError("\n".join(map(str, problems)))
    return found


def help_lines() -> list[str]:
    """The settings of a plan, the models and the clusters there are."""
    from herdbook.model.config import PRESETS
    from herdbook.report.kinds import setting_lines
    from herdbook.scaling.cluster import FILE, names

    return [
        "herdbook plan MODEL [SETTING=VALUE …]",
        f"models: {', '.join(PRESETS)}",
        f"clusters of {FILE.name}: {', '.join(names())}",
        "",
        *setting_lines(PlanSettings),
    ]


def training(settings: PlanSettings) -> tuple[list[str], dict[str, Any]]:
    """What to print for a training run, and its figures."""
    plan = make_plan(settings)
    return plan_lines(plan), plan.figures()


def serving(settings: PlanSettings, prompt: int, answer: int) -> tuple[list[str], dict[str, Any]]:
    """What to print for serving the model by quantisation, and the figures."""
    from herdbook.model.config import preset
    from herdbook.scaling.cluster import FILE, load_calibration, load_cluster

    file = settings.clusters or FILE
    config, cluster = preset(settings.model), load_cluster(settings.cluster, file)
    calibration = load_calibration(file)
    found: list[Serving] = []
    left_out: list[str] = []
    for scheme in WEIGHT_BYTES:
        try:
            found.append(serve(config, cluster, calibration, scheme=scheme, prompt=prompt, answer=answer))
        except UserError as error:
            left_out.append(f"{scheme}: {error}")
    title = f"{settings.model} on {cluster.device}: prompts of {prompt:,} and answers of {answer:,} tokens"
    figures = {one.scheme: dict(vars(one)) for one in found}
    return [title, *serving_lines(found), *left_out], figures
