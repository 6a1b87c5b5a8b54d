"""What the browser keeps, saves to files and reads from them; and what it makes of files that nobody should trust."""

from __future__ import annotations

import json
from pathlib import Path

from tests.inference.page.desk import Desk, conversation

CHAT = "v1/chat/completions"


def test_conversations_are_kept_opened_and_deleted(desk: Desk) -> None:
    desk.pick("other")
    desk.say("first talk")
    answers = desk.answers()
    desk.page.click("#new")
    assert desk.page.locator(".turn").count() == 0
    desk.say("second talk")
    desk.page.reload()
    desk.ready()
    titles = desk.page.locator(".conversations .open")
    assert titles.all_inner_texts() == ["second talk", "first talk"]
    assert "second talk" in desk.page.inner_text(".prompt-text")  # the one that was open is open again
    titles.nth(1).click()
    assert desk.answers() == answers
    desk.page.locator(".token").first.hover()  # probabilities were kept, too
    assert desk.page.locator("#token-card").is_visible()
    desk.page.locator(".conversations li").nth(1).hover()
    desk.page.locator('[data-action="delete"]').nth(1).click()
    assert titles.all_inner_texts() == ["second talk"] and "first talk" in desk.dialogs[0]
    desk.page.reload()
    desk.ready()
    assert titles.all_inner_texts() == ["second talk"]


def test_a_saved_conversation_reads_back_the_same(desk: Desk) -> None:
    desk.pick("talker")
    desk.page.click("#compare")
    desk.pick("other", lane=1)
    desk.say("hello")
    shown = desk.answers()
    desk.page.click("#settings")
    with desk.page.expect_download() as saving:
        desk.page.click("text=Save as JSON")
    data = Path(saving.value.path()).read_bytes()
    saved = json.loads(data)
    assert saving.value.suggested_filename == "hello.json"
    assert [[tries[0]["text"] for tries in turn["answers"]] for turn in saved["turns"]] == [shown]
    desk.page.click("#new")
    desk.import_conversation(data)
    desk.page.wait_for_selector(".turn")
    assert desk.answers() == shown
    with desk.page.expect_download() as saving:
        desk.page.click("text=Save as JSON")
    again = json.loads(Path(saving.value.path()).read_bytes())
    assert {**again, "id": 0, "changed": 0} == {**saved, "id": 0, "changed": 0}


def test_a_conversation_is_saved_as_markdown(desk: Desk) -> None:
    desk.import_conversation({**conversation("It is **two**.", prompt="1 + 1?\nquick"), "system": "be right"})
    with desk.page.expect_download() as saving:
        desk.page.click("text=Save as Markdown")
    assert Path(saving.value.path()).read_text() == (
        "# 1 + 1?\n\n**System**\n\n> be right\n\n**You**\n\n> 1 + 1?\n> quick\n\n**talker**\n\nIt is **two**.\n"
    )


def test_messages_of_openais_form_are_read(desk: Desk) -> None:
    desk.pick("other")
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
    ]
    desk.import_conversation({"messages": messages})
    desk.page.wait_for_selector(".turn")
    desk.say("three")
    assert desk.asked(CHAT)[0]["messages"] == [*messages, {"role": "user", "content": "three"}]


def test_files_that_hold_no_conversation_are_refused_with_a_reason(desk: Desk) -> None:
    for data, reason in (
        (b"{", "no JSON"),
        (b"[]", "no message"),
        (b'{"a": 1}', "no conversation"),
        (b"null", "no conversation"),
    ):
        desk.import_conversation(data)
        desk.page.wait_for_selector(f'.toast:has-text("{reason}")')
    assert desk.page.locator(".conversations .open").count() == 0


def test_a_file_full_of_nonsense_harms_nothing(desk: Desk) -> None:
    """Wrong types everywhere, and markup in every text that is shown."""
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    bad = conversation(evil, prompt=evil, lanes=(evil, evil))
    bad["title"] = evil
    bad["turns"][0]["answers"][0][0] |= {
        "error": evil,
        "finish": evil,
        "seed": evil,
        "stats": {"tokens": evil, "first": "1"},
        "tokens": [{"piece": evil, "logprob": -1, "top": [[evil, -1], [1, 2], 3]}, None, {"piece": 1}],
    }
    bad["turns"] += [None, 3, {"prompt": {}, "answers": {}, "chosen": "x"}, {"answers": [[{}]], "chosen": [9]}]
    desk.import_conversation(bad)
    desk.page.wait_for_selector(".turn")
    assert desk.page.locator(".prompt-text").first.inner_text() == evil
    assert desk.page.locator("#thread img, #thread script, .conversations img").count() == 0
    desk.page.locator(".token").first.hover()
    assert evil.replace(" ", "␣") in desk.page.inner_text("#token-card")


def test_room_is_bounded_and_the_oldest_go_first(desk: Desk) -> None:
    """By number, and by size: first the probabilities of old conversations go, then these themselves."""
    result = desk.probe("fillStorage")
    many, large, larger, end = (dict(map(tuple, result[name]["kept"])) for name in ("many", "large", "larger", "end"))
    assert list(many) == list(range(129, 29, -1))
    assert large[203] == 600 and large[200] == 0
    assert max(larger) == 309 and list(larger) == sorted(larger, reverse=True) and 200 not in larger
    assert result["last"] and end == {400: 0, 309: 0}
    assert max(result[name]["size"] for name in ("many", "large", "larger", "end")) <= 2_000_000
