"""What a server may do: where it listens, who may ask, and how much at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from herdbook.inference.layout import Layout
from herdbook.settings import Settings, UserError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class ServeSettings(Settings):
    """How models are served over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every network of this machine (then set an API key)."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    api_key: SecretStr | None = Field(default=None, min_length=1)
    """Key that requests must bring as `Authorization: Bearer KEY`; none: everybody may ask."""

    names: tuple[str, ...] = ()
    """Host names that requests may call this server by; empty: on 127.0.0.1 only its own names, elsewhere any."""

    rows: int = Field(default=64, ge=1)
    """Most answers of one model written at once."""

    queue: int = Field(default=256, ge=0)
    """Most answers of one model that wait besides; more are refused with 429 and Retry-After."""

    prompt_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt, tokens; none: what the model's context holds."""

    body_bytes: int = Field(default=4 << 20, ge=1024)
    """Largest body of a request, bytes."""

    drain_seconds: float = Field(default=30.0, ge=0)
    """After SIGTERM or Ctrl-C: how long answers under way may take before they are cut off, seconds."""

    device: str | None = None
    """Device of the models, such as cpu or cuda:1; an accelerator when there is one if left out."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights; auto: as stored, but float32 on a CPU without bfloat16 units."""

    threads: int | None = Field(default=None, ge=1)
    """Threads of a CPU's matrix products; none: torch's choice."""

    backend: Literal["own", "vllm"] = "own"
    """What runs the models: our own engine, or vLLM (extra `vllm`)."""

    guess: Literal["no", "ngrams"] = "no"
    """ngrams: draw several tokens a step where a text repeats itself; answers stay the same."""

    draft: Path | None = None
    """Folder of a smaller model with the same tokenizer that guesses several tokens a step; answers stay the same."""

    layout: Layout = Layout()
    """How the model lies over several processes."""

    log_requests: bool = False
    """Whether to write one log line per request."""

    @model_validator(mode="after")
    def _one_guesser(self) -> ServeSettings:
        if self.draft is not None and self.guess != "no":
            raise UserError(f"guess={self.guess} and draft={self.draft}: guesses come from one of them; leave one out")
        if self.backend == "vllm" and (self.draft is not None or self.guess != "no"):
            raise UserError("backend=vllm knows no guesses of ours; leave out guess and draft")
        return self

    @property
    def most_answers(self) -> int:
        """Most answers of one model under way or waiting."""
        return self.rows + self.queue

    @property
    def known_hosts(self) -> frozenset[str] | None:
        """Host names that are let in; None for any. Guards a local server against web pages of rebound domains."""
        if self.names:
            return frozenset(name.lower() for name in self.names)
        return LOOPBACK if self.host in LOOPBACK else None
