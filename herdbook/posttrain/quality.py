"""How good a dialog's last answer is, and how hard its request (§4.2.3).

An answer is good when its reward is in the top quarter or a judge gives it full marks: two measures that disagree, so
that taking what either one likes finds the most. Difficulty is how many intents a request has (Instag) and a judge's
grade; where no model can judge, how little the question helps a model to foretell the answer (Li and others 2023).
All measures are columns; scores are brought to 0 … 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from herdbook.inference.engine import Engine
from herdbook.posttrain.judging import Prompts, ask, read_grade, read_intents
from herdbook.posttrain.memory import Memory
from herdbook.posttrain.select_settings import DifficultyRule, JudgeSettings, QualityRule
from herdbook.posttrain.shown import Row, said, shown
from herdbook.posttrain.writer import EngineWriter, Writer
from herdbook.settings import UserError

GENERAL_MOST, CODE_MOST = 3, 2


class Scorer(Protocol):
    """What a reward model can do."""

    def score(
        self,
        prompts: list[list[dict[str, Any]]],
        answers: list[list[str]],
        tools: list[list[dict[str, Any]] | None] | None = None,
    ) -> list[list[float]]:
        """The reward of each answer to each prompt, whose answers may call its tools."""
        ...


def set_rewards(rows: Sequence[Row], scorer: Scorer, memory: Memory, believe: bool) -> None:
    """Give each row its `quality_reward`: what the reward model says of its last answer, None where it is too long."""

    def find(some: Sequence[Row]) -> list[float | None]:
        prompts = [row["messages"][:-1] for row in some]
        answers = [[said(row["messages"][-1])] for row in some]
        try:
            return [found[0] for found in scorer.score(prompts, answers, [row.get("tools") for row in some])]
        except UserError:  # one of them is longer than the model reads: it gets no reward, the others theirs
            return find(some[: len(some) // 2]) + find(some[len(some) // 2 :]) if len(some) > 1 else [None]

    wanted = {row["id"]: row for row in rows if not (believe and isinstance(row.get("quality_reward"), float))}
    for id, reward in memory.fill(wanted, find).items():
        wanted[id]["quality_reward"] = reward


def set_grades(rows: Sequence[Row], rule: QualityRule, judge: Writer, asking: JudgeSettings, believe: bool) -> Any:
    """Give rows their `quality_grade` and `quality_most`, None where the judge talks nonsense; returns counts."""
    prompts, count = Prompts(asking.prompts), Counter[str]()
    left = [row for row in rows if not (believe and isinstance(row.get("quality_grade"), int))]
    for name, most in (("quality_general", GENERAL_MOST), ("quality_code", CODE_MOST)):
        some = [row for row in left if (row["topic"] in rule.code) == (name == "quality_code")]
        texts = [prompts.fill(name, dialog=shown(row)) for row in some]
        for row, grade in zip(some, ask(judge, texts, read_grade(1, most), count, asking.max_tokens), strict=True):
            row["quality_grade"], row["quality_most"] = grade, most
    return dict(count)


def rank_within(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Share (N,) of the values (N,) of its group that are not above each; NaN stays NaN, and equal values are equal."""
    found, names = np.full(len(values), np.nan), np.array(groups, dtype=object)
    for name in set(groups):
        inside = np.flatnonzero((names == name) & ~np.isnan(values))
        ordered = np.sort(values[inside])
        found[inside] = np.searchsorted(ordered, values[inside], side="right") / max(len(inside), 1)
    return found


def set_quality(rows: Sequence[Row], rule: QualityRule) -> dict[str, Any]:
    """Give rows `quality_rank` of their reward, `quality_score` and `quality_good`; returns how the measures agree."""
    rewards = np.array([_number(row.get("quality_reward")) for row in rows], dtype=np.float64)
    groups = [str(row.get(rule.within) or "") if rule.within else "" for row in rows]
    ranks = rank_within(rewards, groups)
    by_reward = _top(rewards, groups, rule.reward_top)
    votes = Counter[str]()
    for row, rank, top in zip(rows, ranks.tolist(), by_reward.tolist(), strict=True):
        grade, most = row.get("quality_grade"), row.get("quality_most") or GENERAL_MOST
        by_judge = grade == most
        measured = [value for value in (rank, grade / most if grade else None) if value is not None and value == value]
        row["quality_rank"] = None if rank != rank else round(rank, 4)
        row["quality_score"] = round(max(measured), 4) if measured else None
        row["quality_good"] = bool(top or by_judge)
        if rank == rank and grade:
            votes[f"{'reward' if top else 'no reward'} and {'judge' if by_judge else 'no judge'}"] += 1
    if all(row["quality_score"] is None for row in rows):  # nobody was asked, so nobody said no
        for row in rows:
            row["quality_good"] = True
    return dict(votes)


def _top(values: np.ndarray, groups: Sequence[str], share: float) -> np.ndarray:
    """Which values (N,) bool are among the highest `share` of their group; with equals at the border all of them."""
    found, names = np.zeros(len(values), dtype=bool), np.array(groups, dtype=object)
    for name in set(groups):
        inside = np.flatnonzero((names == name) & ~np.isnan(values))
        if len(inside):
            border = np.sort(values[inside])[-max(1, round(share * len(inside)))]
            found[inside] = values[inside] >= border
    return found


def set_difficulty(
    rows: Sequence[Row], rule: DifficultyRule, judge: Writer | None, asking: JudgeSettings, memory: Memory
) -> dict[str, Any]:
    """Give each row its `difficulty_score` in 0 … 1, None where it is not known; returns figures."""
    if rule.by == "column":
        values = np.array([_number(row.get(rule.column)) for row in rows], dtype=np.float64)
        most = np.nanmax(values) if np.isfinite(values).any() else 1.0
        scores = values / max(most, 1e-12)
    elif rule.by == "judge":
        assert judge is not None
        return _judged_difficulty(rows, rule, judge, asking)
    elif rule.by == "model":
        scores = rank_within(instruction_ratios(rows, judge, memory), [""] * len(rows))
    else:
        scores = np.full(len(rows), np.nan)
    for row, score in zip(rows, scores.tolist(), strict=True):
        row["difficulty_score"] = None if score != score else round(score, 4)
    return {}


def _judged_difficulty(
    rows: Sequence[Row], rule: DifficultyRule, judge: Writer, asking: JudgeSettings
) -> dict[str, Any]:
    prompts, count = Prompts(asking.prompts), Counter[str]()
    requests = [shown(row, last=False) for row in rows]
    intents = ask(
        judge, [prompts.fill("intents", dialog=text) for text in requests], read_intents, count, asking.max_tokens
    )
    texts = [prompts.fill("difficulty", dialog=text) for text in requests]
    grades = ask(judge, texts, read_grade(1, 3), count, asking.max_tokens)
    for row, names, grade in zip(rows, intents, grades, strict=True):
        row["difficulty_intents"], row["difficulty_grade"] = list(names or ()), grade
        parts = [min(len(names), rule.intents) / rule.intents] if names else []
        parts += [grade / 3] if grade else []
        row["difficulty_score"] = round(sum(parts) / len(parts), 4) if parts else None
    return dict(count)


def instruction_ratios(rows: Sequence[Row], writer: Writer | None, memory: Memory) -> np.ndarray:
    """Nats per token (N,) of each last answer after its request over those without it; NaN where it does not fit."""
    engine = engine_of(writer)
    chat = engine.tokenizer.chat

    def find(some: Sequence[Row]) -> list[float | None]:
        answers = [engine.tokenizer.encode(said(row["messages"][-1])) for row in some]
        with_request = [chat(row["messages"][:-1]) for row in some]
        fits = [
            place
            for place, (one, two) in enumerate(zip(with_request, answers))
            if two and len(one + two) <= engine.limit
        ]
        prompts = [with_request[place] for place in fits] + [chat([])] * len(fits)
        scores = engine.score(prompts, [answers[place] for place in fits] * 2)
        ratios: list[float | None] = [None] * len(some)
        for number, place in enumerate(fits):
            ratios[place] = scores[number].logprob / min(scores[len(fits) + number].logprob, -1e-9)
        return ratios

    found = memory.fill({row["id"]: row for row in rows}, find)
    return np.array([_number(found[row["id"]]) for row in rows], dtype=np.float64)


def engine_of(writer: Any) -> Engine:
    """The engine behind a writer; UserError where there is only an endpoint."""
    inner = getattr(writer, "writer", writer)
    if not isinstance(inner, EngineWriter):
        raise UserError(
            "difficulty.by: model needs likelihoods, which an endpoint does not give; feed the stage a model"
        )
    return inner.engine


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
