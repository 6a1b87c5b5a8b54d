"""Asking a writer to judge: prompts are text files beside this one, replies are read strictly or count as none.

A folder of one's own may stand in for ours: a file of the same name in it is taken instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from herdbook.inference.sampler import Sampling
from herdbook.posttrain.writer import Writer
from herdbook.settings import UserError

PROMPTS = Path(__file__).with_name("prompts")
T = TypeVar("T")

_FIELD = re.compile(r"\{([a-z_]+)\}")
_GRADE = re.compile(r"^\W*grade\W{0,8}(\d+)\W*(?:/\s*\d+\W*)?$", re.IGNORECASE | re.MULTILINE)
_VERDICT = re.compile(r"^\W*verdict\W{0,8}([a-z][a-z -]*[a-z])\W*$", re.IGNORECASE | re.MULTILINE)
_INTENTS = re.compile(r"^\W*intents?\W{0,8}([^\n]+)$", re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[ \t]*\n(.*?)```", re.DOTALL)


class Prompts:
    """Our prompts, or those of a folder where it has a file of that name."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        if folder is not None and (unknown := {path.name for path in folder.glob("*.txt")} - set(prompt_files())):
            raise UserError(
                f"prompts {folder}: no prompt is called {', '.join(sorted(unknown))}; there are "
                + ", ".join(prompt_files())
            )

    def text(self, name: str) -> str:
        """A prompt as it was written, with its {places}."""
        own = self.folder / f"{name}.txt" if self.folder is not None else None
        path = own if own is not None and own.is_file() else PROMPTS / f"{name}.txt"
        return path.read_text(encoding="utf-8").strip()

    def fill(self, name: str, **fields: str) -> str:
        """A prompt with its places filled; braces within what is filled in stay as they are."""
        text = self.text(name)
        places = set(_FIELD.findall(text))
        if missing := sorted(set(fields) - places):
            raise UserError(f"prompt {name}: it has no place {{{missing[0]}}}; it needs {', '.join(sorted(fields))}")
        return _FIELD.sub(lambda match: fields.get(match[1], match[0]), text)


def prompt_files() -> list[str]:
    """The names of our prompts' files."""
    return sorted(path.name for path in PROMPTS.glob("*.txt"))


def ask(
    writer: Writer,
    prompts: Sequence[str],
    read: Callable[[str], T | None],
    count: Counter[str],
    max_tokens: int = 300,
    tries: int = 2,
) -> list[T | None]:
    """What `read` makes of the writer's reply to each prompt; None where it stays nonsense after `tries`.

    `count` is told how many were `asked` and how many of them stayed `nonsense`.
    """
    found: list[T | None] = [None] * len(prompts)
    dialogs = [[{"role": "user", "content": prompt}] for prompt in prompts]
    left = list(range(len(prompts)))
    for _ in range(tries):
        replies = writer.write([dialogs[place] for place in left], Sampling(max_tokens=max_tokens))
        again = []
        for place, some in zip(left, replies, strict=True):
            if not some:
                continue  # it does not fit, or the endpoint gave none: asking again the same way helps nobody
            found[place] = read(some[0].text)
            if found[place] is None:
                wrong = {"role": "assistant", "content": some[0].text[:2000] or "…"}
                reminder = {"role": "user", "content": "Answer again, with nothing but the line that was asked for."}
                dialogs[place] = [*dialogs[place][:1], wrong, reminder]
                again.append(place)
        left = again
        if not left:
            break
    count["asked"] += len(prompts)
    count["nonsense"] += sum(one is None for one in found)
    return found


def read_grade(low: int, high: int) -> Callable[[str], int | None]:
    """A reader of the line `Grade: N`, the last one; None for one outside `low` … `high`."""

    def read(reply: str) -> int | None:
        found = _GRADE.findall(reply)
        return int(found[-1]) if found and low <= int(found[-1]) <= high else None

    return read


def read_verdict(*names: str) -> Callable[[str], str | None]:
    """A reader of the line `Verdict: NAME`, the last one; None for a name that was not offered."""

    def read(reply: str) -> str | None:
        found = [" ".join(one.lower().split()) for one in _VERDICT.findall(reply)]
        return found[-1] if found and found[-1] in names else None

    return read


def read_intents(reply: str) -> tuple[str, ...] | None:
    """The different intents of the line `Intents: a; b; c`; None where there is no such line."""
    found = _INTENTS.findall(reply)
    names = [one.strip(" .*\"'`").lower() for one in re.split(r"[;,]", found[-1])] if found else []
    return tuple(dict.fromkeys(name for name in names if name)) or None


def fences(reply: str) -> list[tuple[str, str]]:
    """All blocks of code of a reply: the language each names, and its text."""
    return [(str(tag), str(code)) for tag, code in _FENCE.findall(reply)]


def fenced(reply: str, language: str = "") -> str | None:
    """The first block of code of a reply, of the language if one is named; without fences the whole reply."""
    blocks = _FENCE.findall(reply)
    named = [code for tag, code in blocks if language and tag.lower() in (language, language[:2])]
    if named or blocks:
        return str((named or [code for _, code in blocks])[0]).strip("\n")
    plain = reply.strip("\n")
    return plain if plain.strip() and "```" not in plain else None
