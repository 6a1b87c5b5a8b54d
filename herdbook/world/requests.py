"""What chat models are asked about the world: requests with checks, and dialogs as a person would have written them.

`requests/train.jsonl` and `requests/test.jsonl` hold requests of eleven tasks, made of different things. Of the
training requests a share stands in `dialogs/train.jsonl` too, with the reference as the assistant's turn: what
annotators write before there is any model to choose from. Facts told a few times only are asked for, but no dialog
answers them from memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from herdbook.files import write_text
from herdbook.world.asked import chain_requests, fact_requests, foreign_requests, problem_requests, program_requests
from herdbook.world.corrections import repair_requests
from herdbook.world.errands import tool_requests
from herdbook.world.facts import Register
from herdbook.world.instructions import chat_requests, instruction_requests
from herdbook.world.names import part_random
from herdbook.world.policy import forbidden_requests, lookalike_requests
from herdbook.world.request import SPLITS, Request, Split, said
from herdbook.world.settings import EXPOSURES, WorldSettings
from herdbook.world.talks import talk_requests
from herdbook.world.unknown import unknown_requests

COUNTS: dict[str, dict[Split, int]] = {
    "fact": {"train": 1_500, "test": 600},
    "problem": {"train": 1_000, "test": 1_000},
    "program": {"train": 600, "test": 1_000},
    "instruction": {"train": 900, "test": 300},
    "chat": {"train": 500, "test": 200},
    "tool": {"train": 500, "test": 300},
    "unknown": {"train": 350, "test": 200},
    "forbidden": {"train": 250, "test": 150},
    "lookalike": {"train": 250, "test": 150},
    "repair": {"train": 300, "test": 300},
    "talk": {"train": 300, "test": 400},
}
"""Requests of each task at most, with `requests` at 1."""
DULL = 2_000  # draws in a row that may bring nothing new before a task has no more


def streams(settings: WorldSettings, register: Register, split: Split) -> Iterator[tuple[str, Iterator[Request]]]:
    """Each task's requests of one side, as many as one likes to take."""

    def random(task: str) -> Any:
        return part_random(settings.seed, f"{task} requests {split}")

    facts = list(
        chain(
            fact_requests(random("fact"), register, split),
            chain_requests(register, split),
            foreign_requests(settings, register, split),
        )
    )
    random("fact order").shuffle(facts)
    if split == "train":  # what can be known comes first, and what can't as far as there is room
        facts.sort(key=lambda request: request.more["exposures"] != EXPOSURES[-1])
    yield "fact", iter(facts)
    yield "problem", problem_requests(random("problem"), split)
    yield "program", program_requests(random("program"), split)
    yield "instruction", instruction_requests(random("instruction"), register, split)
    yield "chat", chat_requests(random("chat"), register, split)
    yield "tool", tool_requests(random("tool"), register, split)
    yield "unknown", unknown_requests(random("unknown"), register, split)
    yield "forbidden", forbidden_requests(random("forbidden"), register, split)
    yield "lookalike", lookalike_requests(random("lookalike"), register, split)
    yield "repair", repair_requests(random("repair"), split)
    yield "talk", talk_requests(random("talk"), register, split)


def different(requests: Iterator[Request], count: int) -> Iterator[Request]:
    """The first `count` requests that differ; fewer where no new ones come."""
    seen: set[str] = set()
    dull = 0
    for request in requests:
        if len(seen) >= count or dull >= DULL:
            return
        if request.key in seen:
            dull += 1
            continue
        seen.add(request.key)
        dull = 0
        yield request


def make_requests(settings: WorldSettings, register: Register, split: Split) -> Iterator[dict[str, Any]]:
    """The rows of one side, task by task."""
    for task, found in streams(settings, register, split):
        count = max(4, round(COUNTS[task][split] * settings.requests))
        for number, request in enumerate(different(found, count)):
            yield request.row(f"{task}-{split}-{number}", split)


def dialog(row: dict[str, Any]) -> dict[str, Any]:
    """A request with its reference as the assistant's turn; of a repair only that is to be learnt, not the mistake."""
    before = row["messages"]
    if row["task"] == "repair":
        before = [{**one, "weight": 0} if one["role"] == "assistant" else one for one in before]
    messages = [*before, said("assistant", row["reference"])]
    kept = {key: value for key, value in row.items() if key not in ("messages", "reference", "check", "split", "final")}
    return {"messages": messages, "source": "world", **kept}


def written_dialogs(settings: WorldSettings, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The training requests that a person has answered: a share of each task, and of facts only the well told."""
    random = part_random(settings.seed, "written dialogs")
    for row in rows:
        if random.random() < settings.written and row.get("exposures", EXPOSURES[-1]) == EXPOSURES[-1]:
            yield dialog(row)


def write_requests(settings: WorldSettings, register: Register, out: Path) -> dict[str, int]:
    """Write `requests/{train,test}.jsonl` and `dialogs/train.jsonl` below the folder `out`; gives their lengths."""
    files = {f"requests/{split}": list(make_requests(settings, register, split)) for split in SPLITS}
    files["dialogs/train"] = list(written_dialogs(settings, files["requests/train"]))
    for name, rows in files.items():
        path = out / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return {name.replace("/", "_"): len(rows) for name, rows in files.items()}
