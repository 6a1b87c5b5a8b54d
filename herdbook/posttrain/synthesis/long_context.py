"""Dialogs over long contexts (§4.3.4): questions made from a piece and asked of the whole; summaries of summaries.

Contexts are single documents where these are long enough, and else several, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from herdbook.evaluate.answers import holds_text
from herdbook.posttrain.probe_questions import read_question
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.desk import Desk, assistant, need, user
from herdbook.posttrain.synthesis.text_settings import LongSettings
from herdbook.tokens.texts import draw

ASK_SUMMARY = "Summarise the text above."


def make(settings: LongSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs that begin with a long context, and how many questions and summaries came out."""
    texts = need(desk.all_texts(), "long is fed no documents")
    whole = contexts([text for _, text in texts], settings)[: settings.count]
    need(whole, f"long: all documents together are shorter than a context of {min(settings.characters):,} characters")
    summed = [draw(str(number), f"long-{desk.seed}") < settings.summaries for number in range(len(whole))]
    asked = [(number, text) for number, text in enumerate(whole) if not summed[number]]
    questions = ask_about(asked, settings, desk)
    summaries = summarise([(number, text) for number, text in enumerate(whole) if summed[number]], settings, desk)
    figures = {
        "contexts": len(whole),
        "characters": sum(map(len, whole)),
        "questions": len(questions),
        "no_question": len(asked) - len(questions),
        "summaries": len(summaries),
    }
    return [*questions, *summaries], figures


def contexts(texts: Sequence[str], settings: LongSettings) -> list[str]:
    """Contexts of the wanted lengths in turn, made of whole documents but the last, which is cut; each is read once."""
    found: list[str] = []
    held = ""
    for text in texts:
        held = f"{held}\n\n{text}" if held else text
        while len(held) >= (size := settings.characters[len(found) % len(settings.characters)]):
            found.append(held[:size])
            held = held[size:] if len(held) > 2 * size else ""
    return found


def pieces_of(text: str, size: int) -> list[str]:
    """A text in pieces of at most `size` characters, cut at line ends where there are some."""
    found, start = [], 0
    while start < len(text):
        end = min(start + size, len(text))
        line = text.rfind("\n", start + size // 2, end) if end < len(text) else -1
        end = line + 1 if line > 0 else end
        found.append(text[start:end])
        start = end
    return found


def ask_about(whole: Sequence[tuple[int, str]], settings: LongSettings, desk: Desk) -> list[Row]:
    """A question from a piece of each context, answered from the piece; kept where the answer holds the fact."""
    chosen = [desk.pick(pieces_of(text, settings.piece), f"{number}") for number, text in whole]
    prompts = [desk.prompts.fill("probe_question", excerpt=piece) for piece in chosen]
    made = desk.ask(prompts, read_question)
    ready = [place for place, one in enumerate(made) if one]
    told = [
        desk.prompts.fill("long_answer", excerpt=chosen[place], question=made[place][0])  # type: ignore[index]
        for place in ready
    ]
    answers = desk.write([[user(one)] for one in told], settings)
    rows = []
    for place, some in zip(ready, answers, strict=True):
        question, fact = made[place] or ("", "")
        if some and some[0].ended and holds_text(some[0].text, fact):
            number, text = whole[place]
            messages = [user(f"{text}\n\n{question}"), assistant(some[0].text.strip())]
            rows.append({"id": f"{number}", "task": "long_context", "messages": messages, "characters": len(text)})
    return rows


def summarise(whole: Sequence[tuple[int, str]], settings: LongSettings, desk: Desk) -> list[Row]:
    """A summary of the summaries of each context's pieces."""
    parts = [(place, piece) for place, (_, text) in enumerate(whole) for piece in pieces_of(text, settings.piece)]
    texts = dict.fromkeys(range(len(whole)), "")
    asked = [[user(desk.prompts.fill("long_summary", excerpt=piece))] for _, piece in parts]
    lost: set[int] = set()
    for (place, _), some in zip(parts, desk.write(asked, settings), strict=True):
        if some and some[0].ended:
            texts[place] = f"{texts[place]}\n{some[0].text.strip()}".strip()
        else:
            lost.add(place)  # a summary that leaves out a piece is none of the whole
    ready = [place for place in texts if place not in lost and texts[place]]
    again = [[user(desk.prompts.fill("long_summary", excerpt=texts[place]))] for place in ready]
    rows = []
    for place, some in zip(ready, desk.write(again, settings), strict=True):
        if some and some[0].ended and some[0].text.strip():
            number, text = whole[place]
            messages = [user(f"{text}\n\n{ASK_SUMMARY}"), assistant(some[0].text.strip())]
            rows.append({"id": f"{number}", "task": "long_context", "messages": messages, "characters": len(text)})
    return rows
