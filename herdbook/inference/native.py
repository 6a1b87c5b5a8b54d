"""The forward pass and the drawing of tokens compiled for this machine (`csrc/`), for dense models on a CPU.

It is built by the system's C++ compiler when it is first needed, in seconds, and kept in the user's cache folder.
Where there is no compiler the model runs eagerly, and one log line says so. Weights are read where torch holds them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from herdbook.console import log
from herdbook.inference.decode import Batch
from herdbook.inference.pages import prefer_large_pages
from herdbook.model.cache import KVPool
from herdbook.model.feed_forward import FeedForward
from herdbook.model.rounded import Int4Linear, Int8DynamicLinear, Int8Linear
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError

Compile = Literal["auto", "yes", "no"]
SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fPIC", "-shared", "-fopenmp")
FIELDS = {
    "attention_norm": "attention_norm",
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.output",
    "feed_forward_norm": "feed_forward_norm",
    "gate": "feed_forward.gate",
    "up": "feed_forward.up",
    "down": "feed_forward.down",
}


def _fields(kind: type, *names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names]


class _Shape(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_int64, "layers", "dim", "heads", "kv_heads", "head_width", "ffn_dim", "vocabulary"),
        ("norm_eps", ctypes.c_float),
    ]


class _Matrix(ctypes.Structure):
    _fields_ = [*_fields(ctypes.c_void_p, "values", "scales"), ("group", ctypes.c_int64)]


class _Layer(ctypes.Structure):
    _fields_ = _fields(_Matrix, *FIELDS)


class _Batch(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "tokens", "counts", "pasts", "tables", "wanted"),
        *_fields(ctypes.c_int64, "new_tokens", "sequences", "width", "wanted_count"),
        *_fields(ctypes.c_void_p, "cosine", "sine", "keys", "values"),
        *_fields(ctypes.c_int64, "places", "block"),
    ]


class Native:
    """A `Runner` over compiled code."""

    def __init__(self, model: Transformer, pool: KVPool, library: ctypes.CDLL) -> None:
        """`model` must be one that `unfit` finds nothing against."""
        config = model.config
        self.library, self.pool, self.rope = library, pool, model.rope
        self.dim, self.vocabulary = config.dim, config.vocab_size
        shape = _Shape(
            config.layers,
            config.dim,
            config.heads,
            config.kv_heads,
            config.head_width,
            config.ffn_dim,
            config.vocab_size,
            config.norm_eps,
        )
        self.held: list[Tensor] = []  # as long as this runner, so that what the pointers point to stays
        layers = (_Layer * config.layers)(
            *(
                _Layer(**{field: self._matrix(block.get_submodule(path)) for field, path in FIELDS.items()})
                for block in model.blocks
            )
        )
        embedding, norm, head = (self._matrix(module) for module in (model.embedding, model.norm, model.head))
        half = model.embedding.weight.dtype == torch.bfloat16
        self.handle = ctypes.c_void_p(
            library.herdbook_create(
                ctypes.byref(shape),
                layers,
                ctypes.c_void_p(embedding.values),
                ctypes.c_void_p(norm.values),
                ctypes.byref(head),
                int(half),
            )
        )
        self.cosine = self.sine = torch.empty(0)
        prefer_large_pages(self.held, written=True)
        prefer_large_pages([pool.keys, pool.values], written=False)

    def _matrix(self, module: nn.Module) -> _Matrix:
        """Where a module's weights lie, and their scales where they are rounded."""
        if isinstance(module, Int8Linear | Int8DynamicLinear | Int4Linear):
            values = module.octets if isinstance(module, Int4Linear) else module.values
            scales = module.scale.float().contiguous()
            self.held += [values, scales]
            if isinstance(module, Int4Linear):
                group = module.in_features // scales.shape[1]
            else:
                group = -1 if isinstance(module, Int8DynamicLinear) else 0
            return _Matrix(values.data_ptr(), scales.data_ptr(), group)
        weight = module.get_parameter("weight").detach()
        self.held.append(weight)
        return _Matrix(weight.data_ptr(), None, 0)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.herdbook_destroy(self.handle)

    def __call__(self, batch: Batch) -> Tensor:
        """See `Runner`; float32."""
        self._know_angles(int((batch.pasts + batch.counts).max()))
        arrays = [
            np.ascontiguousarray(array, np.int32)
            for array in (batch.tokens, batch.counts, batch.pasts, batch.tables, batch.wanted)
        ]
        hidden = torch.empty(len(batch.wanted), self.dim)
        pool = self.pool
        work = _Batch(
            *(array.ctypes.data for array in arrays),
            len(batch.tokens),
            len(batch.counts),
            batch.tables.shape[1],
            len(batch.wanted),
            *(x.data_ptr() for x in (self.cosine, self.sine, pool.keys, pool.values)),
            pool.blocks * pool.block,
            pool.block,
        )
        self.library.herdbook_run(
            self.handle, ctypes.byref(work), ctypes.c_void_p(hidden.data_ptr()), torch.get_num_threads()
        )
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """See `Runner`; float32."""
        hidden = hidden.contiguous()
        logits = torch.empty(len(hidden), self.vocabulary)
        self.library.herdbook_head(
            self.handle,
            ctypes.c_void_p(hidden.data_ptr()),
            ctypes.c_int64(len(hidden)),
            ctypes.c_void_p(logits.data_ptr()),
            torch.get_num_threads(),
        )
        return logits

    def draw(
        self,
        logits: Tensor,  # (B, V) float32
        settings: Sequence[Tensor],  # temperature, top_k, top_p, min_p and chance, (B,) float64 each
    ) -> Tensor:  # (B,) int64
        """The next token of every row, as `Sampler.draw` means it."""
        logits, columns = logits.contiguous(), [column.contiguous() for column in settings]
        pointers = (ctypes.c_void_p * len(columns))(*(column.data_ptr() for column in columns))
        tokens = torch.empty(len(logits), dtype=torch.int64)
        self.library.herdbook_draw(
            ctypes.c_void_p(logits.data_ptr()),
            ctypes.c_int64(len(logits)),
            ctypes.c_int64(logits.shape[1]),
            pointers,
            ctypes.c_void_p(tokens.data_ptr()),
            torch.get_num_threads(),
        )
        return tokens

    def _know_angles(self, positions: int) -> None:
        """Have the rotations of at least so many positions at hand."""
        if positions > len(self.cosine):
            known = max(1024, 1 << (positions - 1).bit_length())
            cosine, sine = self.rope.rotation(torch.arange(known).unsqueeze(0))
            self.cosine, self.sine = (x.reshape(known, -1).contiguous() for x in (cosine, sine))


def unfit(model: Transformer) -> str | None:
    """Why compiled code cannot run this model; None when it can."""
    dtype = model.embedding.weight.dtype
    if dtype not in (torch.float32, torch.bfloat16):
        return f"weights are {dtype}"
    if any(not isinstance(block.feed_forward, FeedForward) for block in model.blocks):
        return "a mixture of experts"
    for name, module in model.named_modules():
        plain = type(module) is nn.Linear and module.bias is None
        rounded = isinstance(module, Int8Linear | Int8DynamicLinear | Int4Linear) and module.plain
        known = plain or rounded
        if name.rsplit(".", 1)[-1] in ("query", "key", "value", "output", "gate", "up", "down", "head") and not known:
            return f"{name} is {type(module).__name__}"
    for name, weight in model.named_parameters():
        if type(weight.data) is not Tensor or weight.device.type != "cpu":
            return f"{name} lies elsewhere"
        if weight.dtype != dtype or not weight.is_contiguous():
            return f"{name} is of another type or layout"
    return None


def native_runner(model: Transformer, pool: KVPool, compile: Compile = "auto") -> Native | None:
    """Compiled code for the model, or None when it is not to be had; `yes` raises UserError then."""
    if compile == "no":
        return None
    reason = unfit(model)
    library = None if reason else build()
    if isinstance(library, str):
        reason = library
    if isinstance(library, ctypes.CDLL):
        return Native(model, pool, library)
    if compile == "yes":
        raise UserError(f"compile is yes, but this model cannot be compiled: {reason}")
    return None


@cache
def build() -> ctypes.CDLL | str:
    """The library, built if it is not there yet, or why there is none (said once)."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        reason = "no C++ compiler (g++ or clang++, or the one that CXX names)"
        log("engine", compiled="no", reason=reason)
        return reason
    path = library_path(compiler)
    try:
        if not path.is_file():
            compile_to(path, compiler)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = f"{compiler}: {detail[0] if detail else error}"
        log("engine", compiled="no", reason=reason)
        return reason
    library.herdbook_create.restype = ctypes.c_void_p
    for name in ("herdbook_run", "herdbook_head", "herdbook_draw", "herdbook_destroy"):
        getattr(library, name).restype = None
    library.herdbook_destroy.argtypes = [ctypes.c_void_p]
    return library


def library_path(compiler: str) -> Path:
    """Where the library for this source, compiler and processor is kept."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu += "".join(
            sorted({line for line in info.read_text().splitlines() if line.startswith(("model name", "flags"))})
        )
    named = hashlib.blake2b(digest_size=12)
    sources = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    for part in (*sources, " ".join(FLAGS).encode(), compiler.encode(), cpu.encode(), openmp().encode()):
        named.update(part + b"\0")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "herdbook" / f"native-{named.hexdigest()}.so"


def openmp() -> str:
    """Torch's own OpenMP library, so that both share one team of threads; empty when torch has none of its own."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return str(found[0]) if found else ""


def compile_to(path: Path, compiler: str, sources: Sequence[Path] = ()) -> None:
    """Build the library, of `sources` or of the engine's; appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        libraries = [openmp()] if openmp() else []
        subprocess.run(
            [compiler, *FLAGS, *map(str, sources or sorted(SOURCES.glob("*.cpp"))), *libraries, "-o", str(made)],
            check=True,
            capture_output=True,
            text=True,
        )
        made.replace(path)
