"""When something is wrong: the page says what, and what to do, and goes on by itself where it can."""

from __future__ import annotations

import socket
import threading
from typing import Any

from tests.inference.page.desk import Desk, conversation, endless_engine
from tests.support.servers import Running, chat_engine

CHAT = "v1/chat/completions"
FAILED = "Failed to load resource"  # what the browser itself says of any answer but 200


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, errors=(FAILED,)) as desk:
        desk.pick("other")
        desk.say("x" * 600)
        told = desk.page.inner_text(".problem")
        assert "512" in told and "6" in told and "Try again" in told
        desk.page.click("#new")
        desk.say("short")
        assert desk.answers() == [desk.text_of(desk.asked(CHAT)[-1])]


def test_a_long_answer_is_cut_to_what_the_context_leaves(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, settings={"max_tokens": 5000}) as desk:
        desk.pick("other")
        desk.say("x" * 450)
        [body] = desk.asked(CHAT)
        count = desk.fetch("tokenize", {"model": "other", "messages": body["messages"]})["count"]
        assert body["max_tokens"] == 512 - count and desk.answers() == [desk.text_of(body)]


def test_a_server_with_a_key_is_given_it_once(browser: Any) -> None:
    with (
        Running({"talker": chat_engine(0)}, api_key="secret") as server,
        Desk(browser, server.port, errors=(FAILED,)) as desk,
    ):
        desk.page.fill("#key", "wrong")
        desk.page.press("#key", "Enter")
        desk.page.wait_for_selector("#key-reason:has-text('not right')")
        desk.page.fill("#key", "secret")
        desk.page.press("#key", "Enter")
        desk.say("hello")
        assert len(desk.answers()) == 1 and desk.page.locator(".problem:visible").count() == 0
        desk.page.reload()
        desk.ready()  # kept until the window closes
        assert "secret" not in desk.page.evaluate("JSON.stringify({ ...localStorage })")


def test_a_server_that_is_gone_is_said_so_and_found_again(browser: Any) -> None:
    engine = {"talker": chat_engine(0)}
    with Running(engine) as first, Desk(browser, first.port, errors=(FAILED,)) as desk:
        desk.ready()
        port = first.port
        first.__exit__()
        desk.page.fill("#message", "hello?")
        desk.page.press("#message", "Enter")
        told = desk.page.locator(".problem")
        told.wait_for()
        assert "does not answer" in told.inner_text() and "herdbook serve" in told.inner_text()
        assert desk.page.locator("#banner").is_visible()
        with Running({"talker": chat_engine(0)}, port=port):
            desk.page.wait_for_selector("#banner", state="hidden")
            desk.page.click("text=Try again")
            desk.page.wait_for_selector(".problem", state="hidden")
            desk.settle()
            assert desk.answers() == [desk.text_of(desk.asked(CHAT)[-1])]


def test_a_busy_server_is_asked_again_after_a_while(browser: Any) -> None:
    with (
        Running({"endless": endless_engine()}, rows=1, queue=0) as server,
        Desk(browser, server.port, errors=(FAILED,), settings={"max_tokens": 5}) as desk,
    ):
        body = b'{"model": "endless", "prompt": "long", "max_tokens": 8000, "stream": true}'
        other = socket.create_connection(("127.0.0.1", server.port))
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        other.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert other.recv(1)
        desk.say("and me", wait=False)
        desk.page.wait_for_selector(".notice:has-text('asking again')")
        other.close()
        desk.settle()
        assert desk.page.locator(".problem:visible").count() == 0 and len(desk.asked("v1/completions")) > 1
        assert desk.answers() == [desk.text_of(desk.asked("v1/completions")[-1])]


def test_a_connection_that_breaks_leaves_what_had_come(browser: Any) -> None:
    """The server is cut off in the midst of an answer."""
    with Running({"endless": endless_engine()}, drain_seconds=0.0) as server:
        desk = Desk(browser, server.port, errors=(FAILED, "ERR_"), settings={"max_tokens": 8000})
        with desk:
            desk.say("on and on", wait=False)
            desk.until("document.querySelector('.live .answer-text')?.textContent.length > 20")
            stopping = threading.Thread(target=server.__exit__)
            stopping.start()
            desk.page.wait_for_selector(".problem:visible")
            stopping.join()
            assert len(desk.answers()[0]) > 20


def test_a_model_that_is_no_longer_served_is_named(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, errors=(FAILED,)) as desk:
        desk.import_conversation(conversation("hi", lanes=("retired",)))
        desk.page.wait_for_selector(".turn")
        assert "retired (not served)" in desk.page.locator(".picker option").all_inner_texts()
        desk.page.fill("#message", "still there?")
        desk.page.press("#message", "Enter")
        desk.page.wait_for_selector(".problem:has-text('retired')")
        desk.pick("other")
        desk.page.locator(".turn").nth(1).locator("text=Try again").click()
        desk.page.wait_for_selector(".problem:visible", state="detached")
        desk.settle()
        assert desk.page.locator(".problem:visible").count() == 0
