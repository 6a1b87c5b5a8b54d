"""The page in a browser window of its own, watched, and the server's own answers to hold it against."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from herdbook.inference.engine import Engine
from tests.support.models import tiny_model
from tests.support.servers import TOKENIZER

SEED = 11
PROBES = Path(__file__).with_name("probes.js").read_text(encoding="utf-8")


def endless_engine() -> Engine:
    """A base model without an end: it writes until it is stopped, or its context of 8,192 tokens is full."""
    return Engine(tiny_model(2, vocab_size=TOKENIZER.vocab_size, max_length=8192), TOKENIZER, [])


def find_chromium() -> str | None:
    """The browser of this machine, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def opened_browser() -> Iterator[Any]:
    """A headless Chromium, closed in the end: its event loop must not reach other tests. Skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="pages need playwright: pip install playwright")
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("pages need a Chromium to be tested: make browser, or apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Desk:
    """One window with storage of its own; `clear` makes it as good as new, for less than a new one costs."""

    def __init__(
        self,
        browser: Any,
        port: int,
        *,
        settings: dict[str, Any] | None = None,
        errors: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        self.address = f"http://127.0.0.1:{port}/"
        self.context = browser.new_context(viewport={"width": 1200, "height": 800}, **options)
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.settings = {
            "seed": SEED,
            "max_tokens": 40,
            "temperature": 1.0,
            "top_p": 1,
            "markdown": False,
            **(settings or {}),
        }
        self.forget(errors)
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("dialog", self._dialog)
        self.page.on("popup", lambda popup: self.complaints.append(f"a window opened: {popup.url}"))

    def forget(self, errors: tuple[str, ...] = ()) -> None:
        """Begin watching anew; the console may complain of `errors`."""
        self.expected = errors
        self.requests: list[str] = []
        self.sent: list[tuple[str, Any]] = []
        self.complaints: list[str] = []
        self.dialogs: list[str] = []

    def clear(self) -> None:
        """Empty the storage and load the page again."""
        keep_nothing = "Storage.prototype.setItem = () => {}"  # leaving the page makes it save what is open
        self.page.evaluate(f"localStorage.clear(); sessionStorage.clear(); {keep_nothing}")
        self.forget()
        self.page.goto(self.address)

    def _asked(self, request: Any) -> None:
        self.requests.append(request.url)
        if request.method == "POST":
            self.sent.append((request.url.removeprefix(self.address), json.loads(request.post_data)))

    def _console(self, message: Any) -> None:
        if message.type == "error" and not any(text in message.text for text in self.expected):
            self.complaints.append(message.text)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.accept()

    def __enter__(self) -> Self:
        kept = "localStorage.getItem('herdbook.settings') ?? localStorage.setItem('herdbook.settings', %s)"
        script = f"try {{ {kept} }} catch {{}}"  # frames that were refused have no storage
        self.page.add_init_script(script % json.dumps(json.dumps(self.settings)))
        self.page.goto(self.address)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Nothing was asked of anybody else, and the browser has nothing to complain of."""
        foreign = [url for url in self.requests if not url.startswith((self.address, "blob:" + self.address))]
        assert not foreign and not self.complaints, (foreign, self.complaints)

    def ready(self) -> None:
        """Wait until the models are known."""
        self.page.wait_for_selector("#send:not([disabled])")

    def pick(self, model: str, lane: int = 0) -> None:
        """Choose a model."""
        self.ready()
        self.page.locator(".picker").nth(lane).select_option(model)

    def say(self, text: str, *, wait: bool = True) -> None:
        """Write a message and send it by Enter."""
        self.ready()
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")
        if wait:
            self.settle()

    def settle(self) -> None:
        """Wait until nothing is being written."""
        self.until("document.querySelector('.answer') && !document.querySelector('.live')")

    def until(self, expression: str, seconds: float = 30.0) -> None:
        """Wait until an expression of JavaScript is true (Playwright's own way would break the page's policy)."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < end, f"did not come true: {expression}"
            self.page.wait_for_timeout(10)

    def probe(self, name: str, argument: Any = None) -> Any:
        """Run one of the functions in probes.js in the page."""
        return self.page.evaluate(f"(argument) => {{ {PROBES}\nreturn {name}(argument); }}", argument)

    def answers(self) -> list[str]:
        """The texts shown, in the order of the page."""
        found: list[str] = self.probe("answers")
        return found

    def asked(self, path: str) -> list[dict[str, Any]]:
        """What was posted to a path of the API."""
        return [body for where, body in self.sent if where == path]

    def until_asked(self, path: str, times: int) -> None:
        """Wait until the page has posted to a path so many times."""
        end = time.monotonic() + 30
        while len(self.asked(path)) < times:
            assert time.monotonic() < end, f"{path} was asked {len(self.asked(path))} times, not {times}"
            self.page.wait_for_timeout(10)

    def fetch(self, path: str, body: dict[str, Any]) -> Any:
        """Ask the server itself, without the page."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def whole(self, body: dict[str, Any]) -> Any:
        """The server's answer in one piece to a request that the page had streamed."""
        rest = {key: value for key, value in body.items() if not key.startswith("stream")}
        path = "v1/chat/completions" if "messages" in body else "v1/completions"
        return self.fetch(path, rest)["choices"][0]

    def text_of(self, body: dict[str, Any]) -> str:
        """That answer's text."""
        choice = self.whole(body)
        return choice["message"]["content"] if "message" in choice else choice["text"]

    def import_conversation(self, data: Any) -> None:
        """Read a conversation from a file, as a person would."""
        self.ready()
        if not self.page.locator("#panel").is_visible():
            self.page.click("#settings")
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.page.set_input_files(
            "#import-file", {"name": "it.json", "mimeType": "application/json", "buffer": content}
        )


def conversation(*answers: str, prompt: str = "?", lanes: tuple[str, ...] = ("talker",)) -> dict[str, Any]:
    """A conversation file whose turns have these answers."""
    turns = [
        {
            "prompt": prompt,
            "answers": [[{"model": lane, "text": text, "finish": "stop"}] for lane in lanes],
            "chosen": [0],
        }
        for text in answers
    ]
    return {"format": "herdbook conversation", "version": 1, "lanes": list(lanes), "turns": turns}
