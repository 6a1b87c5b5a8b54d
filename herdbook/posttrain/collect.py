"""Collecting preferences (§4.1.1): two answers to each request, from two models where there are two, and a judgement.

What is written is TRL's conversational form with the strength, the edited answer, the task and the round beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from herdbook.evaluate.intervals import mean, proportion
from herdbook.posttrain.annotators import STRENGTHS, Judge, Judgement, Pair, Simulated
from herdbook.posttrain.asking import Drawer, Request, in_chunks, rates, read_requests, verdicts
from herdbook.posttrain.round_settings import CollectSettings
from herdbook.posttrain.rows import write_rows
from herdbook.settings import UserError
from herdbook.tokens.tools import answer_message

Row = dict[str, Any]


def collect(
    settings: CollectSettings, models: dict[str, Path], requests: Path, out: Path, known: Sequence[Path] = ()
) -> dict[str, Any]:
    """Write `out`/preferences/preferences.jsonl; returns what was drawn, judged and dropped.

    `models` are named folders that share the draws of each request; what dialogs of `known` ask is not asked. Goes on
    from what a killed run left in `out`.
    UserError when no request gets two answers, and for what the annotator finds wrong.
    """
    target = out / "preferences" / "preferences.jsonl"
    asked = read_requests(requests, settings, known=known)
    drawn = _draw(settings, models, asked, out)
    found = [pairs_of(request, own, settings.pairs) for request, own in zip(asked, drawn, strict=True)]
    pairs = [pair for own in found for pair in own]
    if not pairs:
        raise UserError("no request got two answers that ended and differ; raise temperature, draws or max_tokens")
    true = verdicts([pair.request for pair in pairs], [pair.answers for pair in pairs])
    judged, bill = _judge(settings, pairs, true, out)
    rows = [preference(pair, found, settings.round) for pair, found in zip(pairs, judged, strict=True) if found]
    if not rows:
        raise UserError(f"none of {len(pairs)} pairs was judged")
    write_rows(target, rows)
    for file in (*out.glob("drawn*.jsonl"), *out.glob("judged*.jsonl")):
        file.unlink()
    strengths = Counter(row["strength"] for row in rows)
    return {
        "requests": len(asked),
        "pairs": len(pairs),
        "preferences": len(rows),
        "dropped": {"no_pair": sum(not own for own in found), "not_judged": len(pairs) - len(rows)},
        "edited": sum(row["edited"] is not None for row in rows),
        "strengths": {name: strengths[name] for name in STRENGTHS},
        **_agreement(true, judged),
        **(_repeated(settings, pairs, true, judged) if settings.annotator == "world" else {}),
        **rates([row for own in drawn for row in own]),
        **({"judge": bill} if bill else {}),
    }


def _draw(settings: CollectSettings, models: dict[str, Path], asked: list[Request], out: Path) -> list[list[Row]]:
    """Of each request the answers of each model; one model is in memory at a time."""
    count = max(1, settings.draws // len(models))
    found = []
    prompts = [(request, request["messages"]) for request in asked]
    for place, (name, folder) in enumerate(models.items()):
        rows = Drawer(folder, settings, f"collect {place}").draw_all(prompts, count, out / f"drawn.{place}.jsonl")
        found.append([{**row, "model": name} for row in rows])
    return [list(own) for own in zip(*found, strict=True)]


def pairs_of(request: Request, drawn: Sequence[Row], most: int) -> list[Pair]:
    """Pairs of whole answers that differ, of different models where it can be; the same words are in one pair only.

    Answers are taken in turn from the models: the first of each, the second of each, and so on.
    """
    turns = zip(*([(row["model"], *item) for item in zip(row["answers"], row["ended"])] for row in drawn))
    able = [(model, answer) for turn in turns for model, answer, ended in turn if ended and answer]
    found: list[Pair] = []
    while able and len(found) < most:
        model, answer = able[0]
        others = [item for item in able if item[1] != answer]
        if not others:
            break
        other = next((item for item in others if item[0] != model), others[0])
        found.append(Pair(request, (answer, other[1]), (model, other[0]), len(found)))
        able = [item for item in others if item[1] != other[1]]
    return found


def _judge(
    settings: CollectSettings, pairs: list[Pair], true: list[list[float | None]], out: Path
) -> tuple[list[Judgement | None], dict[str, float] | None]:
    """The judgement of each pair, going on from those in `out`; and the bill, where someone is paid."""
    if settings.annotator == "people":
        from herdbook.posttrain.annotate_page import ask_people

        return ask_people(pairs, out / "judged.jsonl", settings), None
    if settings.annotator == "world":
        return Simulated(settings.taste, settings.seed).annotate(pairs, true), None
    assert settings.judge is not None
    judge = Judge(settings.judge, settings.seed)

    def work(part: Sequence[Pair]) -> list[Row]:
        return [{} if found is None else vars(found) for found in judge.annotate(part)]

    try:
        items = {pair.id: pair for pair in pairs}
        rows = in_chunks(out / "judged.jsonl", items, work, 8 * settings.judge.parallel, "judging")
    finally:
        judge.close()
    return [Judgement(**row) if row else None for row in rows], judge.bill


def preference(pair: Pair, judged: Judgement, round: int) -> Row:
    """A judged pair in TRL's conversational form."""

    tools = pair.request.get("tools")

    def answer(text: str) -> list[dict[str, Any]]:
        return [answer_message(text, tools)]

    row = {
        "id": pair.id,
        "prompt": pair.request["messages"],
        "chosen": answer(pair.answers[judged.chosen]),
        "rejected": answer(pair.answers[1 - judged.chosen]),
        "strength": judged.strength,
        "edited": answer(judged.edited) if judged.edited else None,
        "task": pair.request.get("task"),
        "source": " / ".join((pair.models[judged.chosen], pair.models[1 - judged.chosen])),
        "round": round,
    }
    return row | ({"tools": tools} if tools else {})


def _agreement(true: list[list[float | None]], judged: list[Judgement | None]) -> dict[str, Any]:
    """Where verifiers tell two answers apart: how often the annotator chose the better; and what answers are worth."""
    known = [
        (found, first, second)
        for found, (first, second) in zip(judged, true, strict=True)
        if found is not None and first is not None and second is not None
    ]
    apart = [(found.chosen == int(second > first)) for found, first, second in known if first != second]
    if not known:
        return {}
    worth = mean([(first + second) / 2 for _, first, second in known])
    return {"agreement": proportion(sum(apart), len(apart)), "score": worth}


def _repeated(
    settings: CollectSettings, pairs: list[Pair], true: list[list[float | None]], judged: list[Judgement | None]
) -> dict[str, Any]:
    """How often the simulated annotator, asked again, chooses the same; of all pairs, and of each strength at first."""
    again = Simulated(settings.taste, f"{settings.seed} again").annotate(pairs, true)
    same = [(one.strength, one.chosen == two.chosen) for one, two in zip(judged, again, strict=True) if one and two]
    figures = {"all": proportion(sum(alike for _, alike in same), len(same))}
    for strength in STRENGTHS:
        own = [alike for name, alike in same if name == strength]
        figures[strength] = proportion(sum(own), len(own))
    return {"repeated": figures}
