"""Exams compared question by question, against differences counted by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from herdbook.evaluate.change import ChangeSettings, change, paired_change
from herdbook.settings import UserError


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "samples" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_change_is_paired_over_questions(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write(a, "facts.jsonl", [{"id": i, "right": i % 2 == 0, "prompt": "\u2028"} for i in range(100)])
    write(b, "facts.jsonl", [{"id": i, "right": i % 2 == 0 and i > 0, "prompt": "\u2028"} for i in range(100)])
    write(a, "humaneval.jsonl", [{"id": 1, "passed": 3, "samples": 4}, {"id": 2, "passed": 0, "samples": 4}])
    write(b, "humaneval.jsonl", [{"id": 1, "passed": 1, "samples": 4}, {"id": 2, "passed": 0, "samples": 4}])
    found = paired_change(a, b, 1)
    fact = found["facts"]["accuracy"]
    # One of a hundred fell: two exams apart would say ± .1.
    assert fact["value"] == -0.01 and fact["low"] >= -0.04 and fact["high"] == 0
    assert found["humaneval"]["pass_rate"]["value"] == -0.25


def test_groups_scores_and_every_mark(tmp_path: Path) -> None:
    def row(number: int, told: int, score: float, ended: bool) -> dict[str, Any]:
        return {"id": number, "score": score, "ended": ended, "output": "x", "group": {"told": told}}

    rows = [row(1, 1, 0.5, False), row(2, 1, 0.0, True), {**row(3, 9, 1.0, True), "formed": False}]
    before = write(tmp_path / "a", "chat.jsonl", rows)
    rows = [row(1, 1, 1.0, True), row(2, 1, 0.5, True), {**row(3, 9, 0.0, True), "formed": True}]
    after = write(tmp_path / "b", "chat.jsonl", rows)
    found = change(ChangeSettings(by=("told",)), before, {"sft": after, "same": before}, tmp_path)
    assert found["sft"]["chat"]["score"]["value"] == pytest.approx(0.0)
    assert found["sft"]["chat_1"]["score"]["value"] == 0.5
    assert found["sft"]["chat_9"]["score"]["value"] == -1.0
    assert found["sft"]["chat"]["ended"]["value"] == pytest.approx(1 / 3)
    assert found["sft"]["chat"]["formed"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}  # of those that have it
    assert "formed" not in found["sft"]["chat_1"]
    assert found["same"]["chat"]["score"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 3}


def test_groups_of_two_keys_with_the_same_value_are_both_told(tmp_path: Path) -> None:
    groups = [{"steps": 1, "told": 100}, {"steps": 2, "told": 1}, {"told": 1}, {}]
    rows = [{"id": number, "score": 0.0, "group": group} for number, group in enumerate(groups)]
    before = write(tmp_path / "a", "chat.jsonl", rows)
    after = write(tmp_path / "b", "chat.jsonl", [{**row, "score": float(row["id"] == 0)} for row in rows])
    found = paired_change(before, after, 1, ("steps", "told"))
    assert set(found) == {"chat", "chat_1", "chat_2", "chat_100", "chat_told_1"}
    assert (found["chat_1"]["score"]["value"], found["chat_1"]["score"]["n"]) == (1.0, 1)
    assert (found["chat_told_1"]["score"]["value"], found["chat_told_1"]["score"]["n"]) == (0.0, 2)


def test_a_mark_that_only_some_samples_carry_is_told_over_those(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "score": 0.0},
        {"id": 2, "score": 0.0, "followed": False},
        {"id": 3, "score": 1.0, "followed": True},
    ]
    before = write(tmp_path / "a", "chat.jsonl", rows)
    after = write(
        tmp_path / "b", "chat.jsonl", [{**row, "followed": True} if "followed" in row else row for row in rows]
    )
    found = paired_change(before, after, 1)["chat"]
    assert found["score"]["n"] == 3 and found["score"]["value"] == 0
    assert found["followed"]["n"] == 2 and found["followed"]["value"] == 0.5


def test_other_questions_are_no_comparison(tmp_path: Path) -> None:
    before = write(tmp_path / "a", "facts.jsonl", [{"id": 1, "right": True}])
    with pytest.raises(UserError, match="not about the same questions"):
        paired_change(before, write(tmp_path / "b", "facts.jsonl", [{"id": 2, "right": True}]), 1)
    with pytest.raises(UserError, match="no task in common"):
        paired_change(before, write(tmp_path / "c", "other.jsonl", [{"id": 1, "right": True}]), 1)
