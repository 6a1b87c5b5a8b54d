"""What a run's end tells: which model to talk to."""

from __future__ import annotations

from pathlib import Path

from herdbook.book import Book, Entry, Parent
from herdbook.report.summary import next_step


def entry(stage: str, kind: str, *parents: str) -> Entry:
    return Entry(
        id=stage, kind=kind, stage=stage, settings={}, given={}, sources={}, code="", machine={}, started="",
        inputs={"from": [Parent(stage=parent, id=parent) for parent in parents]}, finished="",
        seconds=1.0, energy={}, metrics={},
    )  # fmt: skip


def test_the_model_to_talk_to_is_the_one_most_stages_led_to(tmp_path: Path) -> None:
    made = [
        entry("base", "pretrain"),
        entry("start", "sft", "base"),
        entry("chat", "preference", "start", "pairs"),
        entry("pairs", "collect", "start"),
        entry("control", "sft", "base"),
        entry("exam", "evaluate", "chat", "control"),
    ]
    told = next_step(Book(tmp_path), {item.stage: item for item in made}, named_book=False)
    assert told.startswith("talk to it: ") and told.split()[-1].startswith("chat")
    told = next_step(Book(tmp_path), {item.stage: item for item in (made[0], made[1], made[4])}, named_book=False)
    assert told.split()[-1].startswith("control")  # of those with as many, the last
