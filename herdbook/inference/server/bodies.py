"""What may be asked: the bodies of requests, OpenAI's fields and those of vLLM's that we have too.

A field we do not know is refused, for an answer drawn without it would be another one. Fields that change no answer
(`user`, `metadata`, `store`, …) are taken and have no effect; so is null, which means "not given".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_LOGPROBS = 20
MOST_STOPS = 64

Token = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=1 << 24)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class Body(BaseModel):
    """Strict types, no unknown fields, no NaN."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class StreamOptions(Body):
    """What a stream tells besides."""

    include_usage: bool | None = None
    """Whether the last chunk counts the tokens."""

    include_obfuscation: bool | None = None
    """No effect: nothing is ever added to chunks."""


class Asked(Body):
    """What both kinds of answers can be asked with."""

    model: str | None = None
    """Which model; may be left out when one alone is served."""

    temperature: float | None = Field(default=None, ge=0, le=100)
    """Sampling temperature (1); 0 takes the likeliest token always."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Draw among the fewest likeliest tokens whose probabilities reach this sum (1)."""

    top_k: int | None = Field(default=None, ge=-1)
    """Draw among this many likeliest tokens; 0 or -1 for all."""

    min_p: float | None = Field(default=None, ge=0, le=1)
    """Draw among tokens at least this likely relative to the likeliest (0)."""

    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Taken off the logit of every token drawn before (0)."""

    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Taken off a token's logit for every time it was drawn before (0)."""

    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    """Divides the logits of tokens of the prompt and the answer (1)."""

    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=1024)
    """Added to the logits of these tokens, by id."""

    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    """Texts that end the answer; they are not part of it."""

    stop_token_ids: Annotated[list[Token], Field(max_length=MOST_STOPS)] | None = None
    """Tokens that end the answer."""

    ignore_eos: bool | None = None
    """Whether to go on after a token that ends the answer."""

    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    """Makes an answer repeatable."""

    n: int | None = Field(default=None, ge=1, le=1024)
    """How many answers to each prompt (1)."""

    stream: bool | None = None
    """Whether to send the answer as it is written."""

    stream_options: StreamOptions | None = None
    """What the stream tells besides."""

    guided_json: dict[str, Any] | str | bool | None = None
    """A JSON schema that the answer keeps to."""

    guided_regex: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    """A regular expression that the whole answer matches."""

    guided_choice: Annotated[list[Stop], Field(min_length=1, max_length=1000)] | None = None
    """Texts of which the answer is one."""

    guided_grammar: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    """A Lark grammar that the answer keeps to."""

    user: Any = None
    """No effect."""
    metadata: Any = None
    """No effect."""
    store: Any = None
    """No effect."""
    service_tier: Any = None
    """No effect."""
    safety_identifier: Any = None
    """No effect."""
    prompt_cache_key: Any = None
    """No effect: every prompt's beginning is looked for in the cache."""
    prompt_cache_retention: Any = None
    """No effect."""

    @model_validator(mode="after")
    def _check(self) -> Asked:
        guides = [
            name for name in ("json", "regex", "choice", "grammar") if getattr(self, f"guided_{name}") is not None
        ]
        if len(guides) > 1:
            raise ValueError(f"guided_{guides[0]} and guided_{guides[1]} cannot both be given")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams only: set stream to true")
        return self


class CompletionBody(Asked):
    """`POST /v1/completions`: go on with a text."""

    prompt: Text | list[Text] | list[Token] | list[list[Token]] = Field(union_mode="left_to_right")
    """A text, its tokens, or a list of either; a text gets the begin-of-text token."""

    max_tokens: int | None = Field(default=None, ge=0)
    """Longest answer, tokens (16); 0 with echo only reads the prompt."""

    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    """Tell each token's log-probability, and those of this many likeliest tokens in its place."""

    echo: bool | None = None
    """Whether the answer begins with the prompt."""

    add_special_tokens: bool | None = None
    """Whether a text gets the begin-of-text token (true)."""

    best_of: Literal[1] | None = None
    """Only 1."""

    suffix: Literal[""] | None = None
    """Text after the answer is not offered."""

    @model_validator(mode="after")
    def _check_echo(self) -> CompletionBody:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0 and echo is off, so there is nothing to answer")
        return self


class ContentPart(Body):
    """A piece of a message's text."""

    type: Literal["text"]
    text: Text


class FunctionCall(Body):
    """A call as it stands in a message: arguments are JSON in a text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the assistant made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Any = None
    """No effect."""


class Message(Body):
    """One message of a dialog."""

    role: Literal["system", "developer", "user", "assistant", "tool", "ipython"]
    content: Text | list[ContentPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: Any = None
    """No effect."""
    refusal: Any = None
    """No effect, like what follows: parts of an answer that clients send back."""
    annotations: Any = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _check(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise ValueError("a message needs a content" + (" or tool_calls" if self.role == "assistant" else ""))
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant's messages have tool_calls")
        return self

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Function(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Any = None
    """No effect: a call that is forced (tool_choice) always keeps to the schema, a free one is only parsed."""


class Tool(Body):
    """A tool; only functions are."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    """A named JSON schema."""

    name: str
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    description: Any = None
    """No effect."""
    strict: Any = None
    """No effect: the schema is always kept to."""


class ResponseFormat(Body):
    """What form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given when, and only when, the type is json_schema")
        return self


class ChatBody(Asked):
    """`POST /v1/chat/completions`: answer a dialog."""

    messages: Annotated[list[Message], Field(min_length=1)]
    """The dialog."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, tokens; what the context leaves if left out."""

    max_completion_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's newer name for max_tokens."""

    logprobs: bool | None = None
    """Whether to tell each token's log-probability."""

    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    """With logprobs: those of this many likeliest tokens in its place too."""

    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    """Functions that the model may call."""

    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    """none: no call; auto: the model decides; required: one of the tools; or the one to call."""

    parallel_tool_calls: bool | None = None
    """false keeps only the first of several calls."""

    response_format: ResponseFormat | None = None
    """text, any JSON object, or JSON by a schema."""

    modalities: list[Literal["text"]] | None = None
    """Only text."""

    @model_validator(mode="after")
    def _check_chat(self) -> ChatBody:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given without logprobs: true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice is given without tools")
        if isinstance(self.tool_choice, NamedTool):
            names = [tool.function.name for tool in self.tools or ()]
            if self.tool_choice.function.name not in names:
                raise ValueError(
                    f"tool_choice names {self.tool_choice.function.name!r:.80}, which is none of the tools"
                )
        shaped = self.response_format is not None and self.response_format.type != "text"
        guided = any(getattr(self, f"guided_{name}") is not None for name in ("json", "regex", "choice", "grammar"))
        if shaped and guided:
            raise ValueError("response_format and guided_… cannot both be given")
        if (shaped or guided) and self.tools and self.tool_choice != "none":
            raise ValueError("a form of the answer and tools cannot both be asked for; set tool_choice to none")
        return self


class TokenizeBody(Body):
    """`POST /tokenize`: a text's or a dialog's tokens."""

    model: str | None = None
    prompt: Text | None = None
    """A text."""
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    """Or a dialog, which then ends with the assistant's header."""
    tools: list[Tool] | None = None
    """With a dialog: functions that the model may call."""
    add_special_tokens: bool | None = None
    """Whether a text gets the begin-of-text token (true)."""

    @model_validator(mode="after")
    def _check(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeBody(Body):
    """`POST /detokenize`: the text of tokens."""

    model: str | None = None
    tokens: list[Token]
