"""The thread behind the server: news is lost to nobody, however late he looks, and failures stay where they happen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from herdbook.inference.engine import Sampling
from herdbook.inference.server.errors import ApiError
from herdbook.inference.server.metrics import Metrics
from herdbook.inference.server.service import Ask, Service
from tests.support.servers import TOKENIZER, chat_engine

PROMPT = [TOKENIZER.bos_id, 65]


def with_service(body: Callable[[Service], Awaitable[None]], rows: int = 4) -> None:
    """Run something in an event loop with a service over one model `m`."""

    async def run() -> None:
        service = Service({"m": chat_engine(1, taught=False, rows=rows)}, 8, Metrics())
        service.start()
        try:
            await asyncio.wait_for(body(service), 60)
        finally:
            service.stop()

    asyncio.run(run())


def test_who_looks_late_still_gets_everything() -> None:
    async def body(service: Service) -> None:
        ticket = service.open("m", [Ask(PROMPT, Sampling(max_tokens=5), number) for number in range(2)])
        while ticket.left:
            await asyncio.sleep(0.005)
        updates = [update async for update in ticket]
        assert sum(len(update.ids) for update in updates) == 10
        assert [update.index for update in updates if update.finish] == [0, 1]

    with_service(body)


def test_a_prompt_the_engine_refuses_fails_its_own_ticket_only() -> None:
    async def body(service: Service) -> None:
        good = service.open("m", [Ask(PROMPT, Sampling(max_tokens=30, ignore_end=True))])
        bad = service.open("m", [Ask(PROMPT, Sampling()), Ask([], Sampling())])
        with pytest.raises(ApiError, match="the prompt is empty"):
            async for _ in bad:
                pass
        bad.close()
        assert sum([len(update.ids) async for update in good]) == 30
        good.close()
        assert service.idle and service.flying == {"m": 0}

    with_service(body)


def test_stopping_tells_those_who_wait() -> None:
    async def body(service: Service) -> None:
        ticket = service.open("m", [Ask(PROMPT, Sampling(max_tokens=400, ignore_end=True))])
        await anext(aiter(ticket))
        service.stop()
        with pytest.raises(ApiError, match="shutting down"):
            async for _ in ticket:
                pass
        assert service.engines["m"].workload.running == 0

    with_service(body)


def test_one_row_serves_all_in_turn() -> None:
    async def body(service: Service) -> None:
        tickets = [service.open("m", [Ask([*PROMPT, place], Sampling(max_tokens=6))]) for place in range(8)]
        drawn = [[token async for update in ticket for token in update.ids] for ticket in tickets]
        engine = chat_engine(1, taught=False)
        want = engine.generate([[*PROMPT, place] for place in range(8)], Sampling(max_tokens=6))
        assert drawn == [one.token_ids for one in want]

    with_service(body, rows=1)
