"""Preferences in the forms that are about, read alike, and written in one that TRL reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.posttrain.gather_preferences import gather_preferences
from herdbook.posttrain.preference_settings import PreferencesSettings
from herdbook.posttrain.preferences import read_preference, read_preferences
from herdbook.settings import UserError
from tests.posttrain.conftest import Write

content = st.text(min_size=1, max_size=20)
prompts = st.lists(content, min_size=1, max_size=4).map(
    lambda texts: [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
)
answers = st.lists(content, min_size=2, max_size=3, unique=True)


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@given(prompts, answers)
def test_every_form_of_a_dialog_is_read_as_the_same_preference(prompt: list[Any], texts: list[str]) -> None:
    names = ("chosen", "rejected", "edited")
    explicit: dict[str, Any] = {"prompt": prompt, **{name: said(text) for name, text in zip(names, texts)}}
    implicit = {name: [*prompt, *said(text)] for name, text in zip(names, texts)}
    found = [read_preference(row, "here") for row in (explicit, implicit)]
    assert found[0] == found[1]
    chosen, rejected, *edited = map(said, texts)
    assert found[0].prompt == prompt and found[0].answers == (*edited, chosen, rejected)
    assert found[0].ranks == (2, 1, 0)[-len(texts) :]


words_of = st.lists(st.text("ab", min_size=1, max_size=3), min_size=2, max_size=5)


@given(words_of, st.lists(st.text("ab", min_size=1), min_size=2, max_size=2, unique=True))
def test_texts_part_at_the_beginning_of_a_word(words: list[str], ends: list[str]) -> None:
    prompt = " ".join(words) + " "
    found = read_preference({"chosen": prompt + ends[0], "rejected": prompt + ends[1]}, "here")
    parts = [found.prompt[0]["content"] + answer[0]["content"] for answer in found.answers]
    assert parts == [prompt + end for end in ends]
    assert found.prompt[0]["content"] == prompt


def test_trl_finds_the_same_prompt_in_dialogs_without_one() -> None:
    from trl import extract_prompt

    prompt = [*asked("Who?"), *said("Ewe."), *asked("No, who?")]
    row = {"chosen": [*prompt, *said("You.")], "rejected": [*prompt, *said("Who?")]}
    theirs, ours = extract_prompt(row), read_preference(row, "here")
    assert theirs == {"prompt": ours.prompt, "chosen": ours.answers[0], "rejected": ours.answers[1]}


def test_what_the_stage_writes_says_the_same_as_what_it_read(tmp_path: Path, write: Write) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Sure?", "chosen": "Yes.", "rejected": "No."},
        {
            "chosen": [{"role": "user", "content": "Sure?"}, *said("Yes.")],
            "rejected": [{"role": "user", "content": "Sure?"}, *said("No.")],
        },
        {
            "prompt": "Sure?",
            "chosen": "Yes!",
            "rejected": "No.",
            "edited": said("Yes, sure."),
            "strength": "better",
            "round": 2,
        },
        {"prompt": "Sure?", "completion": "Yes.", "label": True},
        {"prompt": "Sure?", "chosen": "Yes.", "rejected": ""},
    ]
    source = write("some", rows, "any")
    settings = PreferencesSettings(files=(source / "any",))
    found = gather_preferences(settings, tmp_path / "out")
    assert found == {
        "preferences": 3,
        "dropped": {"empty": 1, "repeated": 1},
        "strengths": {"not told": 2, "better": 1},
    }
    first = list(read_preferences([source / "any"]))
    again = list(read_preferences([tmp_path / "out"]))
    wanted = [first[0], first[2], first[3]]
    for one, other in zip(again, wanted, strict=True):
        assert (one.prompt, one.answers, one.ranks) == (other.prompt, other.answers, other.ranks)
        assert (one.strength, one.round) == (other.strength, other.round)


def test_mixed_and_missing_parts_are_told() -> None:
    for row, message in (
        ({"chosen": "Yes.", "rejected": said("No.")}, "different types"),
        ({"chosen": said("Yes."), "rejected": said("No.")}, "there is no prompt"),
        ({"prompt": [{"content": "Sure?"}], "chosen": "Yes.", "rejected": "No."}, "prompt, message 0"),
        ({"prompt": 3, "chosen": "Yes.", "rejected": "No."}, "neither text nor a list"),
    ):
        with pytest.raises(UserError, match=message):
            read_preference(row, "here")
