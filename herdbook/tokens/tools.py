"""Tools in the Llama 3 format (§4.3.5): how functions are told to a model, and how its calls are read.

Functions stand as JSON in the first user message, a call is an answer `{"name": …, "parameters": {…}}` (several with
`; ` between them) that ends with `<|eom_id|>`, and what a call gave comes back under the role `ipython`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from herdbook.settings import UserError

ENVIRONMENT = "Environment: ipython"
CALL_BEGINS = '{"name": '  # what an answer begins with that calls a tool
# The words that Llama 3.1 was taught with; another wording would be another prompt.
ASK = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    'answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of argument '
    "name and its value}. Do not use variables.\n\n"
)


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    name: str
    arguments: dict[str, Any]


def with_tools(
    messages: Sequence[dict[str, str]],  # role, content
    tools: Sequence[dict[str, Any]] | None,  # OpenAI's: type, function {name, description, parameters}
) -> list[dict[str, str]]:
    """The dialog with the functions told: the environment in the system message, the functions before the first user's
    words (or in the system message when no user has spoken). Further keys of messages stay."""
    if not tools:
        return list(messages)
    told = ASK + "".join(json.dumps(tool, indent=4, ensure_ascii=False) + "\n\n" for tool in tools)
    head, rest = "", list(messages)
    if rest and rest[0]["role"] == "system":
        head = rest.pop(0)["content"]
    first = next((place for place, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        head = f"{head}\n\n{told}".strip()
    else:
        rest[first] = {**rest[first], "content": told + rest[first]["content"]}
    return [{"role": "system", "content": f"{ENVIRONMENT}\n\n{head}".strip()}, *rest]


def call_text(calls: Iterable[Call]) -> str:
    """Calls as the assistant writes them."""
    return "; ".join(
        json.dumps({"name": call.name, "parameters": call.arguments}, ensure_ascii=False) for call in calls
    )


def given_calls(tool_calls: Any) -> list[Call]:
    """A message's `tool_calls` as OpenAI has them (`function` with `name` and `arguments`, an object or its JSON text),
    or flat; UserError for anything else."""
    if not isinstance(tool_calls, list | tuple):
        raise UserError(f"tool_calls is {tool_calls!r:.60}; it must be a list of calls")
    calls = []
    for given in tool_calls:
        function = given.get("function", given) if isinstance(given, dict) else given
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UserError(f"the call {given!r:.80} has no function with a name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                arguments = None
        if not isinstance(arguments, dict):
            raise UserError(f"the arguments of the call {function['name']!r:.80} are no JSON object")
        calls.append(Call(function["name"], arguments))
    return calls


def answer_message(text: str, tools: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """What a model wrote as the assistant's message: with `tool_calls` when it calls some of `tools`, else words."""
    names = {tool.get("function", tool).get("name") for tool in tools or ()}
    calls = read_calls(text, names) if names else None
    if not calls:
        return {"role": "assistant", "content": text}
    written = [{"type": "function", "function": {"name": one.name, "arguments": one.arguments}} for one in calls]
    return {"role": "assistant", "content": None, "tool_calls": written}


def may_be_call(text: str) -> bool:
    """Whether an answer that begins so can still turn out to be a call."""
    return text.lstrip()[:1] in ("", "{")


def read_calls(text: str, names: Collection[str]) -> list[Call] | None:
    """The calls that an answer consists of, or None when it is anything else.

    Each is a JSON object with a known `name` and `parameters` (or `arguments`) that are an object.
    """
    decoder, calls, text = json.JSONDecoder(), [], text.strip()
    while text:
        try:
            read, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(read, dict) or not isinstance(read.get("name"), str) or read["name"] not in names:
            return None
        arguments = read.get("parameters", read.get("arguments"))
        if not isinstance(arguments, dict):
            return None
        calls.append(Call(read["name"], arguments))
        text = text[end:].lstrip().removeprefix(";").lstrip()
    return calls or None


def calls_schema(functions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The JSON schema of one call of one of these functions (OpenAI's: name, parameters)."""
    definitions, calls = {}, []
    for place, function in enumerate(functions):
        own = f"function{place}"
        parameters = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
        definitions[own] = _moved(parameters, f"#/$defs/{own}")
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "parameters": {"$ref": f"#/$defs/{own}"}},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    return {"$defs": definitions, "anyOf": calls}


def _moved(schema: Any, root: str) -> Any:
    """A schema that stands at `root` of another: what it refers to within itself is still found."""
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved
