"""Talk with a model in the terminal, its answers appearing as they are written.

A model that was taught to chat is asked in Llama 3's chat format and remembers the dialog; a base model goes
on with the text it is given. Which of the two a model is, its folder says: one that ends its turns names
`<|eot_id|>` among its ends (`Engine.knows_chat`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from herdbook.inference.engine import Engine
from herdbook.inference.layout import Layout
from herdbook.inference.sampler import Sampling
from herdbook.settings import Settings, UserError

HELP = """/reset  forget the dialog
/help   these lines
/quit   leave (so does Ctrl-D)
Ctrl-C  stop the answer that is being written"""
HELP_RAW = "The model goes on with what you type; write \\n for a new line."


class ChatSettings(Settings):
    """How a conversation in the terminal is led."""

    mode: Literal["auto", "chat", "raw"] = "auto"
    """chat: Llama 3's chat format; raw: go on with the text; auto: chat if the model was taught to."""

    system: str = ""
    """What the model is told before the dialog; chat only."""

    max_tokens: int = Field(default=512, ge=1)
    """Longest answer, tokens."""

    temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature; 0 takes the likeliest token always."""

    top_p: float = Field(default=0.95, gt=0, le=1)
    """Draw among the fewest likeliest tokens whose probabilities reach this sum."""

    seed: int | None = None
    """Makes a conversation repeatable; drawn from the clock when not given."""

    layout: Layout = Layout()
    """How the model lies over several processes."""


def write_out(text: str) -> None:
    """Show a piece of text at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


class Conversation:
    """One conversation: what was said, and what of it still fits the model's context."""

    def __init__(
        self,
        engine: Engine,
        settings: ChatSettings,
        write: Callable[[str], None] = write_out,
    ) -> None:
        self.engine, self.settings, self.write = engine, settings, write
        self.chats = engine.knows_chat if settings.mode == "auto" else settings.mode == "chat"
        self.room = min(settings.max_tokens, max(1, engine.limit // 4))  # kept free for the answer
        self.first_seed = time.time_ns() % 2**31 if settings.seed is None else settings.seed
        self.said = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.messages: list[dict[str, str]] = []

    def answer(self, line: str) -> None:
        """Answer one line of the user, writing the answer as it comes; Ctrl-C ends the answer only."""
        prompt = self._chat_prompt(line) if self.chats else self._raw_prompt(line)
        self.said += 1
        sampling = Sampling(
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop_ids=(self.engine.tokenizer.eot_id,) if self.chats else (),
            seed=self.first_seed + self.said,
        )
        text, tokens, start = "", 0, time.perf_counter()
        try:
            for piece, count in self.engine.stream_counted(prompt, sampling):
                text, tokens = text + piece, count
                self.write(printable(piece))
            note = ""
        except KeyboardInterrupt:
            note = "stopped, "
        seconds = max(time.perf_counter() - start, 1e-9)
        self.write(f"\n[{note}{tokens} tokens, {tokens / seconds:.1f} tokens/s]\n")
        if self.chats:
            self.messages.append({"role": "assistant", "content": text})

    def _chat_prompt(self, line: str) -> list[int]:
        """The dialog with the new line as tokens; the oldest turns go when it would not fit."""
        messages = [*self.messages, {"role": "user", "content": line}]
        head = [{"role": "system", "content": self.settings.system}] if self.settings.system else []
        dropped = 0
        ids = self.engine.tokenizer.chat(head + messages)
        while len(ids) + self.room > self.engine.limit and len(messages) > 1:
            messages = messages[2:]  # a turn of the user's and its answer
            dropped += 1
            ids = self.engine.tokenizer.chat(head + messages)
        if len(ids) + self.room > self.engine.limit:
            raise UserError(
                f"that makes {len(ids)} tokens; with {self.room} kept for the answer "
                f"the model's context of {self.engine.limit} cannot hold it: say it shorter"
            )
        if dropped:
            self.write(f"[the dialog outgrew the model's context: the {dropped} oldest turns are forgotten]\n")
        self.messages = messages
        return ids

    def _raw_prompt(self, line: str) -> list[int]:
        """The line as tokens; its beginning goes when it would not fit."""
        ids = self.engine.tokenizer.encode(line.replace("\\n", "\n"))
        most = max(1, self.engine.limit - self.room - 1)
        if len(ids) > most:
            self.write(f"[only the last {most} of its {len(ids)} tokens fit the model's context]\n")
            ids = ids[-most:]
        return [self.engine.tokenizer.bos_id, *ids]


def chat(
    engine: Engine,
    settings: ChatSettings | None = None,
    *,
    read: Callable[[str], str] = input,
    write: Callable[[str], None] = write_out,
) -> None:
    """Lead a conversation until /quit or the end of the input; `read` asks for a line, `write` shows a piece."""
    conversation = Conversation(engine, settings or ChatSettings(), write)
    kind = "chat" if conversation.chats else "text continuation"
    parameters = engine.model.config.parameters()
    write(f"{parameters / 1e6:,.1f}M parameters, context {engine.limit:,} tokens, {kind}; /help for help\n")
    if not conversation.chats:
        write(HELP_RAW + "\n")
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n[/quit or Ctrl-D leaves]\n")
            continue
        match line:
            case "":
                continue
            case "/quit" | "/exit":
                return
            case "/reset":
                conversation.reset()
                write("[the dialog is forgotten]\n")
            case "/help":
                write(HELP + "\n" + ("" if conversation.chats else HELP_RAW + "\n"))
            case _ if line.startswith("/") and line[1:].isalpha():
                write(f"[no command {line}; /help shows them]\n")
            case _:
                try:
                    conversation.answer(line)
                except UserError as error:
                    write(f"[{error}]\n")


def printable(text: str) -> str:
    """The text without control characters: a model must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0))
