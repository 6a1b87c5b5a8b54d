"""The models being served, and how a request's `model` finds one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from herdbook.inference.base import BaseEngine
from herdbook.inference.constrain import Guide
from herdbook.inference.server.errors import ApiError
from herdbook.inference.vllm_engine import Forms, VLLMEngine
from herdbook.settings import UserError


@dataclass
class Served:
    """A model that requests can ask for."""

    id: str
    engine: BaseEngine
    lineage: str = ""  # its pedigree in a line, when it is in a book
    aliases: tuple[str, ...] = ()  # other names it answers to
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def guide(self) -> Guide | Forms:
        """What keeps its answers to a form."""
        if isinstance(self.engine, VLLMEngine):
            return Forms()
        tokenizer, stops = self.engine.tokenizer, self.engine.stop_ids
        ends = [tokenizer.eot_id, tokenizer.eos_id, *stops]  # the first of these that the model knows as an end
        end = next((token for token in ends if token in stops), tokenizer.eos_id)
        return Guide(tokenizer, self.engine.config.vocab_size, end)

    def card(self) -> dict[str, Any]:
        """What `/v1/models` tells of it."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "herdbook",
            "kind": "chat" if self.engine.knows_chat else "base",
            "context": self.engine.limit,
            "max_model_len": self.engine.limit,
            "parameters": self.engine.config.parameters(),
            "lineage": self.lineage,
        }


class Herd:
    """The models of one server, by name."""

    def __init__(self, models: Iterable[Served]) -> None:
        self.models = list(models)
        self.by_name: dict[str, Served] = {}
        for served in self.models:
            if served.id in self.by_name:
                raise UserError(f"two models would be called {served.id!r}; serve one of them, or rename its folder")
            self.by_name[served.id] = served
        for served in self.models:
            for alias in served.aliases:
                self.by_name.setdefault(alias, served)

    def pick(self, name: str | None) -> Served:
        """The model of this name; the only one when none is named. Raises ApiError (404) for an unknown one."""
        if name is None and len(self.models) == 1:
            return self.models[0]
        known = [served.id for served in self.models]
        if name is None:
            raise ApiError(400, f"several models are served; name one: {', '.join(known)}", param="model")
        if name not in self.by_name:
            message = f"there is no model {name!r:.120}; there is {', '.join(known)}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return self.by_name[name]
