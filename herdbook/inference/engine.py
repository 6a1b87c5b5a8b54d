"""The engine (§6): many prompts in, answers out, over one preallocated key/value cache.

Prompts are read packed end to end (no padding), then all rows take one step at a time; rows that are done
leave, and the cache shrinks when half of them have left. An answer is a function of prompt, settings and
seed: who else is in the batch changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from herdbook.files import read_json
from herdbook.inference.sampler import Sampler, Sampling, request_key
from herdbook.inference.score import Score, score
from herdbook.inference.text import GrowingText
from herdbook.model.cache import KVCache
from herdbook.model.documents import Documents
from herdbook.model.huggingface import load_model
from herdbook.model.meta import load_meta
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer

__all__ = ["Completion", "Engine", "Sampling", "Score"]


@dataclass(frozen=True)
class Completion:
    """An answer."""

    text: str
    """Its text, without stop text and special tokens."""

    token_ids: list[int]
    """All tokens drawn, the one that ended it included."""

    finish_reason: Literal["stop", "length"]
    """`stop`: a stop token or text came; `length`: max_tokens or the model's context was used up."""


@dataclass
class _Request:
    prompt: list[int]
    sampling: Sampling
    key: int
    room: int  # tokens it may draw
    text: GrowingText
    ids: list[int] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    piece: str = ""  # text that became certain in the last step


class Engine:
    """A model, its tokenizer, and how much is done at a time."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        stop_ids: Sequence[int] | None = None,  # None: the tokenizer's end of text
        *,
        rows: int = 64,
        row_tokens: int | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        """`rows`: most answers written at once; `row_tokens`: tokens read at once; `cache_bytes`: cache's limit."""
        self.model, self.tokenizer = model.eval(), tokenizer
        self.stop_ids = frozenset([tokenizer.eos_id] if stop_ids is None else stop_ids)
        self.device = model.embedding.weight.device
        self.rows = rows
        on_cpu = self.device.type == "cpu"
        self.row_tokens = row_tokens or (4096 if on_cpu else 32_768)
        self.cache_bytes = cache_bytes or ((1 if on_cpu else 16) << 30)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        rows: int = 64,
    ) -> Engine:
        """The model of a folder: Hugging Face's layout, Meta's, or a model entry of the book.

        `device`: an accelerator when there is one. `dtype`: as stored, but float32 on a CPU without bfloat16 units.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
            folder = folder / "model"
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype is None and device == "cpu" and not cpu_has_bfloat16():
            dtype = torch.float32
        if (folder / "params.json").is_file() and not (folder / "config.json").is_file():
            return cls(load_meta(folder, dtype=dtype, device=device), Tokenizer.load(folder), rows=rows)
        model = load_model(folder, dtype=dtype, device=device)
        tokenizer = Tokenizer.load(folder)
        return cls(model, tokenizer, read_stop_ids(folder) or [tokenizer.eos_id], rows=rows)

    @property
    def limit(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.model.config.max_length

    @property
    def knows_chat(self) -> bool:
        """Whether the model was taught to end its turns: its folder then names `<|eot_id|>` as an end."""
        return self.tokenizer.eot_id in self.stop_ids

    def generate(
        self, prompts: Sequence[str | Sequence[int]], sampling: Sampling | Sequence[Sampling] | None = None
    ) -> list[Completion]:
        """An answer to each prompt, in their order; text prompts get the begin-of-text token.

        A prompt given several times gets several answers when drawn by chance. Raises UserError for a prompt that
        is empty or leaves no room for an answer.
        """
        requests = self._requests(prompts, sampling)
        for batch in self._batches(requests):
            for _ in self._run(batch):
                pass
        return [Completion(r.text.text, r.ids, r.finish or "length") for r in requests]

    def stream(self, prompt: str | Sequence[int], sampling: Sampling | None = None) -> Iterator[str]:
        """The answer to one prompt in pieces of text as they become certain; joined, they are `generate`'s text."""
        return (piece for piece, _ in self.stream_counted(prompt, sampling) if piece)

    def stream_counted(
        self, prompt: str | Sequence[int], sampling: Sampling | None = None
    ) -> Iterator[tuple[str, int]]:
        """`stream` with one item per token drawn: the piece (may be empty) and how many tokens were drawn so far."""
        requests = self._requests([prompt], sampling)
        return ((requests[0].piece, len(requests[0].ids)) for _ in self._run(requests))

    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Score]:
        """How likely each continuation is after its prompt; see `Score`."""
        return score(self.model, prompts, continuations, self.row_tokens)

    def _requests(
        self, prompts: Sequence[str | Sequence[int]], sampling: Sampling | Sequence[Sampling] | None
    ) -> list[_Request]:
        settings = [sampling or Sampling()] * len(prompts) if not isinstance(sampling, Sequence) else list(sampling)
        if len(settings) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts but {len(settings)} samplings")
        seen: Counter[tuple[int, ...]] = Counter()
        requests = []
        for number, (prompt, one) in enumerate(zip(prompts, settings, strict=True)):
            ids = self.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else list(prompt)
            if not ids:
                raise UserError(f"prompt {number} is empty; begin it with the begin-of-text token")
            if len(ids) >= self.limit:
                raise UserError(
                    f"prompt {number} has {len(ids)} tokens; the model holds {self.limit}, so no answer fits behind it"
                )
            key = request_key(one.seed, ids, seen[tuple(ids)])
            seen[tuple(ids)] += 1
            room = min(one.max_tokens, self.limit - len(ids))
            requests.append(_Request(ids, one, key, room, GrowingText(one.stop)))
        return requests

    def _batches(self, requests: list[_Request]) -> Iterator[list[_Request]]:
        """Requests of like length together, as many as rows and the cache's memory allow."""
        config = self.model.config
        item = self.model.embedding.weight.element_size()
        place = 2 * config.layers * config.kv_heads * config.head_width * item
        batch: list[_Request] = []
        longest = 0
        for request in sorted(requests, key=lambda r: len(r.prompt) + r.room):
            longest = max(longest, len(request.prompt) + request.room)
            if batch and (len(batch) == self.rows or (len(batch) + 1) * longest * place > self.cache_bytes):
                yield batch
                batch, longest = [], len(request.prompt) + request.room
            batch.append(request)
        if batch:
            yield batch

    def _run(self, requests: list[_Request]) -> Iterator[None]:
        """Draw the batch's answers; yields after each step."""
        places = max(len(request.prompt) + request.room for request in requests)
        weight = self.model.embedding.weight
        with torch.inference_mode():
            cache = KVCache(self.model.config, len(requests), places, weight.dtype, self.device)
            logits = self._read_prompts(requests, cache)
        active, sampler = requests, self._sampler(requests)
        while True:
            with torch.inference_mode():
                tokens = sampler.draw(logits, [len(request.ids) for request in active])
            for request, token in zip(active, tokens.tolist(), strict=True):
                self._take(request, token)
            yield
            going = [row for row, request in enumerate(active) if request.finish is None]
            if not going:
                return
            with torch.inference_mode():
                if 2 * len(going) <= len(active):
                    cache.keep(going)
                    active, tokens = [active[row] for row in going], tokens[going]
                    sampler = self._sampler(active)
                elif len(going) < len(active):  # rows that are done step on the spot until the cache shrinks
                    cache.cut([0 if r.finish else n for r, n in zip(active, cache.host_lengths, strict=True)])
                logits = self.model(tokens[:, None], cache=cache)[:, 0]

    def _sampler(self, requests: list[_Request]) -> Sampler:
        return Sampler([r.sampling for r in requests], [r.key for r in requests], self.device)

    def _read_prompts(self, requests: list[_Request], cache: KVCache) -> Tensor:
        """Read all prompts into the cache, packed; returns the (B, V) logits behind each."""
        lengths = [len(request.prompt) for request in requests]
        logits, start = [], 0
        while start < len(requests):
            stop, used = start + 1, lengths[start]
            while stop < len(requests) and used + lengths[stop] <= self.row_tokens:
                used += lengths[stop]
                stop += 1
            packed = [token for request in requests[start:stop] for token in request.prompt]
            documents = Documents.from_lengths(lengths[start:stop], self.device)
            row = torch.tensor([packed], device=self.device)
            hidden = self.model.hidden(row, documents, cache.part(start, stop))[0]
            logits.append(self.model.head(hidden[documents.borders[1:].long() - 1]))
            start = stop
        cache.cut(lengths)
        return torch.cat(logits)

    def _take(self, request: _Request, token: int) -> None:
        """Count a drawn token to its answer, and see whether it ends it."""
        request.piece = ""
        if request.finish is not None:
            return
        request.ids.append(token)
        if token in self.stop_ids or token in request.sampling.stop_ids:
            request.finish = "stop"
        elif token < len(self.tokenizer.ranks):  # special tokens are no text
            request.piece = request.text.feed(self.tokenizer.decode_bytes([token]))
            if request.text.stopped:
                request.finish = "stop"
        if request.finish is None and len(request.ids) == request.room:
            request.finish = "length"
        if request.finish is not None:
            request.piece += request.text.finish()


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without, it is several times slower than float32."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(known and known())


def read_stop_ids(folder: Path) -> list[int]:
    """The ids that end an answer, as generation_config.json (or config.json) names them; none when neither does."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = read_json(path).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    return []
