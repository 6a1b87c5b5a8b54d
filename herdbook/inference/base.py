"""What is asked of any engine (ours, or vLLM's): answers to prompts, all at once or as they are written.

An engine gives `submit`, `step` and `cancel`; what follows from them is here. All of it is used from one thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence

from herdbook.inference.request import Completion, Request, check_prompt
from herdbook.inference.sampler import Sampling, request_key
from herdbook.inference.scheduler import Load
from herdbook.inference.score import Score
from herdbook.model.config import ModelConfig
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer


class BaseEngine(ABC):
    """A model that answers."""

    config: ModelConfig
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    """Tokens that end an answer."""
    limit: int
    """Most tokens of prompt and answer together."""

    @property
    @abstractmethod
    def workload(self) -> Load:
        """How many requests run and wait, and how much of the cache they hold."""

    @abstractmethod
    def submit(self, prompt: Sequence[int], sampling: Sampling | None = None, *, number: int = 0) -> Request:
        """Queue a prompt; `step` does the work. `number`: which of several answers to one prompt this is.

        Raises UserError for a prompt that is empty, holds an unknown id, or leaves no room for an answer.
        """

    @abstractmethod
    def step(self) -> list[Request]:
        """Do a step for all requests that can go on; those that changed, an empty list when nothing is left to do."""

    @abstractmethod
    def cancel(self, request: Request) -> None:
        """Take a request out; one that has ended is left as it is."""

    @abstractmethod
    def score(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Score]:
        """How likely each continuation is after its prompt; see `Score`."""

    @property
    def lost(self) -> bool:
        """Whether it works no more, since other processes that it needs are gone."""
        return False

    def close(self) -> None:  # noqa: B027  (most have nothing to end)
        """End what was begun for it; it works no more then."""

    @property
    def knows_chat(self) -> bool:
        """Whether the model was taught to end its turns: its folder then names `<|eot_id|>` as an end."""
        return self.tokenizer.eot_id in self.stop_ids

    def request(self, prompt: Sequence[int], sampling: Sampling | None, number: int) -> Request:
        """A request as `submit` queues it."""
        sampling, prompt = sampling or Sampling(), list(prompt)
        self.check(prompt, sampling)
        room = min(sampling.max_tokens, self.limit - len(prompt))
        return Request(prompt, sampling, request_key(sampling.seed, prompt, number), room)

    def check(self, prompt: Sequence[int], sampling: Sampling) -> None:
        """Raises UserError as `submit`."""
        if wrong := check_prompt(prompt, self.config.vocab_size):
            raise UserError(f"the prompt {wrong}")
        if len(prompt) + min(sampling.max_tokens, 1) > self.limit:
            raise UserError(
                f"the prompt has {len(prompt)} tokens; the model holds {self.limit}, so no answer fits behind it"
            )

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling | Sequence[Sampling] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Completion]:
        """An answer to each prompt, in their order; text prompts get the begin-of-text token.

        A prompt given several times gets several answers when drawn by chance; `numbers` says which of them each is,
        when others of them are asked for elsewhere. Raises UserError for a prompt that is empty or leaves no room for
        an answer.
        """
        requests: list[Request] = []
        try:
            for ids, one, number in self.asks(prompts, sampling, numbers):
                requests.append(self.submit(ids, one, number=number))
            waited = set(requests)
            while waited:
                waited.difference_update(request for request in self.step() if request.finish is not None)
        finally:
            for request in requests:
                self.cancel(request)
        return [request.completion for request in requests]

    def stream(self, prompt: str | Sequence[int], sampling: Sampling | None = None) -> Iterator[str]:
        """The answer to one prompt in pieces of text as they become certain; joined, they are `generate`'s text."""
        return (piece for piece, _ in self.stream_counted(prompt, sampling) if piece)

    def stream_counted(
        self, prompt: str | Sequence[int], sampling: Sampling | None = None
    ) -> Iterator[tuple[str, int]]:
        """`stream` with one item per token drawn: the piece (may be empty) and how many tokens were drawn so far."""
        ids, one, number = self.asks([prompt], sampling)[0]
        return self._follow(self.submit(ids, one, number=number))

    def _follow(self, request: Request) -> Iterator[tuple[str, int]]:
        seen, shown = 0, 0
        try:
            while request.finish is None:
                self.step()
                if len(request.ids) > seen:  # several, if others called `step` in between
                    piece = request.text[shown:]
                    seen, shown = len(request.ids), len(request.text)
                    yield piece, seen
        finally:
            self.cancel(request)

    def asks(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling | Sequence[Sampling] | None,
        numbers: Sequence[int] | None = None,
    ) -> list[tuple[list[int], Sampling, int]]:
        """Tokens, settings and number of each prompt; UserError, naming the prompt, for one that cannot be asked."""
        settings = [sampling or Sampling()] * len(prompts) if not isinstance(sampling, Sequence) else list(sampling)
        if len(settings) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts but {len(settings)} samplings")
        seen: Counter[tuple[int, ...]] = Counter()
        found: list[tuple[list[int], Sampling, int]] = []
        for place, (prompt, one) in enumerate(zip(prompts, settings, strict=True)):
            ids = self.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else list(prompt)
            try:
                self.check(ids, one)
            except UserError as error:
                raise UserError(str(error).replace("the prompt", f"prompt {place}", 1)) from None
            key = tuple(ids) if numbers is None else ()
            found.append((ids, one, seen[key] if numbers is None else numbers[place]))
            seen[key] += 1
        return found
