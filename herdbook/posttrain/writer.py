"""Who writes answers: a model on the engine, or a chat model behind an address; any number of dialogs at once.

Makers of data ask one thing of either: so many answers to each dialog. A dialog whose last message is the assistant's
is gone on with. `Kept` remembers what was written in a file that only grows, so that a killed stage goes on where it
was, and what an endpoint was paid for is never asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from herdbook.console import progress
from herdbook.corpus.quality.client import Client, Failed, content, tokens
from herdbook.corpus.quality.endpoint import cache_folder
from herdbook.corpus.quality.settings import EndpointSettings
from herdbook.inference.sampler import Sampling
from herdbook.posttrain.memory import Memory
from herdbook.settings import UserError

if TYPE_CHECKING:
    from herdbook.inference.engine import Engine

Message = dict[str, Any]
Dialog = Sequence[Message]


@dataclass(frozen=True)
class Answer:
    """One answer."""

    text: str
    """Its words, without what ends it."""

    ended: bool
    """Whether the writer ended it, and not the limit of tokens."""


class Writer(Protocol):
    """Gives `count` answers to each dialog; an empty list for one that no answer fits behind, or that got none."""

    batch: int
    """How many dialogs it is best given at a time."""

    def write(self, dialogs: Sequence[Dialog], sampling: Sampling, count: int = 1) -> list[list[Answer]]:
        """Answers in the dialogs' order."""
        ...

    def figures(self) -> dict[str, float]:
        """What it has cost so far."""
        ...


class EngineWriter:
    """A model on the engine. One that knows no chat is asked in plain text: `Question: …`, `Answer:`."""

    batch = 512

    def __init__(self, engine: Engine) -> None:
        self.engine, self.tokens = engine, 0

    @classmethod
    def load(cls, folder: Path) -> EngineWriter:
        """The model of a folder or a model entry."""
        from herdbook.inference.engine import Engine

        return cls(Engine.load(folder))

    def write(self, dialogs: Sequence[Dialog], sampling: Sampling, count: int = 1) -> list[list[Answer]]:
        """See `Writer`."""
        if not self.engine.knows_chat:
            sampling = sampling.model_copy(update={"stop": (*sampling.stop, "\nQuestion:")})
        prompts = [self.prompt(dialog) for dialog in dialogs]
        fits = [place for place, ids in enumerate(prompts) if len(ids) + sampling.max_tokens <= self.engine.limit]
        found = iter(self.engine.generate([prompts[place] for place in fits for _ in range(count)], sampling))
        answers: list[list[Answer]] = [[] for _ in dialogs]
        for place in fits:
            for _ in range(count):
                one = next(found)
                self.tokens += len(one.token_ids)
                text = one.text if dialogs[place][-1]["role"] == "assistant" else one.text.lstrip()
                answers[place].append(Answer(text, one.finish_reason == "stop"))
        return answers

    def prompt(self, dialog: Dialog) -> list[int]:
        """The dialog as ids, up to where the answer begins or goes on."""
        going_on = dialog[-1]["content"] if dialog[-1]["role"] == "assistant" else ""
        before = list(dialog[:-1] if going_on else dialog)
        tokenizer = self.engine.tokenizer
        if self.engine.knows_chat:
            return tokenizer.chat(before) + (tokenizer.encode(going_on) if going_on else [])
        told = {"user": "Question: ", "assistant": "Answer: "}
        lines = [told.get(message["role"], "") + message["content"].strip() for message in before]
        return tokenizer.encode("\n".join([*lines, f"Answer: {going_on}" if going_on else "Answer:"]), bos=True)

    def figures(self) -> dict[str, float]:
        """See `Writer`."""
        return {"tokens": float(self.tokens)}


class EndpointWriter:
    """A chat model behind an OpenAI-compatible address; going on with an answer needs vLLM's extension."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings, self.client = settings, Client(settings)
        self.batch, self.lock = 4 * settings.parallel, Lock()
        self.asked = self.failed = self.retries = self.tokens_in = self.tokens_out = self.in_a_row = 0

    def write(self, dialogs: Sequence[Dialog], sampling: Sampling, count: int = 1) -> list[list[Answer]]:
        """See `Writer`. UserError when the endpoint is down or the budget is spent."""
        if self.settings.budget is not None and self.cost >= self.settings.budget:
            raise UserError(
                f"endpoint: its budget of {self.settings.budget:g} is spent; raise it and run again: "
                "answers already paid for are kept"
            )
        with ThreadPoolExecutor(self.settings.parallel) as pool:
            jobs = [[pool.submit(self._ask, dialog, sampling, number) for number in range(count)] for dialog in dialogs]
            found = [[job.result() for job in some] for some in jobs]
        return [[answer for answer in some if answer is not None] for some in found]

    def _ask(self, dialog: Dialog, sampling: Sampling, number: int) -> Answer | None:
        asked: dict[str, Any] = {"messages": list(dialog), "temperature": sampling.temperature}
        asked |= {"max_tokens": sampling.max_tokens, "top_p": sampling.top_p, "seed": sampling.seed + number}
        if sampling.stop:
            asked["stop"] = list(sampling.stop)
        if dialog[-1]["role"] == "assistant":
            asked |= {"continue_final_message": True, "add_generation_prompt": False}
        self._count(asked=1)
        try:
            body = self.client.post(asked, self._retrying)
        except Failed as failed:
            self._count(failed=1, in_a_row=int(failed.endpoint))
            if failed.fatal or self.in_a_row >= self.settings.give_up:
                self.client.stop.set()
                raise UserError(
                    f"the endpoint {self.client.url} fails: {failed}; see whether it runs and whether base_url, model "
                    "and api_key_env are right, then run the same command again: what it answered is kept"
                ) from None
            return None
        self.in_a_row = 0
        self._count(tokens_in=tokens(body, "prompt_tokens"), tokens_out=tokens(body, "completion_tokens"))
        return Answer(content(body), _finish(body) != "length")

    def _retrying(self) -> None:
        self._count(retries=1)

    def _count(self, **amounts: int) -> None:
        """Add to what was counted; dialogs are asked in many threads."""
        with self.lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    @property
    def cost(self) -> float:
        """What was spent, in the settings' currency."""
        return (self.tokens_in * self.settings.price_in + self.tokens_out * self.settings.price_out) / 1e6

    def figures(self) -> dict[str, float]:
        """See `Writer`."""
        named = {name: float(getattr(self, name)) for name in ("asked", "failed", "retries", "tokens_in", "tokens_out")}
        return {**named, "cost": self.cost}


def _finish(body: dict[str, Any]) -> str:
    try:
        return str(body["choices"][0]["finish_reason"])
    except (KeyError, IndexError, TypeError):
        return "stop"


class Kept:
    """A writer that remembers: answers are in a file before they count, under the hash of what was asked."""

    def __init__(self, writer: Writer, path: Path) -> None:
        self.writer, self.batch = writer, writer.batch
        self.memory = Memory(path)

    def write(self, dialogs: Sequence[Dialog], sampling: Sampling, count: int = 1) -> list[list[Answer]]:
        """See `Writer`; equal dialogs have equal answers, and are asked once."""
        keys = [asked_key(dialog, sampling, count) for dialog in dialogs]
        new = {key: dialog for key, dialog in zip(keys, dialogs, strict=True) if key not in self.memory.known}
        names, none = list(new), set()
        with progress("answers", len(names), "dialogs") as bar:
            for start in range(0, len(names), self.batch):
                some = names[start : start + self.batch]
                found = dict(zip(some, self.writer.write([new[key] for key in some], sampling, count), strict=True))
                # What got no answer is asked again by the next run.
                self.memory.add({key: [asdict(one) for one in answers] for key, answers in found.items() if answers})
                none |= {key for key, answers in found.items() if not answers}
                bar.advance(len(some))
        return [[] if key in none else [Answer(**one) for one in self.memory.known[key]] for key in keys]

    def figures(self) -> dict[str, float]:
        """See `Writer`."""
        return self.writer.figures()


def asked_key(dialog: Dialog, sampling: Sampling, count: int) -> str:
    """The name of a question: what is asked, how it is drawn, and how often."""
    how = sampling.model_dump(mode="json", exclude={"constraint"}, exclude_defaults=True)
    asked = json.dumps([list(dialog), how, count], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(asked.encode("utf-8", "replace")).hexdigest()


def make_writer(model: Path | None, endpoint: EndpointSettings | None, out: Path, name: str = "answers") -> Kept | None:
    """The endpoint where one is given, else the model of an entry; None where there is neither.

    What an endpoint answers is kept beside labels, for all runs; what a model answers in `out`, as long as that lasts.
    """
    if endpoint is not None:
        file = hashlib.sha256(f"{endpoint.base_url}\0{endpoint.model}".encode()).hexdigest()[:16]
        return Kept(EndpointWriter(endpoint), cache_folder(endpoint) / f"answers-{file}.jsonl")
    return None if model is None else Kept(EngineWriter.load(model), out / "kept" / f"{name}.jsonl")
