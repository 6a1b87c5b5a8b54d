"""The page for every hand, eye and screen: hostile texts, the keyboard alone, a phone, dark colours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.inference.page.desk import Desk, conversation
from tests.support.servers import Running

HOSTILE = """<script>window.hit = 1</script><img src=https://evil.example/a.png onerror="window.hit = 2">
<svg onload="window.hit=3"><iframe src="javascript:window.hit=4"></iframe><style>*{display:none}</style>

[a](javascript:window.hit=5) [b](JaVaScRiPt:window.hit=6) [c](data:text/html,<script>window.hit=7</script>)
[d](vbscript:x)
[e]( javascript:window.hit=8) [f](&#106;avascript:window.hit=9)
[g](//evil.example/x) [h](blob:https://evil.example/1) [i](\\u006aavascript:1)
![p](https://evil.example/pixel.png) <javascript:window.hit=10> <https://ok.example/"onmouseover="window.hit=11>

[q](https://ok.example/"onclick="window.hit=12) `<b onclick=1>`
<a href="https://evil.example" onclick="window.hit=13">z</a>

| <img src=x onerror=window.hit=14> | b |
|---|---|
| [x](javascript:1) | <script>window.hit=15</script> |

```html"><script>window.hit=16</script>
</code></pre><script>window.hit=17</script>
```
<!-- <script> --> <![CDATA[ <script>window.hit=18</script> ]]> &lt;script&gt;

1. <form action=https://evil.example><button>go</button></form>
> <base href=https://evil.example/><link rel=stylesheet href=https://evil.example/x.css><meta http-equiv=refresh content="0;url=https://evil.example">
"""
MARKDOWN = {"markdown": True}


def test_hostile_markdown_runs_nothing_and_asks_nobody(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, settings=MARKDOWN) as desk:
        desk.import_conversation(conversation(HOSTILE))
        desk.page.wait_for_selector(".prose table")
        desk.page.wait_for_timeout(200)
        assert desk.page.evaluate("window.hit") is None
        tags = set(desk.page.locator(".prose *").evaluate_all("all => all.map((one) => one.localName)"))
        assert not tags & {
            "script",
            "img",
            "svg:script",
            "iframe",
            "style",
            "form",
            "base",
            "link",
            "meta",
            "object",
            "embed",
        }
        attributes = desk.page.locator(".prose *").evaluate_all("all => all.flatMap((one) => one.getAttributeNames())")
        assert not [
            name for name in attributes if name.startswith("on") or name in {"src", "srcset", "style", "action"}
        ]
        links = desk.page.locator(".prose a").evaluate_all("all => all.map((one) => [one.href, one.rel, one.target])")
        assert {href for href, _, _ in links} >= {"https://evil.example/pixel.png"} and links
        for href, rel, target in links:
            assert (
                href.startswith(("https://ok.example/", "https://evil.example"))
                and "noopener" in rel
                and target == "_blank"
            )
        text = desk.page.inner_text(".prose")
        assert "<script>window.hit = 1</script>" in text and "[a](javascript:window.hit=5)" in text


def test_the_policy_forbids_what_the_page_would_never_do(desk: Desk) -> None:
    """Were there a hole in the renderer, the browser itself would still refuse."""
    desk.expected = ("Content Security Policy", "Content-Security-Policy", "Refused", "violates")
    refused = desk.probe("refusals")
    assert {"img-src", "frame-src", "script-src-elem", "connect-src", "style-src-attr"} <= set(refused)
    assert desk.page.evaluate("window.hit") is None
    desk.requests = [url for url in desk.requests if "evil.example" not in url]  # told of before it was refused


def test_everything_is_reached_by_the_keyboard(desk: Desk) -> None:
    desk.pick("other")
    desk.page.focus("#message")
    desk.page.keyboard.type("one")
    desk.page.keyboard.press("Shift+Enter")
    desk.page.keyboard.type("two")
    desk.page.keyboard.press("Enter")
    desk.settle()
    assert desk.asked("v1/chat/completions")[0]["messages"][0]["content"] == "one\ntwo"
    assert desk.page.evaluate("document.activeElement.id") == "message"
    desk.page.keyboard.press("ArrowUp")  # in the empty box: edit what was said last
    assert desk.page.evaluate("document.activeElement.value") == "one\ntwo"
    desk.page.keyboard.press("Escape")
    assert desk.page.evaluate("document.activeElement.dataset.action") == "edit"
    reached = []
    desk.page.focus(".skip")
    for _ in range(40):
        desk.page.keyboard.press("Tab")
        reached.append(desk.probe("nameOfFocus"))
        if reached[-1] == "send":
            break
    order = [
        "new",
        "one",
        "theme",
        "Model",
        "compare",
        "settings",
        "thread",
        "Copy this answer",
        "Answer again",
        "message",
        "send",
    ]
    places = [reached.index(name) for name in order]
    assert places == sorted(places), reached
    desk.page.locator('[data-action="regenerate"]').press("Enter")
    desk.page.wait_for_selector("text=2/2")
    assert desk.page.evaluate("document.activeElement.dataset.action") == "regenerate"  # the focus stays where it was


def test_everything_has_a_name_and_answers_are_told(desk: Desk) -> None:
    desk.pick("other")
    desk.page.click("#settings")
    desk.say("hello")
    assert desk.probe("nameless") == []
    desk.until("document.querySelector('#announcer').textContent.startsWith('other: ')")


LONG = f"""{"W" * 300}

# {"heading" * 40}

| {"cell" * 30} | {"b" * 100} | c |
|---|---|---|
| 1 | 2 | 3 |

```
{"code " * 80}
```

`{"inline" * 60}` https://example.org/{"path" * 60}

- {"item" * 80}
"""


@pytest.mark.parametrize("lanes", [("talker",), ("talker", "other")])
def test_on_a_phone_nothing_hangs_over_the_edge(browser: Any, server: Running, lanes: tuple[str, ...]) -> None:
    with Desk(browser, server.port, settings=MARKDOWN, has_touch=True, is_mobile=True) as desk:
        desk.page.set_viewport_size({"width": 360, "height": 640})
        desk.import_conversation(conversation(LONG, prompt="p" * 400, lanes=lanes))
        desk.page.wait_for_selector(".prose table")
        assert desk.page.evaluate("document.documentElement.scrollWidth") == 360
        assert desk.probe("overhanging") == []  # with the settings open
        desk.page.click("#panel >> text=Close")
        assert (
            desk.probe("overhanging") == []
            and desk.page.evaluate("document.querySelector('#thread').scrollWidth") <= 360
        )
        assert not desk.page.locator("#sidebar").is_visible()
        desk.page.click("#menu")
        desk.page.wait_for_selector("#new:visible")
        desk.page.click("#new")
        desk.page.wait_for_selector("#sidebar", state="hidden")
        assert desk.probe("smallButtons") == []  # fingers find every button


def test_colours_follow_the_system_unless_told(browser: Any, server: Running) -> None:
    with Desk(browser, server.port, color_scheme="dark") as desk:
        assert desk.probe("paper") < 0.2
        desk.page.click("#theme")
        assert desk.probe("paper") > 0.9 and "light" in desk.page.inner_text("#theme")
        desk.page.reload()
        assert desk.probe("paper") > 0.9
        desk.page.click("#theme")
        assert desk.probe("paper") < 0.2
        desk.page.click("#theme")
        desk.page.emulate_media(color_scheme="light")
        assert desk.probe("paper") > 0.9
        for scheme in ("light", "dark"):
            desk.page.emulate_media(color_scheme=scheme)
            ratios = desk.probe("contrasts")
            assert min(ratios.values()) >= 4.5, ratios
