"""Rejection sampling (§4.2.2): many answers to each request, of which the reward model picks the best.

Verifiers judge the same answers where a request carries a check. So it is known what the reward's choice is truly
worth beside a choice by chance and beside the best there was (the oracle).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from herdbook.evaluate.intervals import mean, proportion, ratio
from herdbook.posttrain.asking import (
    Drawer,
    Messages,
    Request,
    chance,
    in_chunks,
    rates,
    read_requests,
    verdicts,
    with_system,
)
from herdbook.posttrain.round_settings import SampleSettings
from herdbook.posttrain.rows import write_rows
from herdbook.settings import UserError
from herdbook.tokens.tools import answer_message

Row = dict[str, Any]
Asked = tuple[Request, Messages]


def sample(
    settings: SampleSettings,
    models: dict[str, Path],
    requests: Path,
    out: Path,
    reward: Path | None = None,
    known: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write `out`/samples.jsonl, all answers with rewards and verdicts, and `out`/dialogs, the best ones.

    `models` are named folders; the first answers what `settings.route` sends to none. What dialogs of `known` ask is
    not asked. Goes on from what a killed run left in `out`. Returns what was drawn, kept and dropped, and what the
    picked answers are worth. UserError when `pick` wants rewards and there is no reward model, or `route` names no
    feeding stage.
    """
    if reward is None and settings.pick != "verdict":
        raise UserError(f"pick is {settings.pick}, and no reward model feeds this stage; feed one, or pick by verdict")
    chosen = read_requests(requests, settings, known=known)
    asked = [(request, with_system(request, settings.systems, settings.seed)) for request in chosen]
    drawn = _draw(settings, models, asked, out)
    judged = _judge(settings, reward, asked, drawn, out)
    rows = [_row(settings, *item) for item in zip(asked, drawn, judged, strict=True)]
    write_rows(out / "samples.jsonl", rows)
    kept = _kept(settings, rows)
    if not kept:
        raise UserError("no answer was kept: none ended, or none was right; raise max_tokens or answers, or keep all")
    write_rows(out / "dialogs" / "dialogs.jsonl", [_dialog(row, request) for row, request in _beside(kept, chosen)])
    for name in ("drawn", "judged"):
        for file in out.glob(f"{name}*.jsonl"):
            file.unlink()
    return {
        "requests": len(rows),
        "dialogs": len(kept),
        **rates(drawn),
        "ended": proportion(sum(sum(row["ended"]) for row in rows), sum(len(row["ended"]) for row in rows)),
        **worth(rows),
        **({"by_reward": by_reward(settings, rows)} if reward is not None and settings.pick != "reward" else {}),
    }


def _draw(settings: SampleSettings, models: dict[str, Path], asked: list[Asked], out: Path) -> list[Row]:
    """Each request's answers, model by model, so that only one is in memory."""
    for task, name in settings.route.items():
        if name not in models:
            raise UserError(f"route sends {task} to {name!r}; the models that feed this stage are {', '.join(models)}")
    first = next(iter(models))
    by_model: dict[str, list[int]] = defaultdict(list)
    for place, (request, _) in enumerate(asked):
        by_model[settings.route.get(str(request.get("task")), first)].append(place)
    found: dict[int, Row] = {}
    for name, places in by_model.items():
        file = out / f"drawn.{list(models).index(name)}.jsonl"
        rows = Drawer(models[name], settings, "sample").draw_all([asked[at] for at in places], settings.answers, file)
        found |= dict(zip(places, rows, strict=True))
    return [found[place] for place in range(len(asked))]


def _judge(settings: SampleSettings, reward: Path | None, asked: list[Asked], drawn: list[Row], out: Path) -> list[Row]:
    """Rewards and verdicts of each request's answers, equal ones judged once."""
    model = _reward_model(reward, settings.device) if reward is not None else None

    def work(part: Sequence[tuple[Asked, Row]]) -> list[Row]:
        requests = [request for (request, _), _ in part]
        unique = [list(dict.fromkeys(row["answers"])) for _, row in part]
        true = verdicts(requests, unique)
        said = [_whole(row) for _, row in part]  # the others may be longer than what the reward model holds
        tools = [request.get("tools") for request in requests]
        scored = model.score([messages for (_, messages), _ in part], said, tools) if model is not None else said
        rows = []
        for number, (_, row) in enumerate(part):
            rewards = dict(zip(said[number], scored[number], strict=True)) if model is not None else {}
            worths = dict(zip(unique[number], true[number], strict=True))
            answers = row["answers"]
            rows.append({"rewards": [rewards.get(a) for a in answers], "verdicts": [worths[a] for a in answers]})
        return rows

    items = {item[0]["id"]: (item, row) for item, row in zip(asked, drawn, strict=True)}
    return in_chunks(out / "judged.jsonl", items, work, 256, "judging")


def _whole(drawn: Row) -> list[str]:
    """The answers that ended and say something, each once; no other can be picked, so no other has a reward."""
    return list(dict.fromkeys(answer for answer, ended in zip(drawn["answers"], drawn["ended"]) if ended and answer))


def _reward_model(folder: Path, device: str | None) -> Any:
    from herdbook.posttrain.reward import RewardModel

    return RewardModel.load(folder, device)


def _row(settings: SampleSettings, asked: Asked, drawn: Row, judged: Row) -> Row:
    request, messages = asked
    best = pick(settings, request["id"], drawn["answers"], drawn["ended"], judged["rewards"], judged["verdicts"])
    return {
        "id": request["id"],
        "task": request.get("task"),
        "messages": messages,
        "answers": drawn["answers"],
        "ended": drawn["ended"],
        **judged,
        "best": best,
    }


def pick(
    settings: SampleSettings,
    name: str,
    answers: Sequence[str],
    ended: Sequence[bool],
    rewards: Sequence[float | None],
    verdicts: Sequence[float | None],
) -> int:
    """The place of the best answer of request `name` among those that ended and say something; -1 if there is none.

    Where neither reward nor verdict tells two apart, chance does, by the seed.
    """

    def rank(place: int) -> tuple[float, float, float]:
        reward = rewards[place] if settings.pick != "verdict" else None
        true = verdicts[place] if settings.pick != "reward" else None
        return (true or 0.0, -np.inf if reward is None else reward, chance(settings.seed, name, place))

    return max(able(answers, ended), key=rank, default=-1)


def able(answers: Sequence[str], ended: Sequence[bool]) -> list[int]:
    """The places of the answers that ended and say something."""
    return [place for place, (answer, whole) in enumerate(zip(answers, ended, strict=True)) if whole and answer]


def _kept(settings: SampleSettings, rows: list[Row]) -> list[Row]:
    """The rows whose best answers become dialogs, in their order."""
    found = [row for row in rows if row["best"] >= 0]
    if settings.keep == "right":
        found = [row for row in found if row["verdicts"][row["best"]] in (None, 1.0)]
    if settings.top == 1.0:
        return found
    by_task: dict[Any, list[Row]] = defaultdict(list)
    for row in found:
        by_task[row["task"]].append(row)
    names: set[str] = set()
    for own in by_task.values():
        ranked = sorted(own, key=lambda row: -(row["rewards"][row["best"]] or 0.0))
        names |= {row["id"] for row in ranked[: max(1, round(settings.top * len(own)))]}
    return [row for row in found if row["id"] in names]


def _beside(rows: list[Row], requests: list[Request]) -> list[tuple[Row, Request]]:
    by_id = {request["id"]: request for request in requests}
    return [(row, by_id[row["id"]]) for row in rows]


def _dialog(row: Row, request: Request) -> Row:
    """A best answer as a dialog to learn from."""
    best = row["best"]
    answer = answer_message(row["answers"][best], request.get("tools"))
    beside = {key: request[key] for key in ("tools", "difficulty") if request.get(key) is not None}
    return {
        "id": row["id"],
        "task": row["task"],
        "source": "sampled",
        "messages": [*row["messages"], answer],
        "reward": row["rewards"][best],
        "verdict": row["verdicts"][best],
        **beside,
    }


def by_reward(settings: SampleSettings, rows: Sequence[Row]) -> dict[str, Any]:
    """What the reward alone would have picked is worth, where verdicts took part in the choice."""
    alone = settings.model_copy(update={"pick": "reward"})
    names = ("answers", "ended", "rewards", "verdicts")
    return worth([{**row, "best": pick(alone, row["id"], *(row[name] for name in names))} for row in rows])


def worth(rows: Sequence[Row]) -> dict[str, Any]:
    """What the picked answers are truly worth beside one by chance and the best that could be picked; by task too.

    Only requests with a check and an answer that ended count. `gap_closed` is the share of the way from chance to the
    oracle that the choice goes, with a bootstrap interval over requests.
    """
    judged = [row for row in rows if row["best"] >= 0 and row["verdicts"][row["best"]] is not None]
    if not judged:
        return {}
    picked = [row["verdicts"][row["best"]] for row in judged]
    by_chance = [float(np.mean(row["verdicts"])) for row in judged]
    oracle = [max(row["verdicts"][place] for place in able(row["answers"], row["ended"])) for row in judged]
    gained = [one - other for one, other in zip(picked, by_chance, strict=True)]
    room = [one - other for one, other in zip(oracle, by_chance, strict=True)]
    found: dict[str, Any] = {
        "best": mean(picked),
        "random": mean(by_chance),
        "oracle": mean(oracle),
        "gain": mean(gained),
        "gap_closed": ratio(gained, room),
    }
    tasks = sorted({str(row["task"]) for row in judged})
    if len(tasks) > 1:
        found["tasks"] = {task: worth([row for row in judged if str(row["task"]) == task]) for task in tasks}
    return found
