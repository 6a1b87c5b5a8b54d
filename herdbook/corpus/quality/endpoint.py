"""Asking a chat model behind an OpenAI-compatible address about many documents, without ever paying twice.

Every answer is appended to a cache file before it counts, under the hash of what was asked; a run that was killed, or
gave up on an endpoint that is down, goes on from there. Requests that fail are sent again after growing pauses.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from herdbook.console import log, progress
from herdbook.corpus.quality.client import Client, Failed, content, tokens
from herdbook.corpus.quality.rubrics import Rubric, excerpt
from herdbook.corpus.quality.settings import EndpointSettings
from herdbook.settings import UserError


@dataclass
class Bill:
    """What labelling took."""

    asked: int = 0
    cached: int = 0
    labelled: int = 0
    nonsense: int = 0
    failed: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0

    def metrics(self) -> dict[str, float]:
        """As the stage reports it."""
        return dict(vars(self))


@dataclass
class Reply:
    """What came of one document: a label or none, the last answer, the tokens of all answers."""

    label: float | str | None = None
    answer: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    retries: int = 0
    failed: Failed | None = None

    def again(self) -> None:
        """Count one more try."""
        self.retries += 1


def cache_folder(settings: EndpointSettings) -> Path:
    """Where answers are kept."""
    if settings.cache:
        return Path(settings.cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "herdbook" / "labels"


class Cache:
    """Answers by the hash of what was asked, in a file that only grows."""

    def __init__(self, settings: EndpointSettings, rubric: Rubric) -> None:
        asked = json.dumps([settings.model, rubric.template, rubric.topics, settings.max_tokens])
        name = (
            f"{re.sub('[^A-Za-z0-9.]+', '-', settings.model)}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.jsonl"
        )
        self.path = cache_folder(settings) / name
        self.known: dict[str, float | str] = {}
        self.file: IO[bytes] | None = None
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else ():
            try:
                row = json.loads(line)
                self.known[row["key"]] = row["label"]
            except (ValueError, KeyError, TypeError):
                continue  # a line that a killed run did not finish

    @staticmethod
    def key(shown: str) -> str:
        """The name of a question."""
        return hashlib.sha256(shown.encode("utf-8", "replace")).hexdigest()

    def add(self, key: str, reply: Reply) -> None:
        """Keep an answer."""
        assert reply.label is not None
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed in `close`)
            self.file.write(b"\n")  # ends what a killed run left unfinished
        row = {"key": key, "label": reply.label, "tokens": [reply.tokens_in, reply.tokens_out], "answer": reply.answer}
        self.file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self.known[key] = reply.label

    def close(self) -> None:
        """Bring all answers onto the disk."""
        if self.file is not None:
            os.fsync(self.file.fileno())
            self.file.close()
            self.file = None


@dataclass
class Asker:
    """Asks about documents, several at a time."""

    settings: EndpointSettings
    rubric: Rubric

    def __post_init__(self) -> None:
        self.client = Client(self.settings)

    def ask(self, texts: dict[str, str]) -> tuple[dict[str, float | str], Bill]:
        """Labels of documents by id, and the bill. UserError when the endpoint fails; what was answered is kept."""
        cache, bill, labels = Cache(self.settings, self.rubric), Bill(), {}
        questions: dict[str, tuple[str, list[str]]] = {}
        for id, text in texts.items():
            shown = excerpt(text, self.settings.excerpt)
            key = cache.key(shown)
            if key in cache.known:
                labels[id] = cache.known[key]
            else:
                questions.setdefault(key, (shown, []))[1].append(id)
        bill.cached = len(labels)
        try:
            with progress("labels", len(questions), "documents") as bar:
                for key, reply in self._replies(questions, cache, bill):
                    if reply.label is not None:
                        cache.add(key, reply)
                        labels |= dict.fromkeys(questions[key][1], reply.label)
                    bar.note(tokens=bill.tokens_in + bill.tokens_out, cost=round(bill.cost, 4), failed=bill.failed)
                    bar.advance()
        finally:
            cache.close()
            self.client.close()
        bill.labelled = len(labels)
        log("labelled", model=self.settings.model, **bill.metrics())
        return labels, bill

    def _replies(
        self, questions: dict[str, tuple[str, list[str]]], cache: Cache, bill: Bill
    ) -> Iterator[tuple[str, Reply]]:
        """Replies as they come; adds them to the bill, and ends when money or patience do."""
        left, in_a_row = iter(questions), 0
        with ThreadPoolExecutor(self.settings.parallel) as pool:
            waiting: dict[Future[Reply], str] = {}

            def fill() -> None:
                while len(waiting) < self.settings.parallel * 2 and not self._spent(bill):
                    key = next(left, None)
                    if key is None:
                        return
                    waiting[pool.submit(self.reply, questions[key][0])] = key

            try:
                fill()
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        key, reply = waiting.pop(future), future.result()
                        self._charge(bill, reply)
                        failed = reply.failed
                        in_a_row = in_a_row + 1 if failed and failed.endpoint else 0
                        if failed and (failed.fatal or in_a_row >= self.settings.give_up):
                            self._save_finished(waiting, cache)
                            raise self._down(failed, cache)
                        yield key, reply
                    fill()
            finally:
                self.client.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _save_finished(self, waiting: dict[Future[Reply], str], cache: Cache) -> None:
        for future, key in waiting.items():
            if future.done() and not future.cancelled() and future.result().label is not None:
                cache.add(key, future.result())

    def _spent(self, bill: Bill) -> bool:
        return self.settings.budget is not None and bill.cost >= self.settings.budget

    def _charge(self, bill: Bill, reply: Reply) -> None:
        bill.asked += 1
        bill.tokens_in += reply.tokens_in
        bill.tokens_out += reply.tokens_out
        bill.retries += reply.retries
        bill.failed += reply.failed is not None
        bill.nonsense += reply.failed is None and reply.label is None
        bill.cost = (bill.tokens_in * self.settings.price_in + bill.tokens_out * self.settings.price_out) / 1e6

    def _down(self, failed: Failed, cache: Cache) -> UserError:
        what = "check base_url, model and api_key_env" if failed.fatal else "see whether it runs"
        return UserError(
            f"the labelling endpoint {self.client.url} fails: {failed}; {what}, then run the same command again: "
            f"{len(cache.known):,} answers are kept in {cache.path}"
        )

    def reply(self, shown: str) -> Reply:
        """Ask about one document until there is a grade, or patience ends."""
        result = Reply()
        messages = [{"role": "user", "content": self.rubric.prompt(shown)}]
        for _ in range(self.settings.nonsense_tries):
            try:
                asked = {"messages": messages, "temperature": 0, "max_tokens": self.settings.max_tokens}
                body = self.client.post(asked, result.again)
            except Failed as failed:
                result.failed = failed
                return result
            result.tokens_in += tokens(body, "prompt_tokens")
            result.tokens_out += tokens(body, "completion_tokens")
            result.answer = content(body)
            result.label = self.rubric.read(result.answer)
            if result.label is not None:
                return result
            wanted = "Topic: NAME" if self.rubric.topics else "Grade: N"
            reminder = f"Answer again, with nothing but the line {wanted}"
            messages = [messages[0], {"role": "assistant", "content": result.answer[:2000]}]
            messages.append({"role": "user", "content": reminder})
        return result
