"""The page for people: over HTTP, by keyboard in a browser, and going on after a kill."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

from herdbook.posttrain.annotate_page import Desk, Open, ask_people
from herdbook.posttrain.annotators import Judgement, Pair
from herdbook.posttrain.round_settings import CollectSettings
from tests.inference.page.desk import opened_browser


def pairs(count: int) -> list[Pair]:
    return [
        Pair(
            {"id": f"r{number}", "messages": [{"role": "user", "content": f"<b>question {number}</b>"}]},
            (f"first {number}", f"second {number}"),
            ("new", "old"),
        )
        for number in range(count)
    ]


def side(desk: Desk, number: int, answer: int) -> str:
    """Where an answer of a pair stands."""
    return "right" if (answer == 1) != desk.turned(number) else "left"


def client(page: Open, **options: Any) -> httpx2.Client:
    return httpx2.Client(base_url=f"http://127.0.0.1:{page.port}", **options)


def test_judgements_are_kept_whatever_side_an_answer_stood_on(tmp_path: Path) -> None:
    desk = Desk(pairs(20), tmp_path / "judged.jsonl", 1)
    with Open(desk, 0) as page, client(page) as http:
        sides = set()
        for number in range(20):
            state = http.get("/state").json()
            assert (state["done"], state["total"]) == (number, 20) and "new" not in str(state)
            shown = state["pair"]
            assert shown["number"] == number and {shown["left"], shown["right"]} == set(desk.pairs[number].answers)
            better = "left" if shown["left"].startswith("second") else "right"
            sides.add(better)
            body = {
                "number": number,
                "better": better,
                "strength": "slightly better",
                "edited": " best " if number else None,
            }
            assert http.post("/judge", json=body).status_code == 200
        assert http.get("/state").json()["pair"] is None and sides == {"left", "right"}
    assert desk.ended.is_set()
    assert desk.results()[0] == Judgement(1, "slightly better", None)
    assert set(desk.results()[1:]) == {Judgement(1, "slightly better", "best")}
    assert Desk(desk.pairs, desk.file, 1).results() == desk.results()


def test_a_judgement_can_be_taken_back_and_a_pair_skipped(tmp_path: Path) -> None:
    desk = Desk(pairs(3), tmp_path / "judged.jsonl", 0)
    with Open(desk, 0) as page, client(page) as http:
        http.post("/judge", json={"number": 0, "better": "left", "strength": "better"})
        http.post("/judge", json={"number": 1, "better": "right", "strength": "better"})
        assert http.post("/undo", json={}).json()["pair"]["number"] == 1
        http.post("/judge", json={"number": 1, "better": "skip"})
        assert http.post("/finish", json={}).json()["done"] == 2
    again = Desk(pairs(3), tmp_path / "judged.jsonl", 0)
    assert [found is None for found in again.results()] == [False, True, True]
    assert desk.ended.is_set() and 2 not in again.judged and again.judged[1] is None


def test_a_killed_run_asks_only_what_is_left_and_drops_a_half_line(tmp_path: Path) -> None:
    file = tmp_path / "judged.jsonl"
    desk = Desk(pairs(2), file, 0)
    desk.judge(_verdict(desk, 0, 0))
    file.write_bytes(file.read_bytes() + b'{"id": "r1", "cho')
    done: list[Any] = []
    settings = CollectSettings.model_validate({"annotator": "people", "page": {"port": 0}})
    ports: list[int] = []
    original = Open.__enter__

    def noted(self: Open) -> Open:
        ports.append(self.port)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Open, "__enter__", noted)
        thread = threading.Thread(target=lambda: done.extend(ask_people(pairs(2), file, settings)))
        thread.start()
        while not ports:
            thread.join(0.01)
        with httpx2.Client(base_url=f"http://127.0.0.1:{ports[0]}") as http:
            shown = http.get("/state").json()
            assert shown["done"] == 1 and shown["pair"]["number"] == 1
            better = side(Desk(pairs(2), tmp_path / "none", 0), 1, 1)
            http.post("/judge", json={"number": 1, "better": better, "strength": "better"})
        thread.join(20)
    assert done == [Judgement(0, "better"), Judgement(1, "better")]
    assert ask_people(pairs(2), file, settings) == done  # nothing is left to ask, so no page is opened


def _verdict(desk: Desk, number: int, answer: int) -> Any:
    from herdbook.posttrain.annotate_page import Verdict

    return Verdict(number=number, better=side(desk, number, answer), strength="better")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/judge", '{"number": 9, "better": "left"}', {}, 422),
        ("/judge", '{"number": 0, "better": "middle"}', {}, 422),
        ("/judge", '{"number": 0, "better": "left", "strength": "great"}', {}, 422),
        ("/judge", "{", {}, 422),
        ("/judge", '{"number": 0, "better": "left"}', {"Content-Type": "text/plain"}, 415),
        ("/judge", '{"number": 0, "better": "left"}', {"Host": "evil.example"}, 400),
        ("/nothing", "{}", {}, 405),
    ],
)
def test_what_no_page_of_ours_sends_changes_nothing(
    tmp_path: Path, path: str, body: str, headers: dict[str, str], status: int
) -> None:
    desk = Desk(pairs(2), tmp_path / "judged.jsonl", 0)
    with Open(desk, 0) as page, client(page) as http:
        sent = http.post(path, content=body, headers={"Content-Type": "application/json", **headers})
        assert sent.status_code == status
    assert not desk.judged and not desk.file.exists()


def test_a_person_judges_by_keyboard(tmp_path: Path) -> None:
    desk = Desk(pairs(4), tmp_path / "judged.jsonl", 3)
    with Open(desk, 0) as page, opened_browser() as browser:
        window = browser.new_page()
        complaints: list[str] = []
        window.on("pageerror", lambda error: complaints.append(str(error)))
        window.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        window.goto(f"http://127.0.0.1:{page.port}/")
        shown = window.locator("#count")

        def until(text: str) -> None:
            shown.filter(has_text=text).wait_for(timeout=20_000)

        until("0 of 4")
        assert "<b>question 0</b>" in window.locator("#request").inner_text()  # shown as the text it is
        window.keyboard.press("1")
        until("1 of 4")
        window.keyboard.press("e")
        window.locator("#edited").fill("much better 1s")
        window.keyboard.press("Escape")
        window.keyboard.press("8")
        until("2 of 4")
        window.keyboard.press("s")
        until("3 of 4")
        window.keyboard.press("u")
        until("2 of 4")
        window.get_by_role("button", name="Right is marginally better").click()
        until("3 of 4")
        window.keyboard.press("5")
        window.locator("#done").wait_for(timeout=20_000)
        window.close()
    assert not complaints and desk.ended.is_set()
    left, right = ([int((place == "right") != desk.turned(n)) for n in range(4)] for place in ("left", "right"))
    assert desk.results() == [
        Judgement(left[0], "significantly better"),
        Judgement(right[1], "significantly better", "much better 1s"),
        Judgement(right[2], "marginally better"),
        Judgement(right[3], "marginally better"),
    ]
