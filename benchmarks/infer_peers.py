"""What the benchmarks of inference compare: random models, transformers, llama.cpp, the memory's own speed.

llama.cpp runs in a process of its own (peers/llama_generate.py) with the python that `HERDBOOK_PEERS_LLAMA` names or
benchmarks/peers/.llama holds; without one it takes no part. Every contender answers `seconds(prompts, tokens)`.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import HERE

from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.native import compile_to
from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import save_model
from herdbook.model.transformer import Transformer
from herdbook.tokens.tokenizer import Tokenizer, special_names

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Prompts = list[list[int]]


def tokenizer_of(vocabulary: int) -> Tokenizer:
    """Enough of a tokenizer for a model of random weights: bytes, then pairs of bytes."""
    names = special_names(256)
    ranks = {bytes([value]): value for value in range(256)}
    for number in range(vocabulary - len(names) - 256):
        ranks[bytes([number // 256, number % 256])] = len(ranks)
    return Tokenizer(ranks, names)


def model_of(config: ModelConfig, dtype: torch.dtype) -> Transformer:
    """A model of random weights."""
    model = Transformer(config)
    model.initialize(0)
    return model.to(dtype).eval()


def prompts_of(count: int, length: int, vocabulary: int) -> Prompts:
    """Random prompts."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, vocabulary - 300, (count, length), generator=generator).tolist()


class Ours:
    """The engine; prompts are read anew each time."""

    def __init__(self, model: Transformer, clock: str, rows: int = 64) -> None:
        self.engine = Engine(model, tokenizer_of(model.config.vocab_size), [], rows=rows)
        self.clock, self.ids = CLOCKS[clock], [[0]]

    def seconds(self, prompts: Prompts, tokens: int) -> float:
        self.engine.scheduler.blocks.forget()
        start = self.clock()
        answers = self.engine.generate(prompts, Sampling(max_tokens=tokens, ignore_end=True))
        took = self.clock() - start
        self.ids = [answer.token_ids for answer in answers]
        return took


class Transformers:
    """transformers' generate over prompts of one length, without an end."""

    def __init__(self, peer: Any, clock: str, **options: Any) -> None:
        self.peer, self.clock, self.options = peer, CLOCKS[clock], options

    def seconds(self, prompts: Prompts, tokens: int) -> float:
        start = self.clock()
        generate(self.peer, prompts, tokens, do_sample=False, **self.options)
        return self.clock() - start


def generate(peer: Any, prompts: Prompts, tokens: int, **options: Any) -> Any:
    """transformers' answers of exactly so many tokens."""
    ids = torch.tensor(prompts)
    ends: dict[str, Any] = {"eos_token_id": None, "pad_token_id": 0, "min_new_tokens": tokens, "max_new_tokens": tokens}
    with torch.inference_mode():
        return peer.generate(ids, attention_mask=torch.ones_like(ids), **ends, **options)


def peer_of(model: Transformer) -> Any:
    """transformers' model with the same weights."""
    from transformers import LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder), bos_id=None, eos_ids=[])
        return LlamaForCausalLM.from_pretrained(folder, dtype=model.embedding.weight.dtype).eval()


def llama_python() -> Path | None:
    """The python that has llama.cpp, if there is one."""
    path = Path(os.environ.get("HERDBOOK_PEERS_LLAMA", HERE / "peers" / ".llama" / "bin" / "python"))
    return path if path.is_file() else None


class LlamaCpp:
    """llama.cpp in a process of its own, over a folder of float16 weights that `save_for_llama` wrote."""

    def __init__(self, folder: Path, kind: str, threads: int, clock: str) -> None:
        python = llama_python()
        assert python is not None
        self.clock = clock
        self.process = subprocess.Popen(
            [str(python), str(HERE / "peers" / "llama_generate.py"), str(folder), kind, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            text=True,
        )
        self.version = self._read()["ready"]
        self.ids: Prompts = [[0]]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"llama.cpp's process ended with {self.process.wait()}")
        return dict(json.loads(line))

    def seconds(self, prompts: Prompts, tokens: int) -> float:
        assert self.process.stdin is not None
        print(
            json.dumps({"prompts": prompts, "tokens": tokens, "clock": self.clock}), file=self.process.stdin, flush=True
        )
        found = self._read()
        self.ids = found["ids"]
        return float(found["seconds"])

    def close(self) -> None:
        """End the process, whose model may be large."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def save_for_llama(model: Transformer, folder: Path) -> None:
    """The model's weights in float16, which numpy can read, as Hugging Face's folder."""
    save_model(copy.deepcopy(model).half(), folder, bos_id=None, eos_ids=[])


STREAM = """
#include <cstdint>
#include <omp.h>
extern "C" uint64_t read_all(const uint64_t* data, long count, int threads) {
    uint64_t all = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : all) schedule(static)
    for (long i = 0; i < count; ++i) all += data[i];
    return all;
}
"""


def read_rate(threads: int, size: int = 1 << 30, turns: int = 5) -> float:
    """Bytes a second at which so many threads read memory from end to end and do nothing else: the best of some turns.

    On 2 MB pages where the system gives such, as the engine's weights lie.
    """
    from herdbook.inference.pages import prefer_large_pages

    data = torch.ones(size // 8, dtype=torch.int64)
    prefer_large_pages([data], written=True)
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "stream.cpp", Path(folder) / "stream.so"
        source.write_text(STREAM)
        compile_to(made, os.environ.get("CXX", "g++"), [source])
        library = ctypes.CDLL(str(made))
        library.read_all.restype = ctypes.c_uint64
        arguments = ctypes.c_void_p(data.data_ptr()), ctypes.c_long(len(data)), threads
        best = float("inf")
        for _ in range(turns):
            start = time.perf_counter()
            found = library.read_all(*arguments)
            best = min(best, time.perf_counter() - start)
        assert found == len(data)
    return size / best


def interleave(
    contenders: dict[str, Any], work: Sequence[tuple[Prompts, int]], repeats: int
) -> dict[str, list[list[float]]]:
    """Seconds of each contender for each piece of work, taking turns; the first turn warms up and is left out."""
    took: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, contender in contenders.items():
            found = [contender.seconds(prompts, tokens) for prompts, tokens in work]
            if turn:
                took[name].append(found)
    return took
