"""`herdbook serve`: loads the models, listens, and ends well.

SIGTERM or Ctrl-C lets answers under way be finished, within `drain_seconds`, while new requests get 503 and `/health`
tells load balancers to look elsewhere; a second signal ends at once.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import uvicorn

from herdbook import console
from herdbook.inference.engine import Engine
from herdbook.inference.ranks import follows
from herdbook.inference.server.app import PAGE, make_app
from herdbook.inference.server.herd import Herd, Served
from herdbook.inference.server.service import Service
from herdbook.inference.server.settings import LOOPBACK, ServeSettings
from herdbook.inference.speculative import Draft, SpeculativeEngine
from herdbook.inference.vllm_engine import VLLMEngine
from herdbook.settings import UserError

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Source:
    """A model to serve: where it lies and what it is called."""

    name: str
    folder: Path
    lineage: str = ""
    aliases: tuple[str, ...] = ()


class Server(uvicorn.Server):
    """uvicorn, but a first signal drains instead of closing the doors."""

    def __init__(self, app: Any, settings: ServeSettings, service: Service) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            lifespan="on",
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self.service, self.drain_seconds = service, settings.drain_seconds
        self.deadline = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: drain; a second one: end at once."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
        self.drain()

    def drain(self) -> None:
        """Take nothing new; end when nothing is under way, or when the time is over."""
        self.service.draining = True
        self.deadline = min(self.deadline, time.monotonic() + self.drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        over = self.service.draining and (self.service.idle or time.monotonic() > self.deadline)
        if over and not self.service.idle:
            self.service.cut()
        return over or await super().on_tick(counter)


def serve(sources: Sequence[Source], settings: ServeSettings) -> None:
    """Serve these models until a signal; UserError when the address cannot be listened on."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.layout.ranks > 1 and len(sources) > 1 and settings.backend == "own":
        names = ", ".join(source.name for source in sources)
        raise UserError(
            f"a model on several ranks is served alone, and {names} were named; serve each by its own command"
        )
    if settings.backend == "own" and follows(settings.layout):
        load(sources[0], settings)  # to the first rank's end; it alone listens
    with listen(settings) as listening:
        draft = load_draft(settings)
        herd = Herd([load(source, settings, draft) for source in sources])
        gate = make_app(herd, settings)
        service = gate.app.state.service
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        page = f", the chat page at {address}/" if (PAGE / "index.html").is_file() else ""
        console.out.print(f"serving {', '.join(s.id for s in herd.models)} at {address}/v1{page}", markup=False)
        if settings.host not in LOOPBACK and settings.api_key is None:
            console.log("open_server", warning="everybody who reaches this address may ask; set an API key")
        try:
            Server(gate, settings, service).run(sockets=[listening])
        finally:
            service.stop()
            for served in herd.models:
                served.engine.close()


def listen(settings: ServeSettings) -> socket.socket:
    """A socket at the address, before any model is loaded: so a mistake in it is told at once."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, address = found[0][0], found[0][4]
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise UserError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}") from None


def load_draft(settings: ServeSettings) -> Draft | None:
    """The model that guesses, if there is to be one. All models may share it: their steps take turns."""
    if settings.draft is None:
        return None
    return Draft(Engine.load(settings.draft, device=settings.device, dtype=DTYPES[settings.dtype], rows=settings.rows))


def load(source: Source, settings: ServeSettings, draft: Draft | None = None) -> Served:
    """Load one model; UserError when the draft model has another tokenizer."""
    kind: Any = Engine if settings.guess == "no" and draft is None else SpeculativeEngine
    if settings.backend == "vllm":
        kind = VLLMEngine
    engine = kind.load(
        source.folder, device=settings.device, dtype=DTYPES[settings.dtype], rows=settings.rows, layout=settings.layout
    )
    if draft is not None and isinstance(engine, SpeculativeEngine):
        engine.guess_by(draft)
    created = int(source.folder.stat().st_mtime)
    return Served(source.name, engine, source.lineage, source.aliases, created)
