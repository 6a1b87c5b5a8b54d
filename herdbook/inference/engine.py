"""The engine (§6): prompts in, answers out, any number at once, over one paged key/value cache.

Requests come and go at each step: `submit` queues one, `step` runs the model once over all that can go on,
`generate` and `stream` are these two in a loop. Prompts that begin alike are read once. An answer is a function of
prompt, settings, seed and number: who else is in the batch, and in which pieces a prompt is read, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from herdbook.inference.base import BaseEngine
from herdbook.inference.decode import Batch, Eager, Runner
from herdbook.inference.graphs import Graphs
from herdbook.inference.layout import Layout
from herdbook.inference.logprobs import LOGITS, token_logprobs
from herdbook.inference.native import Compile, Native, native_runner
from herdbook.inference.parallel import SpreadModel, SpreadRunner
from herdbook.inference.ranks import load_spread
from herdbook.inference.request import Completion, Request, TokenLogprob
from herdbook.inference.sampler import Sampler, Sampling
from herdbook.inference.scheduler import Load, Scheduler
from herdbook.inference.score import Score, score
from herdbook.inference.stops import read_stop_ids
from herdbook.model.cache import BLOCK, KVPool
from herdbook.model.huggingface import load_model
from herdbook.model.lora import plain
from herdbook.model.meta import load_meta
from herdbook.model.transformer import Transformer
from herdbook.tokens.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "Load", "Request", "Sampling", "Score", "TokenLogprob"]


class Engine(BaseEngine):
    """A model, its tokenizer, its cache, and the requests at work. All of it is used from one thread."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        stop_ids: Sequence[int] | None = None,  # None: the tokenizer's end of text
        *,
        rows: int = 64,
        row_tokens: int | None = None,
        step_tokens: int | None = None,
        cache_bytes: int | None = None,
        blocks: int | None = None,
        compile: Compile = "auto",
    ) -> None:
        """`rows`: most answers written at once; `row_tokens`: tokens that `score` reads at once; `step_tokens`: most
        tokens in a step, so the longest that running answers wait for a prompt; `cache_bytes` or `blocks`: the cache;
        `compile`: whether to run code compiled for this processor (auto: where there is a compiler and a use for it).
        """
        # Adapters are multiplied in once, not with every token.
        self.model, self.tokenizer, self.config = plain(model.eval()), tokenizer, model.config
        self.stop_ids = frozenset([tokenizer.eos_id] if stop_ids is None else stop_ids)
        self.device = model.embedding.weight.device
        self.rows = rows
        on_cpu = self.device.type == "cpu"
        self.row_tokens = row_tokens or (4096 if on_cpu else 32_768)
        dtype, config = model.embedding.weight.dtype, model.config
        most = rows * -(-config.max_length // BLOCK)
        spread = model if isinstance(model, SpreadModel) else None
        block_bytes = spread.block_bytes() if spread else KVPool.block_bytes(config, dtype)
        held = (cache_bytes or ((1 if on_cpu else 16) << 30)) // block_bytes
        blocks = blocks or max(1, min(most, held))
        self.limit = min(config.max_length, blocks * BLOCK)
        """Most tokens of prompt and answer together: the model's context, or the whole cache if that is smaller."""
        self.scheduler = Scheduler(blocks, BLOCK, rows, step_tokens or (1024 if on_cpu else 8192), config.max_length)
        if spread:
            self.pool = spread.lay_pool(blocks)
        else:
            # On a GPU one block more, which the scheduler never gives out: see `Graphs`.
            self.pool = KVPool(config, blocks if on_cpu else blocks + 1, dtype=dtype, device=self.device)
        self.runner = self._runner(compile)
        self.compiled_draw = self.runner.draw if isinstance(self.runner, Native) else None
        self.drawers: list[Request] = []  # whose settings `sampler` holds
        self.sampler = Sampler([], [], self.device)
        self.words = {rank: data for data, rank in tokenizer.ranks.items()}  # special tokens are no text

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        rows: int = 64,
        compile: Compile = "auto",
        layout: Layout | None = None,
    ) -> Engine:
        """The model of a folder: Hugging Face's layout, Meta's, or a model entry of the book.

        `device`: an accelerator when there is one. `dtype`: as stored, but float32 on a CPU without bfloat16 units.
        What is quantised in the folder stays so in memory. `layout`: on how many ranks it lies; they are started, and
        end with `close`.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
            folder = folder / "model"
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype is None and device == "cpu" and not cpu_has_bfloat16():
            dtype = torch.float32
        if (folder / "params.json").is_file() and not (folder / "config.json").is_file():
            return cls(
                load_meta(folder, dtype=dtype, device=device), Tokenizer.load(folder), rows=rows, compile=compile
            )
        tokenizer = Tokenizer.load(folder)
        model: Transformer
        if layout is not None and layout.ranks > 1:
            model = load_spread(folder, layout, device, dtype)
        else:
            model = load_model(folder, dtype=dtype, device=device, rounded=True)
        return cls(model, tokenizer, read_stop_ids(folder) or [tokenizer.eos_id], rows=rows, compile=compile)

    def _runner(self, compile: Compile) -> Runner:
        """The fastest way to run the model here."""
        if isinstance(self.model, SpreadModel):
            return SpreadRunner(self.model)
        if self.device.type == "cuda" and compile != "no" and not self.model.config.experts:
            return Graphs(self.model, self.pool, self.rows)
        return native_runner(self.model, self.pool, compile) or Eager(self.model, self.pool)

    @property
    def workload(self) -> Load:
        """How many requests run and wait, and how much of the cache they hold."""
        return self.scheduler.load

    def submit(self, prompt: Sequence[int], sampling: Sampling | None = None, *, number: int = 0) -> Request:
        """Queue a prompt; `step` does the work. `number`: which of several answers to one prompt this is.

        Raises UserError for a prompt that is empty, holds an unknown id, or leaves no room for an answer.
        """
        request = self.request(prompt, sampling, number)
        self.scheduler.waiting.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Take a request out; its blocks are free at once. One that has ended is left as it is."""
        if request.finish is None:
            self.scheduler.drop(request)

    @property
    def lost(self) -> bool:
        """Whether it works no more, since other ranks of its model are gone."""
        return isinstance(self.model, SpreadModel) and bool(self.model.lost)

    def close(self) -> None:
        """End the other ranks of a model that lies on several; the engine works no more then."""
        if isinstance(self.model, SpreadModel):
            self.model.close()

    def step(self) -> list[Request]:
        """Run the model once over all requests that can go on.

        Returns those that got a token, ended, or had a piece of a long prompt read (then nothing of theirs has
        changed yet); an empty list only when nothing is left to do.
        """
        with torch.inference_mode():
            plan = self.scheduler.plan()
            if not plan:
                return []
            try:
                hidden, wanted = self._run(plan)
                self._score_prompts(plan, hidden, wanted)
                for request, count in plan:
                    request.read += count
                    request.piece = ""
                last = [at for at, (request, place) in enumerate(wanted) if place == len(request.tokens) - 1]
                drawing = [wanted[at][0] for at in last]
                if drawing:
                    self._draw(drawing, hidden if len(last) == len(wanted) else hidden[last])
            except BaseException:
                # Blocks may have been named whose contents were never written.
                self.scheduler.blocks.forget()
                raise
        for request in drawing:
            if request.finish is not None:
                self.scheduler.drop(request)
        return [request for request, _ in plan]

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Score]:
        """How likely each continuation is after its prompt; see `Score`."""
        return score(self.model, prompts, continuations, self.row_tokens)

    def _run(self, plan: list[tuple[Request, int]]) -> tuple[Tensor, list[tuple[Request, int]]]:
        """The forward pass; what the head reads at the wanted tokens, and which tokens of whom those are."""
        tokens: list[int] = []
        wanted: list[tuple[Request, int]] = []
        places: list[int] = []
        for request, count in plan:
            first, end = request.read, request.read + count
            ends_here = end == len(request.tokens)
            if request.prompt_scored:
                from_here = end - 1 if ends_here else end
            else:
                assert request.prompt_logprobs is not None
                from_here = max(first, len(request.prompt_logprobs) - 1)
            wanted += [(request, place) for place in range(from_here, end)]
            places += range(len(tokens) + from_here - first, len(tokens) + count)
            tokens += request.tokens[first:end] if count > 1 else [request.tokens[first]]
        longest = max(len(request.table) for request, _ in plan)
        rows = [request.row for request, _ in plan]
        batch = Batch(
            np.array(tokens, np.int32),
            np.array([count for _, count in plan], np.int32),
            np.array([request.read for request, _ in plan], np.int32),
            self.scheduler.tables[rows, :longest],
            np.array(places, np.int32),
        )
        return self.runner(batch), wanted

    def _score_prompts(
        self, plan: list[tuple[Request, int]], hidden: Tensor, wanted: list[tuple[Request, int]]
    ) -> None:
        """Log-probabilities of prompts' tokens, for those who asked."""
        if all(request.prompt_scored for request, _ in plan):
            return
        asked = [at for at, (r, place) in enumerate(wanted) if not r.prompt_scored and place + 1 < len(r.prompt)]
        size = max(1, LOGITS // self.model.config.vocab_size)
        for part in (asked[start : start + size] for start in range(0, len(asked), size)):
            targets = [r.prompt[place + 1] for r, place in (wanted[at] for at in part)]
            tops = [wanted[at][0].sampling.prompt_logprobs or 0 for at in part]
            for at, found in zip(part, token_logprobs(self.runner.head(hidden[part]), targets, tops), strict=True):
                prompt_logprobs = wanted[at][0].prompt_logprobs
                assert prompt_logprobs is not None
                prompt_logprobs.append(found)

    def _draw(self, requests: list[Request], hidden: Tensor) -> None:
        """Draw the next token of each and count it to its answer."""
        if requests != self.drawers:
            self.drawers = requests
            self.sampler = Sampler(
                [r.sampling for r in requests], [r.key for r in requests], self.device, self.compiled_draw
            )
        raw = self.runner.head(hidden)
        logits = raw
        adjusted = [row for row, request in enumerate(requests) if request.adjuster is not None]
        if adjusted:
            logits = raw.float().clone()
            for row in adjusted:
                adjuster = requests[row].adjuster
                assert adjuster is not None
                adjuster.apply(logits[row])
        tokens = self.sampler.draw(logits, [len(request.ids) for request in requests]).tolist()
        asked = [row for row, request in enumerate(requests) if request.logprobs is not None and request.room]
        if asked:
            tops = [requests[row].sampling.logprobs or 0 for row in asked]
            found = token_logprobs(raw[asked], [tokens[row] for row in asked], tops)
            for row, logprob in zip(asked, found, strict=True):
                logprobs = requests[row].logprobs
                assert logprobs is not None
                logprobs.append(logprob)
        for request, token in zip(requests, tokens, strict=True):
            self._take(request, token)

    def _take(self, request: Request, token: int) -> None:
        """Count a drawn token to its answer, and see whether it ends it."""
        if request.room == 0:  # only its prompt was to be read
            request.finish = "length"
            return
        request.ids.append(token)
        request.tokens.append(token)
        sampling, adjuster = request.sampling, request.adjuster
        if adjuster is not None:
            adjuster.take(token)
        if (token in self.stop_ids and not sampling.ignore_end) or token in sampling.stop_ids:
            request.finish = "stop"
        elif (data := self.words.get(token)) is not None:
            request.piece = request.growing.feed(data)
            if request.growing.stopped:
                request.finish = "stop"
        if request.finish is None and adjuster is not None and adjuster.ended:
            request.finish = "stop"
        if request.finish is None and len(request.ids) == request.room:
            request.finish = "length"
        if request.finish is not None:
            request.piece += request.growing.finish()


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without, it is several times slower than float32."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(known and known())
