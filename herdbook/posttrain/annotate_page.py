"""A local page on which people say which of two answers is better, and write a better one where neither is good.

Every judgement is appended to a file before the page shows the next pair, so closing the browser or killing the run
loses nothing. The page answers to this machine only, and which answer stands left is drawn for each pair.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from herdbook import console
from herdbook.posttrain.annotators import STRENGTHS, Judgement, Pair
from herdbook.posttrain.asking import chance
from herdbook.posttrain.round_settings import CollectSettings
from herdbook.settings import UserError

PAGE = Path(__file__).parent / "page"
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'"
HOSTS = ["127.0.0.1", "localhost"]


class Verdict(BaseModel):
    """What the page sends of one pair."""

    model_config = ConfigDict(extra="forbid", strict=True)

    number: int = Field(ge=0)
    """Which pair."""

    better: Literal["left", "right", "skip"]
    """The better answer; skip leaves the pair out."""

    strength: Literal["significantly better", "better", "slightly better", "marginally better"] = "better"
    """How much better."""

    edited: str | None = Field(None, max_length=100_000)
    """An answer better than both."""


class Desk:
    """The pairs and what was judged so far, of which the file holds every step; the last word on a pair counts."""

    def __init__(self, pairs: Sequence[Pair], file: Path, seed: int) -> None:
        self.pairs, self.file, self.seed = pairs, file, seed
        self.judged: dict[int, Judgement | None] = {}
        self.order: list[int] = []
        self.lock, self.ended = threading.Lock(), threading.Event()
        numbers = {pair.id: number for number, pair in enumerate(pairs)}
        for row in self._rows():
            if row.get("id") in numbers:
                self._take(numbers[row["id"]], row)

    def _rows(self) -> list[dict[str, Any]]:
        """What the file holds; a line that a killed run wrote half is cut off."""
        data = self.file.read_bytes() if self.file.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.file, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def _take(self, number: int, row: dict[str, Any]) -> None:
        if row["chosen"] == "undone":
            self.judged.pop(number, None)
            self.order.remove(number)
            return
        found = None if row["chosen"] is None else Judgement(row["chosen"], row["strength"], row["edited"])
        self.judged[number] = found
        self.order = [other for other in self.order if other != number] + [number]

    def _write(self, number: int, row: dict[str, Any]) -> None:
        row = {"id": self.pairs[number].id, **row}
        with open(self.file, "a", encoding="utf-8", errors="replace") as kept:
            kept.write(json.dumps(row, ensure_ascii=False) + "\n")
            kept.flush()
            os.fsync(kept.fileno())
        self._take(number, row)

    def turned(self, number: int) -> bool:
        """Whether the pair's second answer stands left."""
        return chance("sides", self.seed, self.pairs[number].id) < 0.5

    def state(self) -> dict[str, Any]:
        """The next pair to judge, without the models' names; and how far one is."""
        left = next((number for number in range(len(self.pairs)) if number not in self.judged), None)
        found: dict[str, Any] = {"done": len(self.judged), "total": len(self.pairs), "pair": None}
        if left is not None:
            pair = self.pairs[left]
            first, second = reversed(pair.answers) if self.turned(left) else pair.answers
            shown = [{"role": item.get("role"), "content": item.get("content")} for item in pair.request["messages"]]
            found["pair"] = {"number": left, "messages": shown, "left": first, "right": second}
        return found

    def judge(self, verdict: Verdict) -> dict[str, Any]:
        """Keep a judgement; the state after it. ValueError when there is no such pair."""
        with self.lock:
            if verdict.number >= len(self.pairs):
                raise ValueError(f"there is no pair {verdict.number}; there are {len(self.pairs)}")
            chosen: int | None = None
            if verdict.better != "skip":
                chosen = int((verdict.better == "right") != self.turned(verdict.number))
            edited = (verdict.edited or "").strip() or None
            if edited in self.pairs[verdict.number].answers:
                edited = None
            self._write(verdict.number, {"chosen": chosen, "strength": verdict.strength, "edited": edited})
            if len(self.judged) == len(self.pairs):
                self.ended.set()
            return self.state()

    def undo(self) -> dict[str, Any]:
        """Take the last judgement back; the state after it."""
        with self.lock:
            if self.order:
                self._write(self.order[-1], {"chosen": "undone"})
            return self.state()

    def finish(self) -> dict[str, Any]:
        """Leave the rest of the pairs unjudged; the state."""
        with self.lock:
            if any(found is not None for found in self.judged.values()):
                self.ended.set()
            return self.state()

    def results(self) -> list[Judgement | None]:
        """The judgement of each pair; None where it was left out."""
        return [self.judged.get(number) for number in range(len(self.pairs))]


def make_app(desk: Desk) -> Any:
    """The page and what it asks for."""
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import JSONResponse, Response
    from fastapi.staticfiles import StaticFiles
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)

    @app.middleware("http")
    async def guarded(request: Request, call: Any) -> Response:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":  # keeps foreign pages' simple requests out
            return JSONResponse({"detail": "the body must be JSON"}, 415)
        response: Response = await call(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/state")
    def state() -> dict[str, Any]:
        return {**desk.state(), "strengths": STRENGTHS}

    @app.post("/judge")
    def judge(verdict: Verdict) -> dict[str, Any]:
        try:
            return desk.judge(verdict)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None

    @app.post("/undo")
    def undo() -> dict[str, Any]:
        return desk.undo()

    @app.post("/finish")
    def finish() -> dict[str, Any]:
        return desk.finish()

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


class Open:
    """The page, served from a thread while the block runs."""

    def __init__(self, desk: Desk, port: int) -> None:
        import uvicorn

        try:
            self.socket = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"cannot listen on port {port}: {error.strerror or error}; set page.port") from None
        self.port = int(self.socket.getsockname()[1])
        config = uvicorn.Config(make_app(desk), log_config=None, access_log=False, server_header=False, ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self) -> Open:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()


def ask_people(pairs: Sequence[Pair], file: Path, settings: CollectSettings) -> list[Judgement | None]:
    """Serve the page until every pair is judged or someone ends it; what `file` holds is not asked again."""
    desk = Desk(pairs, file, settings.seed)
    if len(desk.judged) < len(pairs):
        with Open(desk, settings.page.port) as page:
            console.log("annotate", page=f"http://127.0.0.1:{page.port}/", pairs=len(pairs), judged=len(desk.judged))
            while not desk.ended.wait(0.5):
                pass
    return desk.results()
