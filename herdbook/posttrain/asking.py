"""Asking a model requests: which ones, in which words, and any number of answers to each, drawn on the engine.

What is drawn is kept in a file chunk by chunk, so a killed stage goes on where it was. An answer is a function of
model, prompt, settings, purpose and its number, so going on gives what would have come without the kill.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from herdbook.console import progress
from herdbook.posttrain.dialogs import asked_key, read_dialogs
from herdbook.posttrain.memory import Memory
from herdbook.posttrain.round_settings import AskSettings
from herdbook.posttrain.rows import read_rows
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import END_OF_MESSAGE, END_OF_TURN

Request = dict[str, Any]
Messages = list[dict[str, Any]]
T = TypeVar("T")


def chance(*of: object) -> float:
    """A number in [0, 1) that is a function of `of` alone."""
    digest = hashlib.blake2b("/".join(map(str, of)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def is_kept_back(name: str, share: float) -> bool:
    """Whether the request of this id is among the share that gates judge by and nothing else sees."""
    return chance("kept back", name) < share


def read_requests(path: Path, settings: AskSettings, held: bool = False, known: Sequence[Path] = ()) -> list[Request]:
    """The requests to ask, in the order of their file; with `held` those that are kept back for gates.

    Those that a dialog of the entries `known` begins like, or has the id of, are left out. `path` is an entry that
    holds `requests/`, or the folder of `train.jsonl` and `test.jsonl`. UserError names the file and row of what is no
    request, and when none is left.
    """
    folder = path / "requests" if (path / "requests").is_dir() else path
    file = folder / f"{settings.split}.jsonl"
    if not file.is_file():
        raise UserError(f"there is no {file}; requests come as train.jsonl and test.jsonl")
    found: dict[str, Request] = {}
    for where, row in read_rows(file):
        check_request(row, where)
        if row["id"] in found:
            raise UserError(f"{where}: a second request has the id {row['id']!r}; ids must differ")
        found[row["id"]] = row
    wanted = [row for row in found.values() if settings.tasks is None or row.get("task") in settings.tasks]
    if settings.split == "train":
        wanted = [row for row in wanted if is_kept_back(row["id"], settings.kept_back) == held]
    if known:
        ids, keys = _told(known)
        wanted = [row for row in wanted if row["id"] not in ids and asked_key(row["messages"]) not in keys]
    if not wanted:
        tasks = ", ".join(sorted({str(row.get("task")) for row in found.values()}))
        raise UserError(f"{file}: no requests are left by tasks, kept_back and known; its tasks are {tasks or 'none'}")
    if settings.limit is None or settings.limit >= len(wanted):
        return wanted
    order = settings.seed if settings.order is None else settings.order
    drawn = sorted((row["id"] for row in wanted), key=lambda name: chance(order, name))
    first = (settings.part - 1) * settings.limit
    chosen = {drawn[place % len(drawn)] for place in range(first, first + settings.limit)}
    return [row for row in wanted if row["id"] in chosen]


def _told(entries: Sequence[Path]) -> tuple[set[str], set[str]]:
    """Ids of the dialogs of all entries, and what was asked in them."""
    dialogs = [one for entry in entries for one in read_dialogs(entry)]
    return {str(one.columns["id"]) for one in dialogs if "id" in one.columns}, {one.key for one in dialogs}


def check_request(row: Request, where: str) -> None:
    """UserError, with `where`, unless the row has an id and messages that wait for an answer."""
    messages = row.get("messages")
    if not isinstance(row.get("id"), str):
        raise UserError(f"{where}: a request has an 'id' of text, and here it is {row.get('id')!r}")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise UserError(f"{where}: a request has 'messages', a list of {{'role': …, 'content': …}}")
    if messages[-1].get("role") == "assistant":
        raise UserError(f"{where}: the last message is the assistant's, so nothing is asked")


def with_system(request: Request, systems: Sequence[str], seed: int) -> Messages:
    """The request's messages; where they have no system prompt, one of `systems` drawn by the seed stands before."""
    messages: Messages = request["messages"]
    if not systems or messages[0].get("role") == "system":
        return messages
    drawn = systems[int(chance("system", seed, request["id"]) * len(systems))]
    return [{"role": "system", "content": drawn}, *messages]


def in_chunks(
    file: Path, items: dict[str, T], work: Callable[[Sequence[T]], list[dict[str, Any]]], size: int, label: str
) -> list[dict[str, Any]]:
    """What `work` makes of each item, chunks of `size` at a time; it is in `file` before the next chunk begins."""
    memory = Memory(file)
    with progress(label, len(items), "requests") as bar:
        bar.advance(sum(key in memory.known for key in items))

        def find(some: Sequence[T]) -> list[dict[str, Any]]:
            found = work(some)
            bar.advance(len(some))
            return found

        return list(memory.fill(items, find, size).values())


class Drawer:
    """Draws answers from the model of one folder.

    Drawers of another purpose draw other answers with the same seed. Stages of a round share seed and model: a reward
    model must not pick among the answers that it learnt from, nor two models be drawn from by the same chance, which
    gives the same words where they are nearly the same.
    """

    def __init__(self, folder: Path, settings: AskSettings, purpose: str) -> None:
        from herdbook.inference.engine import Engine

        self.settings, self.seed = settings, int(chance("draw", purpose, settings.seed) * 2**53)
        self.engine = Engine.load(folder, device=settings.device, rows=settings.rows)

    def draw(self, asked: Sequence[tuple[Request, Messages]], count: int) -> list[dict[str, Any]]:
        """Of each request `{"answers": [text], "ended": [bool], "tokens", "seconds"}`, `count` answers each.

        A prompt that leaves no room for an answer gets none. `tokens` are those drawn; `seconds` of the whole call
        stand with its first row.
        """
        from herdbook.inference.engine import Sampling

        settings, tokenizer, started = self.settings, self.engine.tokenizer, time.monotonic()
        prompts = [prompt_ids(tokenizer, request, messages) for request, messages in asked]
        sampling = Sampling(
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop_ids=ends_of_turns(tokenizer),
            seed=self.seed,
        )
        fitting = [prompt for prompt in prompts if len(prompt) < self.engine.limit]
        drawn = iter(self.engine.generate([prompt for prompt in fitting for _ in range(count)], sampling))
        rows = []
        for prompt in prompts:
            own = [next(drawn) for _ in range(count)] if len(prompt) < self.engine.limit else []
            texts = [answer.text.strip() for answer in own]
            ended = [answer.finish_reason == "stop" for answer in own]
            rows.append({"answers": texts, "ended": ended, "tokens": sum(len(answer.token_ids) for answer in own)})
        for place, row in enumerate(rows):
            row["seconds"] = round(time.monotonic() - started, 4) if place == 0 else 0.0
        return rows

    def draw_all(
        self, asked: Sequence[tuple[Request, Messages]], count: int, file: Path, label: str = "answers"
    ) -> list[dict[str, Any]]:
        """`draw` over any number of requests, going on from what `file` holds."""
        items = {request["id"]: (request, messages) for request, messages in asked}
        return in_chunks(
            file, items, lambda some: self.draw(some, count), max(1, self.settings.rows * 8 // count), label
        )


def prompt_ids(tokenizer: Any, request: Request, messages: Messages) -> list[int]:
    """The ids a model is asked with, up to the header of its answer; UserError names the request."""
    from herdbook.tokens.dialog import encode_dialog

    try:
        return encode_dialog(tokenizer, messages, generation_prompt=True, tools=request.get("tools")).ids
    except UserError as error:
        raise UserError(f"request {request['id']}: {error}") from None


def ends_of_turns(tokenizer: Any) -> tuple[int, ...]:
    """The ids that end what an assistant says, for models whose folders do not name them."""
    special = tokenizer.special_tokens
    return tuple(special[name] for name in (END_OF_TURN, END_OF_MESSAGE) if name in special)


def rates(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Answers and tokens drawn, and how many of them a second."""
    rows = list(rows)
    answers, tokens = sum(len(row["answers"]) for row in rows), sum(row["tokens"] for row in rows)
    seconds = max(sum(row["seconds"] for row in rows), 1e-9)
    return {
        "answers": answers,
        "tokens": tokens,
        "answers_per_second": answers / seconds,
        "tokens_per_second": tokens / seconds,
    }


def verdicts(requests: Sequence[Request], answers: Sequence[Sequence[str]]) -> list[list[float | None]]:
    """What each answer is truly worth, 0 to 1; None for requests that carry no check."""
    from herdbook.evaluate.verify import verify_all

    pairs = [
        (place, answer)
        for place, (request, own) in enumerate(zip(requests, answers, strict=True))
        if request.get("check")
        for answer in dict.fromkeys(own)
    ]
    judged = verify_all([requests[place] for place, _ in pairs], [answer for _, answer in pairs])
    worth = dict(zip(pairs, (verdict.score for verdict in judged), strict=True))
    return [[worth.get((place, answer)) for answer in own] for place, own in enumerate(answers)]
