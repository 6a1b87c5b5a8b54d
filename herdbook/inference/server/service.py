"""The thread that owns the engines: requests go to it by a queue, what they draw comes back to the event loop.

Engines know nothing of threads, so exactly one thread calls them; it takes orders between steps, steps every
engine that has work, and hands all news of a round to the loop in one call. The loop's side counts what is under way,
refuses what is too much, and cancels what nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from herdbook import console
from herdbook.inference.base import BaseEngine
from herdbook.inference.request import Request, TokenLogprob
from herdbook.inference.sampler import Sampling
from herdbook.inference.scheduler import Load
from herdbook.inference.server.errors import ApiError, busy, draining, failed, wrong
from herdbook.inference.server.metrics import Metrics
from herdbook.settings import UserError

RECENT = 64  # ended answers that the waiting time is reckoned from


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted."""

    prompt: list[int]
    sampling: Sampling
    number: int = 0  # which of several answers to this prompt


@dataclass(frozen=True, slots=True)
class Update:
    """What one step brought to one answer."""

    index: int  # which of the ticket's answers
    piece: str  # text that became certain
    ids: list[int]  # tokens drawn
    logprobs: list[TokenLogprob]  # of these tokens, when asked for
    finish: str | None
    cached: int  # tokens of the prompt found in the prefix cache
    prompt_logprobs: list[TokenLogprob | None] | None


@dataclass
class _Running:
    """An answer under way, on the thread's side."""

    ticket: Ticket
    index: int
    request: Request
    seen: int = 0  # tokens already handed over

    def update(self) -> Update:
        """What is new since the last time."""
        request, first = self.request, self.seen
        self.seen = len(request.ids)
        logprobs = (request.logprobs or [])[first : self.seen]
        before = request.prompt_logprobs if first == 0 else None
        ids = request.ids[first : self.seen]
        return Update(self.index, request.piece, ids, logprobs, request.finish, request.cached, before)


class Ticket:
    """The answers that one HTTP request waits for; an asynchronous iterator over what they bring."""

    def __init__(self, service: Service, model: str, asks: Sequence[Ask]) -> None:
        self.service, self.model, self.asks = service, model, asks
        self.news: asyncio.Queue[Update | ApiError] = asyncio.Queue()
        self.left = set(range(len(asks)))  # answers that have not ended
        self.opened = time.perf_counter()
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[Update]:
        """Updates in the order they come, until every answer has ended; raises ApiError when one cannot."""
        waiting = set(range(len(self.asks)))  # not `left`: some may have ended before anybody looked
        while waiting:
            update = await self.news.get()
            if isinstance(update, ApiError):
                raise update
            if update.finish is not None:
                waiting.discard(update.index)
            yield update

    def close(self) -> None:
        """Cancel what has not ended; nobody waits for it any more."""
        self.service.close(self)


class Service:
    """Engines behind a thread; every method but `_…` of the thread is called from the event loop."""

    def __init__(self, engines: Mapping[str, BaseEngine], most_answers: int, metrics: Metrics) -> None:
        self.engines, self.most_answers, self.metrics = dict(engines), most_answers, metrics
        self.loads: dict[str, Load] = {name: engine.workload for name, engine in self.engines.items()}
        self.flying = dict.fromkeys(self.engines, 0)
        self.tickets: set[Ticket] = set()
        self.ended: dict[str, deque[float]] = {name: deque(maxlen=RECENT) for name in self.engines}
        self.draining = False
        self.broken: set[str] = set()  # models whose engine could not be cleared after a failure, or lost its ranks
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._running: dict[str, dict[int, _Running]] = {name: {} for name in self.engines}
        self._thread = threading.Thread(target=self._run, name="engines", daemon=True)
        metrics.watch(self.loads)

    def start(self) -> None:
        """Begin; called in the event loop that will ask."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def cut(self) -> None:
        """End what is under way with an error."""
        for ticket in list(self.tickets):
            ticket.news.put_nowait(draining())
            ticket.close()

    def stop(self) -> None:
        """End the thread after the step it is in, and what is under way."""
        self.cut()
        self._orders.put(None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self.tickets

    def open(self, model: str, asks: Sequence[Ask]) -> Ticket:
        """Ask for answers; raises ApiError when it is too much at once or the server is about to end."""
        if self.draining:
            raise draining()
        if model in self.broken:
            raise ApiError(503, f"the engine of {model} has failed; the server's log says why", code="broken")
        if len(asks) > self.most_answers:
            raise wrong(
                f"{len(asks)} answers are asked for at once; this server takes at most {self.most_answers}", "n"
            )
        if self.flying[model] + len(asks) > self.most_answers:
            self.metrics.refused.labels(model).inc()
            raise busy(f"{self.flying[model]} answers are under way; try again later", self.seconds_to_wait(model))
        ticket = Ticket(self, model, asks)
        self.tickets.add(ticket)
        self.flying[model] += len(asks)
        self._orders.put(lambda: self._submit(ticket))
        return ticket

    def close(self, ticket: Ticket) -> None:
        """Forget a ticket, and cancel those of its answers that have not ended."""
        if ticket not in self.tickets:
            return
        self.tickets.discard(ticket)
        if ticket.left:
            self.flying[ticket.model] -= len(ticket.left)
            self.metrics.answers.labels(ticket.model, "cancelled").inc(len(ticket.left))
            ticket.left = set()
            self._orders.put(lambda: self._cancel(ticket))

    def seconds_to_wait(self, model: str) -> float:
        """About how long until there is room again, by how fast answers ended of late; 1 to 60 s."""
        ended = self.ended[model]
        if len(ended) < 2:
            return 1.0
        each = (time.monotonic() - ended[0]) / len(ended)
        return min(60.0, max(1.0, each * self.most_answers / 4))

    def _deliver(self, news: Sequence[tuple[Ticket, Update | ApiError]]) -> None:
        """In the loop: hand out what a round of steps brought."""
        for ticket, update in news:
            if ticket not in self.tickets:
                continue
            if isinstance(update, Update):
                self._count(ticket, update)
            ticket.news.put_nowait(update)

    def _count(self, ticket: Ticket, update: Update) -> None:
        model, metrics = ticket.model, self.metrics
        if not ticket.begun:
            ticket.begun = True
            metrics.first_token.labels(model).observe(time.perf_counter() - ticket.opened)
        metrics.drawn_tokens.labels(model).inc(len(update.ids))
        if update.finish is None:
            return
        metrics.answers.labels(model, update.finish).inc()
        metrics.prompt_tokens.labels(model).inc(len(ticket.asks[update.index].prompt))
        metrics.cached_tokens.labels(model).inc(update.cached)
        ticket.left.discard(update.index)
        self.flying[model] -= 1
        self.ended[model].append(time.monotonic())

    # The thread's side.

    def _run(self) -> None:
        while True:
            working = [name for name, running in self._running.items() if running]
            try:
                order = self._orders.get(block=not working)
                if order is None:
                    return
                self._obey(order)
                continue  # all orders before the next step
            except queue.Empty:
                pass
            news: list[tuple[Ticket, Update | ApiError]] = []
            for name in working:
                news += self._step(name)
            self._tell(news)

    def _obey(self, order: Callable[[], None]) -> None:
        try:
            order()
        except Exception:  # the thread must go on for the others
            traceback.print_exc()

    def _step(self, name: str) -> list[tuple[Ticket, Update | ApiError]]:
        engine, running = self.engines[name], self._running[name]
        news: list[tuple[Ticket, Update | ApiError]] = []
        try:
            touched = engine.step()
        except BaseException:  # a panic in a library written in Rust is no Exception
            return self._failure(name)
        for request in touched:
            place = running.get(id(request))
            if place is None or (place.seen == len(request.ids) and request.finish is None):
                continue  # only a piece of its prompt was read
            news.append((place.ticket, place.update()))
            if request.finish is not None:
                del running[id(request)]
        self.loads[name] = engine.workload
        return news

    def _failure(self, name: str) -> list[tuple[Ticket, Update | ApiError]]:
        """Clear an engine whose step raised: what it was writing is lost, what comes next is not."""
        console.log("engine_failed", model=name)
        traceback.print_exc()
        self.metrics.failures.labels(name).inc()
        running = self._running[name]
        lost = {place.ticket: None for place in running.values()}
        try:
            for place in running.values():
                self.engines[name].cancel(place.request)
        except Exception:
            traceback.print_exc()
            self.broken.add(name)
        if self.engines[name].lost:
            self.broken.add(name)
        running.clear()
        return [(ticket, failed()) for ticket in lost]

    def _submit(self, ticket: Ticket) -> None:
        engine, running = self.engines[ticket.model], self._running[ticket.model]
        for index, ask in enumerate(ticket.asks):
            try:
                request = engine.submit(ask.prompt, ask.sampling, number=ask.number)
            except Exception as error:
                self._cancel(ticket)
                if not isinstance(error, UserError):
                    traceback.print_exc()
                self._tell([(ticket, wrong(str(error)) if isinstance(error, UserError) else failed())])
                return
            running[id(request)] = _Running(ticket, index, request)

    def _cancel(self, ticket: Ticket) -> None:
        engine, running = self.engines[ticket.model], self._running[ticket.model]
        for key, place in list(running.items()):
            if place.ticket is ticket:
                del running[key]
                engine.cancel(place.request)
        self.loads[ticket.model] = engine.workload

    def _tell(self, news: Sequence[tuple[Ticket, Update | ApiError]]) -> None:
        if news:
            try:
                self._loop.call_soon_threadsafe(self._deliver, news)
            except RuntimeError:  # the loop has ended before us
                pass
