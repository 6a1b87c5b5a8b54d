"""Answers in the page: they are what the server gives, they can be stopped, repeated, compared and looked into."""

from __future__ import annotations

import codecs
import math
from typing import Any

from tests.inference.page.desk import SEED, Desk
from tests.support.servers import Running

CHAT = "v1/chat/completions"


def test_an_answer_appears_as_it_is_written(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, settings={"max_tokens": 800}) as desk:
        desk.pick("endless")
        desk.probe("watchLengths")
        desk.say("hello")
        assert len(desk.page.evaluate("[...window.lengths]")) > 3
        assert desk.answers() == [desk.text_of(desk.asked("v1/completions")[0])]


def test_an_answer_is_the_servers_with_its_figures(desk: Desk) -> None:
    desk.pick("talker")
    desk.say("hello")
    [body] = desk.asked(CHAT)
    assert body["messages"] == [{"role": "user", "content": "hello"}] and body["model"] == "talker"
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (1.0, SEED, 40)
    assert desk.answers() == [desk.text_of(body)] != [""]
    used = desk.fetch("tokenize", {"model": "talker", "messages": body["messages"]})["count"] + 40
    stats = desk.page.inner_text(".answer-foot")
    assert (
        "40 tokens" in stats and "tokens/s" in stats and f"context {used} of 4,096" in stats and f"seed {SEED}" in stats
    )
    assert f"context {used} of 4,096" in desk.page.inner_text("#meter")


def test_the_system_prompt_and_the_dialog_are_sent(desk: Desk) -> None:
    desk.pick("other")
    desk.page.click("#settings")
    desk.page.fill("#system", "be brief")
    desk.page.fill("#top_k", "7")
    desk.page.fill("#min_p", "0.05")
    desk.say("one")
    desk.say("two")
    first, second = desk.asked(CHAT)
    answer = desk.text_of(first)
    assert second["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "two"},
    ]
    assert (second["top_k"], second["min_p"]) == (7, 0.05)
    assert desk.answers() == [answer, desk.text_of(second)]


def test_escape_stops_an_answer_and_frees_the_server(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, settings={"max_tokens": 8000}) as desk:
        desk.pick("endless")
        desk.say("on and on", wait=False)
        desk.until("document.querySelector('.live .answer-text')?.textContent.length > 20")
        assert desk.page.inner_text("#send") == "Stop"
        desk.page.keyboard.press("Escape")
        desk.settle()
        assert "stopped" in desk.page.inner_text(".answer-foot") and desk.page.inner_text("#send") == "Go on"
        server.wait(lambda: server.service.loads["endless"].running == 0, 5)
        kept = desk.answers()[0]
        most = len(desk.page.evaluate("JSON.stringify({ ...localStorage })").split("logprob")) + 5
        assert len(kept) > 5 and most < 8000
        assert desk.text_of({**desk.asked("v1/completions")[0], "max_tokens": most}).startswith(kept)
        desk.say("again", wait=False)
        desk.page.wait_for_selector(".live .answer-text")
        desk.page.click("#send")  # the button stops, too
        desk.settle()
        assert desk.page.locator(".answer-foot:has-text('stopped')").count() == 2


def test_answering_again_takes_the_next_seed_and_keeps_the_first(desk: Desk) -> None:
    desk.pick("other")
    desk.say("hello")
    desk.page.click('[data-action="regenerate"]')
    desk.page.wait_for_selector("text=2/2")
    desk.settle()
    first, second = desk.asked(CHAT)
    assert second == {**first, "seed": SEED + 1}
    texts = [desk.text_of(first), desk.text_of(second)]
    assert texts[0] != texts[1] and desk.answers() == [texts[1]]
    desk.page.click('[aria-label="Earlier answer"]')
    assert desk.answers() == [texts[0]]
    desk.say("and?")
    assert desk.asked(CHAT)[2]["messages"][1]["content"] == texts[0]  # what is shown is what was said


def test_an_edited_message_is_sent_again_and_what_followed_is_forgotten(desk: Desk) -> None:
    desk.pick("other")
    desk.say("one")
    desk.say("two")
    desk.say("three")
    desk.page.locator(".turn").nth(1).hover()
    desk.page.locator('[data-action="edit"]').nth(1).click()
    assert "forgets the turn after it" in desk.page.inner_text(".prompt-edit")
    desk.page.fill(".prompt-edit textarea", "zwei")
    desk.page.press(".prompt-edit textarea", "Enter")
    desk.until("document.querySelectorAll('.turn').length === 2")
    desk.settle()
    bodies = desk.asked(CHAT)
    assert [message["content"] for message in bodies[-1]["messages"]][::2] == ["one", "zwei"]
    assert desk.answers() == [desk.text_of(bodies[0]), desk.text_of(bodies[-1])]


def test_a_message_can_be_edited_while_its_answer_is_written(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, settings={"max_tokens": 8000}) as desk:
        desk.pick("endless")
        desk.say("one", wait=False)
        desk.page.wait_for_selector(".live .answer-text")
        desk.page.press("#message", "ArrowUp")
        desk.page.fill(".prompt-edit textarea", "eins")
        desk.page.press(".prompt-edit textarea", "Enter")
        desk.page.wait_for_selector(".prompt-text:has-text('eins')")
        desk.until_asked("v1/completions", 2)
        desk.page.wait_for_selector(".live .answer-text")
        desk.page.keyboard.press("Escape")
        desk.settle()
        assert [body["prompt"] for body in desk.asked("v1/completions")] == ["one", "eins"]
        assert desk.page.locator(".turn").count() == 1
        server.wait(lambda: server.service.loads["endless"].running == 0, 10)


def test_two_models_side_by_side_are_asked_the_same(desk: Desk) -> None:
    desk.pick("talker")
    desk.page.click("#compare")
    desk.pick("other", lane=1)
    desk.say("hello")
    bodies = sorted(desk.asked(CHAT), key=lambda body: body["model"], reverse=True)
    assert [body["model"] for body in bodies] == ["talker", "other"]
    assert {**bodies[0], "model": ""} == {**bodies[1], "model": ""}
    assert desk.answers() == [desk.text_of(body) for body in bodies]
    left, right = (desk.page.locator(".lanes .answer").nth(index).bounding_box() for index in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    desk.say("more")  # each goes on from its own answer
    for body in desk.asked(CHAT)[2:]:
        assert body["messages"][1]["content"] == desk.text_of(bodies[["talker", "other"].index(body["model"])])


def test_a_base_model_goes_on_with_the_text(desk: Desk) -> None:
    desk.pick("plain")
    assert "goes on with the text" in desk.page.inner_text(".card")
    desk.say("Once upon")
    desk.page.fill("#message", "")
    desk.page.press("#message", "Enter")  # nothing more to say: go on
    desk.until("document.querySelectorAll('.turn').length === 2")
    desk.settle()
    first, second = desk.asked("v1/completions")
    texts = [desk.text_of(first), desk.text_of(second)]
    assert (first["prompt"], second["prompt"]) == ("Once upon", "Once upon" + texts[0])
    assert desk.answers() == texts


def test_an_answer_ends_before_the_stop_text(desk: Desk) -> None:
    desk.pick("plain")
    desk.say("Once upon")
    text = desk.answers()[0]
    stop = next(text[at : at + 2] for at in range(8, 30) if text[at : at + 2].isprintable())
    desk.page.click("#settings")
    desk.page.fill("#stop", stop)
    desk.page.click("#new")
    desk.say("Once upon")
    assert desk.answers() == [text[: text.index(stop)]]
    assert "".join(piece for _, piece in spans(desk)) == desk.answers()[0]  # tokens of the stop text are no part of it


def spans(desk: Desk) -> list[tuple[int, str]]:
    """Token by token, what of the shown text is its own."""
    found = desk.page.locator(".answer-text .token").evaluate_all(
        "all => all.map(s => [Number(s.dataset.token), s.textContent])"
    )
    return [(index, text) for index, text in found]


def test_a_word_pointed_at_shows_what_else_was_likely(desk: Desk) -> None:
    desk.pick("other")
    desk.say("héllo ☃")
    told = desk.whole(desk.asked(CHAT)[0])["logprobs"]["content"]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces = [decoder.decode(bytes(token["bytes"])) for token in told]
    shown = spans(desk)
    assert [text for index, text in shown if pieces[index]] == [pieces[index] for index, _ in shown if pieces[index]]
    index, _ = next((index, text) for index, text in shown if pieces[index].isprintable() and pieces[index].strip())
    desk.page.locator(f'[data-token="{index}"]').hover()
    card = desk.page.inner_text("#token-card")
    assert f"{100 * math.exp(told[index]['logprob']):.1f}"[:3] in card
    rows = desk.page.locator("#token-card tr")
    top = [token["token"] for token in told[index]["top_logprobs"]]
    assert rows.count() == len(top) + (told[index]["token"] not in top)
    assert desk.page.locator("#token-card .chosen").count() == 1


def test_the_pace_of_an_answer_is_not_that_of_the_network(desk: Desk) -> None:
    """Tokens a second from times known by hand: while they came, or over all where they came in one gust."""
    ask = """async (stats) => (await import("/page/run.js")).speedOf(stats)"""
    address = desk.page.evaluate("document.querySelector('script[type=module]').src")
    ask = ask.replace("/page/run.js", address.rsplit("/", 1)[0] + "/run.js")
    assert desk.page.evaluate(ask, {"tokens": 21, "seconds": 3, "first": 1}) == 10
    assert desk.page.evaluate(ask, {"tokens": 12, "seconds": 0.1001, "first": 0.1}) == 12 / 0.1001
    assert desk.page.evaluate(ask, {"tokens": 1, "seconds": 1, "first": 1}) is None


def test_tokens_find_their_place_in_the_text(desk: Desk) -> None:
    cases = (
        (["a", "b c"], "ab c", True, [1, 4]),
        (["h", "\ufffd", "\ufffd", "llo"], "héllo", True, [1, 1, 2, 5]),  # two halves of a character: the last has it
        (["h", "", "é", "llo"], "héllo", True, [1, 1, 2, 5]),  # the same, where the server told the bytes
        (["a", "<|eot_id|>"], "a", True, [1, 1]),  # a special token is no text
        (["<|x|>", "a"], "a", True, [0, 1]),
        (["ab", "cd\n"], "abc", False, [2]),  # the rest of the text is still held back
        (["ab", "cd\n"], "abcd", True, [2, 4]),  # it was the stop text
        (["a", "\ufffd"], "a☃", True, [1, 2]),
        (["zzz", "b"], "a" * 100 + "b", False, [0, 0]),  # nowhere near: no guess
    )
    given = [[pieces, text, whole] for pieces, text, whole, _ in cases]
    assert desk.probe("tokenEnds", given) == [ends for *_, ends in cases]


def test_a_finger_on_a_word_shows_it_too(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, has_touch=True, is_mobile=True) as desk:
        desk.pick("other")
        desk.say("hello")
        desk.page.locator(".token").first.tap()
        desk.page.wait_for_timeout(100)  # lifting the finger must not hide it
        assert desk.page.locator("#token-card").is_visible()
        desk.page.locator(".answer-foot .stats").tap()
        desk.page.wait_for_selector("#token-card", state="hidden")


def test_the_keyboard_walks_through_shaded_tokens(desk: Desk) -> None:
    desk.pick("other")
    desk.say("hello")
    desk.page.locator('[aria-label="Show how likely each token was"]').press("Enter")
    assert desk.page.locator(".answer-text.shaded").count() == 1
    desk.page.focus(".answer-text")
    desk.page.keyboard.press("ArrowRight")
    desk.page.keyboard.press("ArrowRight")
    pointed = desk.page.locator(".token.pointed")
    assert pointed.get_attribute("data-token") == str(spans(desk)[1][0])
    assert desk.page.locator("#token-card").is_visible()
    desk.page.keyboard.press("Escape")
    assert not desk.page.locator("#token-card").is_visible()


def test_without_probabilities_none_are_asked_for(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, settings={"probabilities": False}) as desk:
        desk.pick("other")
        desk.say("hello")
        assert "logprobs" not in desk.asked(CHAT)[0] and not spans(desk)
        assert not desk.page.locator('[aria-label="Show how likely each token was"]').is_visible()
