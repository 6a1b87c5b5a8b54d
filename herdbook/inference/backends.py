"""Which engine runs a model: our own, or vLLM where that is installed and there are GPUs for it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from herdbook.inference.base import BaseEngine
from herdbook.inference.layout import Layout

Backend = Literal["auto", "own", "vllm"]
Dtype = Literal["auto", "float32", "bfloat16"]


def choose_backend(backend: Backend, device: str | None) -> Literal["own", "vllm"]:
    """What `auto` means here."""
    if backend != "auto":
        return backend
    if device not in (None, "cuda") or find_spec("vllm") is None:
        return "own"
    import torch

    return "vllm" if torch.cuda.is_available() else "own"


def load_engine(
    folder: Path | str,
    backend: Backend = "auto",
    *,
    device: str | None = None,
    dtype: Dtype = "auto",
    rows: int = 64,
    layout: Layout | None = None,
) -> BaseEngine:
    """The model of a folder, on the backend; see `Engine.load` and `VLLMEngine.load`."""
    import torch

    precision = None if dtype == "auto" else getattr(torch, dtype)
    if choose_backend(backend, device) == "vllm":
        from herdbook.inference.vllm_engine import VLLMEngine

        return VLLMEngine.load(folder, device=device, dtype=precision, rows=rows, layout=layout)
    from herdbook.inference.engine import Engine

    return Engine.load(folder, device=device, dtype=precision, rows=rows, layout=layout)
