"""From what was asked to what an engine draws: prompts as tokens, settings as `Sampling`, limits held."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

from herdbook.inference.constrain import Guided
from herdbook.inference.engine import Sampling
from herdbook.inference.server.bodies import Asked, ChatBody, CompletionBody, Message, NamedTool, Tool
from herdbook.inference.server.errors import ApiError, wrong
from herdbook.inference.server.herd import Served
from herdbook.inference.server.service import Ask
from herdbook.inference.server.settings import ServeSettings
from herdbook.inference.vllm_engine import Form
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import END_OF_MESSAGE
from herdbook.tokens.tools import calls_schema

COMPLETION_TOKENS = 16  # OpenAI's default


def completion_asks(body: CompletionBody, served: Served, settings: ServeSettings) -> list[Ask]:
    """The answers that a completion asks for: `n` to each prompt, in order."""
    prompts = completion_prompts(body, served)
    if len(prompts) * (body.n or 1) > settings.most_answers:
        count = f"{len(prompts)} prompts × {body.n or 1} answers"
        raise wrong(f"{count} are asked for at once; this server takes at most {settings.most_answers}", "n")
    given = common(body, served)
    if body.logprobs is not None:
        given["logprobs"] = body.logprobs
        if body.echo:
            given["prompt_logprobs"] = body.logprobs
    form = guided(body, served)
    seen: Counter[tuple[int, ...]] = Counter()
    asks = []
    for place, prompt in enumerate(prompts):
        most = answer_room(prompt, body.max_tokens, COMPLETION_TOKENS, served, settings, f"prompt {place}")
        asks += several(prompt, {**given, "max_tokens": most}, body.n or 1, form, seen)
    return asks


def chat_asks(body: ChatBody, served: Served, settings: ServeSettings) -> list[Ask]:
    """The answers that a dialog asks for."""
    if not served.engine.knows_chat:
        raise wrong(
            f"{served.id} was not taught to chat (its folder does not name <|eot_id|> as an end); "
            "use /v1/completions, which goes on with a text",
            "model",
        )
    tools = body.tools if body.tool_choice != "none" else None
    prompt = chat_prompt(served, body.messages, tools)
    given = common(body, served)
    more = served.engine.tokenizer.special_tokens.get(END_OF_MESSAGE)
    given["stop_ids"] = (*given.get("stop_ids", ()), *((more,) if more is not None else ()))
    if body.logprobs:
        given["logprobs"] = body.top_logprobs or 0
    wanted = body.max_completion_tokens or body.max_tokens
    most = answer_room(prompt, wanted, served.engine.limit, served, settings, "the dialog")
    return several(prompt, {**given, "max_tokens": most}, body.n or 1, chat_form(body, served), Counter())


def completion_prompts(body: CompletionBody, served: Served) -> list[list[int]]:
    """The prompts of a completion as tokens; raises ApiError for none, an empty one, or unknown tokens."""
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    bos = body.add_special_tokens is not False
    tokenizer = served.engine.tokenizer
    prompts = [tokenizer.encode(one, bos=bos) if isinstance(one, str) else list(one) for one in given]
    if not prompts:
        raise wrong("prompt is an empty list", "prompt")
    for place, prompt in enumerate(prompts):
        if not prompt:
            raise wrong(f"prompt {place} is empty; begin it with the begin-of-text token", "prompt")
        check_tokens(prompt, served)
    return prompts


def chat_prompt(served: Served, messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[int]:
    """A dialog as tokens, with the assistant's header at its end."""
    given = [message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True) for message in messages]
    told = [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools or ()]
    try:
        return served.engine.tokenizer.chat(given, told)
    except UserError as error:
        raise wrong(str(error), "messages") from None


def check_tokens(tokens: Sequence[int], served: Served) -> None:
    """Raise ApiError for a token outside the vocabulary."""
    size = served.engine.tokenizer.vocab_size
    strange = next((token for token in tokens if token >= size), None)
    if strange is not None:
        raise wrong(f"there is no token {strange}; {served.id} has {size:,}")


def common(body: Asked, served: Served) -> dict[str, Any]:
    """The settings of `Sampling` that every answer may be asked with; what is not given is not there."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    given: dict[str, Any] = {
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": body.top_p,
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "min_p": body.min_p,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "repetition_penalty": body.repetition_penalty,
        "logit_bias": token_biases(body, served) if body.logit_bias else None,
        "stop": tuple(stops) or None,
        "stop_ids": tuple(body.stop_token_ids) if body.stop_token_ids else None,
        "ignore_end": body.ignore_eos,
        "seed": secrets.randbits(63) if body.seed is None else body.seed,
    }
    return {name: value for name, value in given.items() if value is not None}


def token_biases(body: Asked, served: Served) -> dict[int, float]:
    """`logit_bias` by token; raises ApiError for a key that is no token."""
    biases = {}
    for key, value in (body.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise wrong(f"logit_bias has the key {key!r:.40}; its keys are token ids", "logit_bias")
        biases[int(key)] = value
    check_tokens(list(biases), served)
    return biases


def guided(body: Asked, served: Served) -> Guided | Form | None:
    """The form that a `guided_…` field asks for."""
    guide = served.guide
    try:
        if body.guided_json is not None:
            schema = json.loads(body.guided_json) if isinstance(body.guided_json, str) else body.guided_json
            return guide.json_schema(schema)
        if body.guided_regex is not None:
            return guide.regex(body.guided_regex)
        if body.guided_choice is not None:
            return guide.choice(body.guided_choice)
        if body.guided_grammar is not None:
            return guide.lark(body.guided_grammar)
    except (ValueError, RecursionError) as error:  # UserError is one
        raise wrong(str(error) or "the form of the answer is nested too deeply") from None
    return None


def chat_form(body: ChatBody, served: Served) -> Guided | Form | None:
    """The form of a dialog's answer: by response_format, a call that is forced, or a `guided_…` field."""
    try:
        if body.response_format is not None and body.response_format.type != "text":
            asked = body.response_format.json_schema
            return served.guide.json_object() if asked is None else served.guide.json_schema(asked.schema_ or {})
        if body.tools and body.tool_choice not in (None, "none", "auto"):
            functions = [tool.function for tool in body.tools]
            if isinstance(body.tool_choice, NamedTool):
                functions = [function for function in functions if function.name == body.tool_choice.function.name]
            dumped = [function.model_dump() for function in functions]
            return served.guide.json_schema(calls_schema(dumped))
    except (ValueError, RecursionError) as error:
        raise wrong(str(error) or "the form of the answer is nested too deeply") from None
    return guided(body, served)


def answer_room(
    prompt: Sequence[int], wanted: int | None, default: int, served: Served, settings: ServeSettings, what: str
) -> int:
    """How long the answer to a prompt may get; raises ApiError with the numbers when prompt or answer do not fit."""
    limit, tokens = served.engine.limit, len(prompt)
    if settings.prompt_tokens is not None and tokens > settings.prompt_tokens:
        raise too_long(f"{what} has {tokens} tokens; this server takes at most {settings.prompt_tokens}")
    if tokens >= limit:
        raise too_long(f"{what} has {tokens} tokens; {served.id} holds {limit}, so no answer fits behind it")
    if wanted is not None and tokens + wanted > limit:
        raise too_long(
            f"{what} has {tokens} tokens and the answer may have {wanted}: together {tokens + wanted}, "
            f"but {served.id} holds {limit}; shorten the one or the other"
        )
    return min(default, limit - tokens) if wanted is None else wanted


def too_long(message: str) -> ApiError:
    """The error of what does not fit the context."""
    return wrong(message, code="context_length_exceeded")


def several(
    prompt: list[int], given: dict[str, Any], count: int, form: Guided | Form | None, seen: Counter[tuple[int, ...]]
) -> list[Ask]:
    """`count` answers to one prompt, each with its own chance and its own walk through the form."""
    plain = Sampling(**given) if form is None else None
    asks = []
    for _ in range(count):
        number = seen[tuple(prompt)]
        seen[tuple(prompt)] += 1
        asks.append(Ask(prompt, plain or Sampling(**given, constraint=form.copy() if form else None), number))
    return asks
