"""The conversation in the terminal: formats, commands, interruption, and what happens at the context's end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from herdbook.inference.chat import ChatSettings, chat, printable
from herdbook.inference.engine import Engine
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()


class Talk:
    """Runs a conversation on scripted lines; keeps what was shown and what the engine was asked."""

    def __init__(
        self, lines: Sequence[str | type[BaseException]], settings: ChatSettings, *, taught: bool = True
    ) -> None:
        ends = [TOKENIZER.eos_id, TOKENIZER.eot_id] if taught else [TOKENIZER.eos_id]
        self.engine = Engine(tiny_model(vocab_size=TOKENIZER.vocab_size), TOKENIZER, ends)
        self.prompts: list[str] = []
        self.interrupt = False
        self.shown = ""
        self.lines = iter(lines)
        self.engine.stream_counted = self.stream  # type: ignore[method-assign, assignment]
        chat(self.engine, settings, read=self.read, write=self.write)

    def read(self, _: str) -> str:
        line = next(self.lines, EOFError)
        if not isinstance(line, str):
            raise line
        self.interrupt = line == "interrupt"
        return line

    def write(self, text: str) -> None:
        self.shown += text

    def stream(self, prompt: list[int], _: Any) -> Iterator[tuple[str, int]]:
        self.prompts.append(TOKENIZER.decode(prompt))
        yield "mo", 1
        if self.interrupt:
            raise KeyboardInterrupt
        yield "o", 2


def test_a_taught_model_is_asked_in_the_chat_format_and_remembers() -> None:
    talk = Talk(["hi", "more"], ChatSettings(max_tokens=8))
    start, end = "<|start_header_id|>", "<|end_header_id|>\n\n"
    first = f"<|begin_of_text|>{start}user{end}hi<|eot_id|>{start}assistant{end}"
    assert talk.prompts == [first, f"{first}moo<|eot_id|>{start}user{end}more<|eot_id|>{start}assistant{end}"]
    assert "moo\n[2 tokens, " in talk.shown and "tokens/s]" in talk.shown


def test_a_base_model_goes_on_with_the_text() -> None:
    talk = Talk(["Question: 1+1\\nAnswer:", "again"], ChatSettings(), taught=False)
    assert talk.prompts == ["<|begin_of_text|>Question: 1+1\nAnswer:", "<|begin_of_text|>again"]
    assert "text continuation" in talk.shown


@pytest.mark.parametrize(("mode", "taught", "chats"), [("raw", True, False), ("chat", False, True)])
def test_the_mode_can_be_chosen(mode: Any, taught: bool, chats: bool) -> None:
    talk = Talk(["hi"], ChatSettings(mode=mode, max_tokens=8), taught=taught)
    assert ("<|eot_id|>" in talk.prompts[0]) == chats


def test_ctrl_c_ends_the_answer_not_the_program() -> None:
    talk = Talk(["interrupt", KeyboardInterrupt, "next"], ChatSettings(max_tokens=8))
    assert "mo\n[stopped, 1 tokens" in talk.shown
    assert "[/quit or Ctrl-D leaves]" in talk.shown
    assert "mo<|eot_id|>" in talk.prompts[1] and "next" in talk.prompts[1]


def test_commands() -> None:
    talk = Talk(["/help", "hi", "/reset", "", "/nope", "new", "/quit", "never"], ChatSettings(max_tokens=8))
    assert "forget the dialog" in talk.shown and "no command /nope" in talk.shown
    assert len(talk.prompts) == 2 and "hi" not in talk.prompts[1]


def test_the_oldest_turns_go_when_the_context_is_full() -> None:
    talk = Talk(["first" + "x" * 30, "second" + "x" * 30, "third"], ChatSettings(system="be", max_tokens=8))
    assert "[the dialog outgrew the model's context: the 1 oldest turns are forgotten]" in talk.shown
    assert "first" not in talk.prompts[2] and "second" in talk.prompts[2] and "be<|eot_id|>" in talk.prompts[2]
    long = Talk(["y" * 200, "ok"], ChatSettings(max_tokens=8))
    assert "say it shorter" in long.shown and len(long.prompts) == 1 and "y" * 9 not in long.prompts[0]


def test_a_long_text_keeps_its_end() -> None:
    talk = Talk(["a" * 100 + "b" * 100], ChatSettings(max_tokens=28), taught=False)
    assert "only the last 99 of its 200 tokens fit" in talk.shown
    assert talk.prompts == ["<|begin_of_text|>" + "b" * 99]


def test_a_real_engine_can_be_talked_to() -> None:
    engine = Engine(tiny_model(vocab_size=TOKENIZER.vocab_size), TOKENIZER)
    lines, shown = iter(["hello"]), []

    def read(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    chat(engine, ChatSettings(max_tokens=5, seed=1), read=read, write=shown.append)
    assert any(text.startswith("\n[5 tokens") for text in shown)


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\rc\x9bd\te\n") == "a[2Jbcd\te\n"
