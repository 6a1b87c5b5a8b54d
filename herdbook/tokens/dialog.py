"""The Llama 3 chat format (§4.1.1) as code, and the same as the template that our model folders carry.

A message is `<|start_header_id|>role<|end_header_id|>`, an empty line, the content without blanks around it, and
`<|eot_id|>`. Each part is tokenised by itself, so that no merge crosses from a prompt into an answer. Unlike a
template, which pastes strings together, code can keep a `<|eot_id|>` that a user typed as the text it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from herdbook.settings import UserError
from herdbook.tokens.tokenizer import END_HEADER, START_HEADER

if TYPE_CHECKING:
    from herdbook.tokens.tokenizer import Tokenizer

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "ipython": "ipython", "tool": "ipython"}
"""Each role that a message may have, and the name that stands in its header."""

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = 'ipython' if message['role'] == 'tool' else message['role'] -%}
{%- if role not in ['system', 'user', 'assistant', 'ipython'] -%}
{{- raise_exception('unknown role ' + role) -}}
{%- endif -%}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + (message['content'] | trim) + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""


@dataclass
class DialogTokens:
    """A dialog as ids, and for each id whether the assistant has to produce it (its contents and `<|eot_id|>`s)."""

    ids: list[int]
    answer: list[bool]

    bytes: int = 0
    """Text of the answers, in UTF-8."""

    def add(self, ids: list[int], answer: bool = False) -> None:
        """Append `ids`, all of them answer or none."""
        self.ids += ids
        self.answer += [answer] * len(ids)


def encode_dialog(
    tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], generation_prompt: bool = False
) -> DialogTokens:
    """Tokens of messages `{"role", "content"}`; with `generation_prompt` the assistant's header follows.

    Raises `UserError` that names the message by its position when it is not such a message.
    """
    special, tokens = tokenizer.special_tokens, DialogTokens([], [])
    tokens.add([tokenizer.bos_id])
    for position, message in enumerate(messages):
        role, content = read_message(message, position)
        answer = role == "assistant"
        tokens.add(encode_header(tokenizer, role))
        tokens.add([*tokenizer.encode(content), special["<|eot_id|>"]], answer)
        tokens.bytes += len(content.encode("utf-8", "surrogatepass")) if answer else 0
    if generation_prompt:
        tokens.add(encode_header(tokenizer, "assistant"))
    return tokens


def encode_header(tokenizer: Tokenizer, role: str) -> list[int]:
    """The ids that open a message of `role`."""
    special = tokenizer.special_tokens
    return [special[START_HEADER], *tokenizer.encode(role), special[END_HEADER], *tokenizer.encode("\n\n")]


def read_message(message: Any, position: int) -> tuple[str, str]:
    """The header's role and the content without blanks around it."""
    where = f"message {position}"
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise UserError(f"{where} is {message!r:.80}; a message is {{'role': …, 'content': …}}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise UserError(f"{where} has the role {role!r}; roles are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise UserError(f"{where} has a content of {type(content).__name__}; it must be text")
    return ROLES[role], content.strip()
