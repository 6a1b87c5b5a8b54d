"""What goes wrong, as OpenAI's clients expect it: `{"error": {message, type, param, code}}` and a status."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
SCALARS = ("str", "int", "float", "bool")


class ApiError(Exception):
    """A request that cannot be answered, told to its sender."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body, self.status, self.headers)


def wrong(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A mistake in the request (400)."""
    return ApiError(400, message, param=param, code=code)


def busy(message: str, seconds: float) -> ApiError:
    """Too much is asked at once (429); worth trying again in about `seconds`."""
    return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def draining() -> ApiError:
    """The server is about to end (503)."""
    headers = {"Retry-After": "1", "Connection": "close"}
    return ApiError(
        503, "this server is shutting down; ask another one, or try again", code="draining", headers=headers
    )


def failed(message: str = "the model failed on this request; the server's log says why") -> ApiError:
    """Our own mistake (500)."""
    return ApiError(500, message, code="internal_error")


def invalid(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """What pydantic found wrong with a body: every problem with its place, the first one's place as `param`."""
    lines, first = [], None
    for problem in problems:
        place = ".".join(str(step) for step in problem["loc"] if step != "body" and not _is_branch(step))
        first = first or place or None
        lines.append(f"{place or 'the body'}: {problem['msg']}")
    shown = lines if len(lines) <= 8 else [*lines[:8], f"and {len(lines) - 8} more"]
    return wrong("; ".join(dict.fromkeys(shown)), first)


def _is_branch(step: Any) -> bool:
    """Whether a step of a place names an alternative of a union (`list[int]`, `NamedTool`, `str`), not a field."""
    return isinstance(step, str) and (not step.islower() or "[" in step or "-" in step or step in SCALARS)
