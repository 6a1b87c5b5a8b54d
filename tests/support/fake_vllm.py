"""A stand-in for the module `vllm`: the names, fields and checks that its documentation tells, over our own engine.

What it is given it takes apart again by itself, from vLLM's side, so a setting that is mapped wrongly shows as another
answer. Fields that vLLM does not have are refused.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from herdbook.inference.constrain import Guide
from herdbook.inference.engine import Engine, Request, Sampling


@dataclass
class StructuredOutputsParams:
    """As vLLM's: exactly one is given."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in vars(self).values()) != 1:
            raise ValueError("You must use one kind of structured outputs constraint")


@dataclass
class SamplingParams:
    """The fields of vLLM's that we use, with its defaults and its checks."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    structured_outputs: StructuredOutputsParams | None = None
    logit_bias: dict[int, float] | None = None

    def __post_init__(self) -> None:
        if not -2.0 <= self.presence_penalty <= 2.0:
            raise ValueError(f"presence_penalty must be in [-2, 2], got {self.presence_penalty}.")
        if self.max_tokens is None or self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError("seed out of range")
        assert self.stop is None or all(self.stop)


@dataclass
class Logprob:
    """As vLLM's."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class TokensPrompt(dict[str, Any]):
    """As vLLM's: a TypedDict."""


@dataclass
class LLMEngine:
    """The engine beneath `LLM`."""

    engine: Engine
    model_config: Any
    names: dict[Request, tuple[str, int | None]] = field(default_factory=dict)

    def add_request(self, request_id: str, prompt: TokensPrompt, params: SamplingParams) -> None:
        """Queue a request."""
        ids = prompt["prompt_token_ids"]
        self.names[self.engine.submit(ids, self.sampling(params))] = request_id, params.prompt_logprobs

    def sampling(self, params: SamplingParams) -> Sampling:
        """The settings, as our engine has them."""
        ends = set(params.stop_token_ids or ()) | (set() if params.ignore_eos else {self.engine.tokenizer.eos_id})
        form, constraint = params.structured_outputs, None
        if form is not None:
            guide = Guide(self.engine.tokenizer, self.engine.config.vocab_size, self.engine.tokenizer.eos_id)
            if form.json is not None:
                assert isinstance(form.json, dict)
                constraint = guide.json_schema(form.json)
            elif form.regex is not None:
                constraint = guide.regex(form.regex)
            elif form.choice is not None:
                constraint = guide.choice(form.choice)
            else:
                constraint = guide.lark(form.grammar) if form.grammar is not None else guide.json_object()
        same = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
        vocabulary = self.engine.config.vocab_size  # for every token's rank
        return Sampling(
            **{name: getattr(params, name) for name in same},
            top_k=max(0, params.top_k),
            max_tokens=params.max_tokens,
            seed=params.seed or 0,
            stop=tuple(params.stop or ()),
            stop_ids=tuple(ends),
            logit_bias=params.logit_bias or {},
            logprobs=None if params.logprobs is None else vocabulary,
            prompt_logprobs=None if params.prompt_logprobs is None else vocabulary,
            constraint=constraint,
        )

    def step(self) -> list[Any]:
        """What a step brought, cumulatively."""
        found = []
        for request in self.engine.step():
            name, _ = self.names[request]
            found.append(output(name, request))
            if request.finish:
                del self.names[request]
        return found

    def abort_request(self, request_ids: list[str]) -> None:
        """Take requests out."""
        for request, (name, _) in list(self.names.items()):
            if name in request_ids:
                self.engine.cancel(request)
                del self.names[request]


def output(name: str, request: Request) -> Any:
    """As vLLM's RequestOutput."""

    def places(found: Any) -> Any:
        if found is None:
            return None
        return [
            None if one is None else {token: Logprob(logprob, rank) for rank, (token, logprob) in enumerate(one.top, 1)}
            for one in found
        ]

    answer = SimpleNamespace(
        index=0,
        text="(not what is looked at)",
        token_ids=tuple(request.ids),
        logprobs=places(request.logprobs),
        finish_reason=request.finish,
    )
    done = request.finish is not None
    before = places(request.prompt_logprobs) if request.prompt_scored else None
    return SimpleNamespace(
        request_id=name, outputs=[answer], finished=done, prompt_logprobs=before, num_cached_tokens=request.cached
    )


class LLM:
    """As vLLM's."""

    made: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, model: str, **options: Any) -> None:
        LLM.made.append({"model": model, **options})
        engine = Engine.load(model, device="cpu", rows=options.get("max_num_seqs", 64))
        engine.stop_ids = frozenset()  # all ends come with the settings
        self.llm_engine = LLMEngine(engine, SimpleNamespace(max_model_len=engine.limit))

    def generate(self, prompts: list[TokensPrompt], sampling_params: list[SamplingParams], *, use_tqdm: bool) -> Any:
        """All answers, in the prompts' order."""
        for number, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True)):
            self.llm_engine.add_request(str(number), prompt, params)
        done: dict[str, Any] = {}
        while self.llm_engine.names:
            done |= {one.request_id: one for one in self.llm_engine.step() if one.finished}
        return [done[str(number)] for number in range(len(prompts))]


def module() -> ModuleType:
    """What `import vllm` gives."""
    made: Any = ModuleType("vllm")
    made.LLM, made.SamplingParams, made.TokensPrompt = LLM, SamplingParams, TokensPrompt
    made.sampling_params = SimpleNamespace(StructuredOutputsParams=StructuredOutputsParams)
    made.__spec__ = SimpleNamespace(name="vllm")
    return made


def install(monkeypatch: Any) -> ModuleType:
    """Let `import vllm` find it, for one test."""
    made = module()
    monkeypatch.setitem(sys.modules, "vllm", made)
    return made
