"""The routes: OpenAI's, vLLM's for tokens, health and figures, and the chat page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from herdbook.inference.server import metrics as figures
from herdbook.inference.server.answers import answer
from herdbook.inference.server.asks import chat_asks, chat_prompt, check_tokens, completion_asks
from herdbook.inference.server.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from herdbook.inference.server.chats import ChatReply
from herdbook.inference.server.completions import CompletionReply
from herdbook.inference.server.errors import ApiError, failed, invalid
from herdbook.inference.server.gate import Gate
from herdbook.inference.server.herd import Herd
from herdbook.inference.server.service import Service
from herdbook.inference.server.settings import ServeSettings

ROUTES = tuple(path for path in figures.PATHS if path != "/")
PAGE = Path(__file__).parent.parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class StrictRequest(Request):
    """A request whose body is read by a parser that refuses halves of characters and endless nesting."""

    async def json(self) -> Any:
        """The body."""
        if not hasattr(self, "_json"):
            try:
                self._json = pydantic_core.from_json(await self.body(), allow_inf_nan=False)
            except ValueError as error:
                raise HTTPException(400, f"the body is not JSON: {error}") from None
        return self._json


class StrictRoute(APIRoute):
    """A route that reads its body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given a `StrictRequest`."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


class Page(StaticFiles):
    """The chat page's files, which may ask nobody but this server."""

    def __init__(self, routes: frozenset[str]) -> None:
        """`routes`: addresses that are not the page's, whatever the method."""
        super().__init__(directory=PAGE, html=True)
        self.routes = routes

    async def get_response(self, path: str, scope: Any) -> Response:
        """A file."""
        if scope["path"] in self.routes:  # asked with a method that the route does not have
            raise HTTPException(405)
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response


def make_app(herd: Herd, settings: ServeSettings) -> Any:
    """The whole server as an ASGI application; `app.state.service` of the FastAPI inside steps the engines."""
    numbers = figures.Metrics()
    engines = {served.id: served.engine for served in herd.models}
    service = Service(engines, settings.most_answers, numbers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(title="herdbook", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.route_class = StrictRoute
    app.state.service = service
    add_answers(app, herd, service, settings)
    add_tokens(app, herd)
    add_state(app, service, numbers)
    add_errors(app)
    if PAGE.is_dir():
        app.mount("/", Page(frozenset(ROUTES)))
    return Gate(app, settings, numbers)


def add_answers(app: FastAPI, herd: Herd, service: Service, settings: ServeSettings) -> None:
    """The routes that draw."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.card() for served in herd.models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return herd.pick(name).card()

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionBody, request: Request) -> Response:
        served = herd.pick(body.model)
        asks = await run_in_threadpool(completion_asks, body, served, settings)
        ticket = service.open(served.id, asks)
        return await answer(request, CompletionReply(body, ticket, served.id, served.engine.tokenizer))

    @app.post("/v1/chat/completions", response_model=None)
    async def chats(body: ChatBody, request: Request) -> Response:
        served = herd.pick(body.model)
        asks = await run_in_threadpool(chat_asks, body, served, settings)
        ticket = service.open(served.id, asks)
        return await answer(request, ChatReply(body, ticket, served.id, served.engine.tokenizer))


def add_tokens(app: FastAPI, herd: Herd) -> None:
    """The routes between texts and tokens."""

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        served = herd.pick(body.model)
        if body.messages is not None:
            tokens = await run_in_threadpool(chat_prompt, served, body.messages, body.tools)
        else:
            bos = body.add_special_tokens is not False
            tokens = await run_in_threadpool(served.engine.tokenizer.encode, body.prompt or "", bos)
        return {"count": len(tokens), "max_model_len": served.engine.limit, "tokens": tokens}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        served = herd.pick(body.model)
        check_tokens(body.tokens, served)
        return {"prompt": served.engine.tokenizer.decode(body.tokens)}


def add_state(app: FastAPI, service: Service, numbers: figures.Metrics) -> None:
    """The routes that tell how the server is."""

    @app.get("/health", response_model=None)
    async def health() -> Response:
        status = "draining" if service.draining else "broken" if service.broken else "ok"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(numbers.text(), media_type=figures.CONTENT_TYPE)


def add_errors(app: FastAPI) -> None:
    """Everything that goes wrong is told in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid_body(_: Request, error: RequestValidationError) -> Response:
        return invalid(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        told = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
        message = told.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def unknown(_: Request, error: Exception) -> Response:
        return failed().response()
