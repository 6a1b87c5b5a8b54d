"""The Llama 3 chat format (§4.1.1, §4.3.5) as code, and the same as the template that our model folders carry.

A message is `<|start_header_id|>role<|end_header_id|>`, an empty line, the content without blanks around it, and
`<|eot_id|>`, or `<|eom_id|>` where the assistant calls tools and goes on when it has their results. Each part is
tokenised by itself, so that no merge crosses from a prompt into an answer. Unlike a template, which pastes strings
together, code can keep a `<|eot_id|>` that a user typed as the text it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from herdbook.settings import UserError
from herdbook.tokens.tokenizer import END_HEADER, END_OF_MESSAGE, END_OF_TURN, START_HEADER
from herdbook.tokens.tools import ASK, CALL_BEGINS, ENVIRONMENT, call_text, given_calls, with_tools

if TYPE_CHECKING:
    from herdbook.tokens.tokenizer import Tokenizer

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "ipython": "ipython",
    "tool": "ipython",
}
"""Each role that a message may have, and the name that stands in its header."""

# `generation` marks what the assistant says, which trainers that work by the template learn.
CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content is mapping -%}{{- content | tojson -}}
{%- elif content is iterable -%}{%- for part in content -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set roles = ROLES -%}
{%- set state = namespace(told='', head='', first=0, asked=false) -%}
{%- if tools -%}
{%- set state.told = ASK -%}
{%- for tool in tools -%}{%- set state.told = state.told + (tool | tojson(indent=4)) + '\\n\\n' -%}{%- endfor -%}
{%- if messages and roles.get(messages[0]['role']) == 'system' -%}
{%- set state.head = text(messages[0]['content']) -%}
{%- set state.first = 1 -%}
{%- endif -%}
{%- endif -%}
{{- bos_token -}}
{%- if tools -%}
{%- if not messages[state.first:] | selectattr('role', 'equalto', 'user') | list -%}
{%- set state.head = (state.head + '\\n\\n' + state.told) | trim -%}
{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + (ENVIRONMENT + '\\n\\n' + state.head) | trim + '<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages[state.first:] -%}
{%- set role = roles.get(message['role']) -%}
{%- if not role -%}{{- raise_exception('unknown role ' + message['role']) -}}{%- endif -%}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' -}}
{%- if role == 'assistant' and message['tool_calls'] -%}
{%- generation -%}
{%- for call in message['tool_calls'] -%}
{%- set called = call['function'] or call -%}
{%- set arguments = called['arguments'] -%}
{{- '{"name": ' + (called['name'] | tojson) + ', "parameters": ' -}}
{{- arguments if arguments is string else arguments | tojson -}}
{{- '}' if loop.last else '}; ' -}}
{%- endfor -%}
{{- '<|eom_id|>' -}}
{%- endgeneration -%}
{%- elif role == 'assistant' -%}
{%- set said = text(message['content']) | trim -%}
{%- generation -%}
{{- said + ('<|eom_id|>' if tools and said.startswith(CALL_BEGINS) else '<|eot_id|>') -}}
{%- endgeneration -%}
{%- elif role == 'user' and not state.asked -%}
{%- set state.asked = true -%}
{{- (state.told + text(message['content'])) | trim + '<|eot_id|>' -}}
{%- else -%}
{{- text(message['content']) | trim + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
for name, value in (("ROLES", ROLES), ("ASK", ASK), ("ENVIRONMENT", ENVIRONMENT), ("CALL_BEGINS", CALL_BEGINS)):
    CHAT_TEMPLATE = CHAT_TEMPLATE.replace(name, json.dumps(value), 1)


@dataclass
class DialogTokens:
    """A dialog as ids, and for each id whether the assistant has to produce it (its contents and what ends them)."""

    ids: list[int]
    answer: list[bool]

    bytes: int = 0
    """Text of the answers, in UTF-8."""

    def add(self, ids: list[int], answer: bool = False) -> None:
        """Append `ids`, all of them answer or none."""
        self.ids += ids
        self.answer += [answer] * len(ids)


def encode_dialog(
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    generation_prompt: bool = False,
    tools: Sequence[dict[str, Any]] | None = None,  # JSON schemas of functions that the assistant may call
) -> DialogTokens:
    """Tokens of messages `{"role", "content"}`; with `generation_prompt` the assistant's header follows.

    The assistant's may have `tool_calls` instead of a content; where there are tools, a content that begins as a call
    does is one as well. One with `weight` 0 (as in OpenAI's sets: a mistake that is corrected later) is read, not
    learnt. Raises `UserError` that names the message by its
    position when it is not such a message, and for a tokenizer without `<|eom_id|>` where a call would end with it.
    """
    special, tokens = tokenizer.special_tokens, DialogTokens([], [])
    tokens.add([tokenizer.bos_id])
    read = [read_message(message, position) for position, message in enumerate(messages)]
    for message in with_tools(read, tools):
        role, content, end = message["role"], message["content"].strip(), message.get("end", END_OF_TURN)
        if role == "assistant" and tools and content.startswith(CALL_BEGINS):
            end = END_OF_MESSAGE
        if end not in special:
            raise UserError(f"this tokenizer lacks {end}, with which a call of a tool ends; it can't tell such dialogs")
        answer = role == "assistant" and "unlearnt" not in message
        tokens.add(encode_header(tokenizer, role))
        tokens.add([*tokenizer.encode(content), special[end]], answer)
        tokens.bytes += len(content.encode("utf-8", "surrogatepass")) if answer else 0
    if generation_prompt:
        tokens.add(encode_header(tokenizer, "assistant"))
    return tokens


def encode_header(tokenizer: Tokenizer, role: str) -> list[int]:
    """The ids that open a message of `role`."""
    special = tokenizer.special_tokens
    return [special[START_HEADER], *tokenizer.encode(role), special[END_HEADER], *tokenizer.encode("\n\n")]


def read_message(message: Any, position: int) -> dict[str, str]:
    """A message with its header's role, its content as text, under `end` what it ends with; `unlearnt` at weight 0."""
    where = f"message {position}"
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if not isinstance(message, dict) or "role" not in message or not ("content" in message or calls):
        raise UserError(f"{where} is {message!r:.80}; a message is {{'role': …, 'content': …}}")
    role = message["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{where} has the role {role!r}; roles are {', '.join(ROLES)}")
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise UserError(f"{where} has the weight {weight!r}; an answer is learnt (1) or only read (0)")
    more = {"unlearnt": "yes"} if weight == 0 else {}
    if not calls:
        return {"role": ROLES[role], "content": read_content(message["content"], where), "end": END_OF_TURN, **more}
    if role != "assistant":
        raise UserError(f"{where} has tool_calls, but its role is {role}; only the assistant calls tools")
    try:
        return {"role": role, "content": call_text(given_calls(calls)), "end": END_OF_MESSAGE, **more}
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def read_content(content: Any, where: str) -> str:
    """A content as text: text as it is, the texts of a list of parts, or the JSON of an object (what a tool gave)."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False)
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise UserError(f"{where} has a content of {type(content).__name__}; it must be text, or parts that have a text")
