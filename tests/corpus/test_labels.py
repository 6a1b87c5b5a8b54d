"""Labels: from files, from the world, and from endpoints that fail in every way an endpoint can."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.corpus.quality.endpoint import Asker
from herdbook.corpus.quality.labels import Documents, as_classes, from_file, from_model, from_world
from herdbook.corpus.quality.rubrics import TOPICS, Rubric, excerpt
from herdbook.corpus.quality.settings import EndpointSettings, HeadSettings
from herdbook.settings import UserError
from tests.corpus.fake_endpoint import Answer, page_of, serving
from tests.support.worlds import tiny_truth, tiny_world


def settings(url: str, folder: Path, **more: Any) -> EndpointSettings:
    usual = {"pause": 0.01, "timeout": 5, "tries": 3, "parallel": 4, "price_in": 1.0, "price_out": 10.0}
    return EndpointSettings(base_url=url, model="a/judge", cache=str(folder), **(usual | more))


def documents(folder: Path, rows: list[dict[str, Any]], name: str = "documents") -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name / "00000.parquet")
    return folder


TEXTS = {f"d{number}": f"Page number {number} about mills." for number in range(12)}


def by_number(body: dict[str, Any], _: int) -> Answer:
    return f"It is fine.\nGrade: {int(page_of(body).split()[2]) % 6}"


def test_answers_become_labels_and_are_paid_for_once(tmp_path: Path) -> None:
    with serving(by_number) as server:
        labels, bill = Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)
        assert labels == {id: float(int(id[1:]) % 6) for id in TEXTS}
        assert (bill.asked, bill.cached, bill.tokens_in, bill.tokens_out) == (12, 0, 1200, 120)
        assert bill.cost == pytest.approx(1200 / 1e6 + 120 * 10 / 1e6)
        again, bill = Asker(settings(server.url, tmp_path), Rubric("general")).ask({**TEXTS, "new": "Page number 3 x"})
        assert again == {**labels, "new": 3.0} and (bill.asked, bill.cached) == (1, 12)
        assert len(server.bodies) == 13
        _, bill = Asker(settings(server.url, tmp_path), Rubric("code")).ask(TEXTS)
        assert bill.asked == 12  # another rubric is another question


def test_as_many_requests_as_asked_for_are_in_flight(tmp_path: Path) -> None:
    def slowly(body: dict[str, Any], number: int) -> Answer:
        time.sleep(0.05)
        return by_number(body, number)

    with serving(slowly) as server:
        Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)
        assert 2 <= server.most <= 4


def test_equal_documents_are_asked_about_once(tmp_path: Path) -> None:
    with serving(by_number) as server:
        labels, _ = Asker(settings(server.url, tmp_path), Rubric("general")).ask(dict.fromkeys("abc", "Page number 4"))
        assert labels == {"a": 4.0, "b": 4.0, "c": 4.0} and len(server.bodies) == 1


@pytest.mark.parametrize("bad", [500, 503, 429, None])
def test_what_passes_is_tried_again(tmp_path: Path, bad: Answer) -> None:
    seen: set[str] = set()

    def first_bad(body: dict[str, Any], number: int) -> Answer:
        page = page_of(body)
        if page not in seen:
            seen.add(page)
            return bad
        return by_number(body, number)

    with serving(first_bad) as server:
        labels, bill = Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)
    assert len(labels) == 12 and bill.failed == 0 and bill.retries == 12


def test_a_slow_answer_is_not_waited_for(tmp_path: Path) -> None:
    with serving(lambda body, _: 60.0 if "number 5" in page_of(body) else "Grade: 2") as server:
        started = time.monotonic()
        labels, bill = Asker(settings(server.url, tmp_path, timeout=0.5, tries=3), Rubric("general")).ask(TEXTS)
    assert time.monotonic() - started < 30
    assert bill.failed == 1 and set(labels) == set(TEXTS) - {"d5"}


def test_an_endpoint_that_is_down_is_an_error_that_keeps_what_was_paid(tmp_path: Path) -> None:
    with serving(lambda body, number: by_number(body, number) if number <= 6 else 500) as server:
        asker = Asker(settings(server.url, tmp_path, parallel=1, give_up=2), Rubric("general"))
        with pytest.raises(UserError, match=r"HTTP 500.*run the same command again: 6 answers are kept in"):
            asker.ask(TEXTS)
    with serving(by_number) as server:
        labels, bill = Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)
    assert len(labels) == 12 and (bill.cached, bill.asked) == (6, 6)


@pytest.mark.parametrize(("status", "said"), [(401, "HTTP 401"), (404, "HTTP 404")])
def test_a_wrong_key_or_address_is_told_at_once(tmp_path: Path, status: int, said: str) -> None:
    with serving(lambda *_: status) as server:
        with pytest.raises(UserError, match=f"{said}.*check base_url, model and api_key_env"):
            Asker(settings(server.url, tmp_path, parallel=1), Rubric("general")).ask(TEXTS)
        assert len(server.bodies) <= 2


def test_nobody_at_the_address_is_an_error(tmp_path: Path) -> None:
    with serving(by_number) as server:
        url = server.url
    with pytest.raises(UserError, match="ConnectError"):
        Asker(settings(url, tmp_path, give_up=1), Rubric("general")).ask(TEXTS)


def test_one_document_that_is_refused_costs_no_other(tmp_path: Path) -> None:
    with serving(lambda body, n: 400 if "number 3" in page_of(body) else by_number(body, n)) as server:
        labels, bill = Asker(settings(server.url, tmp_path, give_up=1), Rubric("general")).ask(TEXTS)
    assert set(labels) == set(TEXTS) - {"d3"} and (bill.failed, bill.retries) == (1, 0)


def test_nonsense_is_asked_again_then_counted_and_never_cached(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> Answer:
        page = page_of(body)
        if "number 2" in page and len(body["messages"]) == 1:
            return "What a lovely page!"
        return "Grade: 17" if "number 7" in page else by_number(body, number)

    with serving(answer) as server:
        labels, bill = Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)
        assert set(labels) == set(TEXTS) - {"d7"} and bill.nonsense == 1
        assert bill.tokens_in == 1400  # the answers that were no use cost as much
        assert Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)[1].asked == 1


def test_the_budget_ends_the_asking(tmp_path: Path) -> None:
    with serving(by_number) as server:
        limited = settings(server.url, tmp_path, parallel=1, budget=3 * 0.0002)
        labels, bill = Asker(limited, Rubric("general")).ask(TEXTS)
    assert 3 <= len(labels) <= 5 and bill.cost < 0.0012


def test_the_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serving(by_number) as server:
        keyed = settings(server.url, tmp_path, api_key_env="JUDGE_KEY")
        with pytest.raises(UserError, match="JUDGE_KEY is not set"):
            Asker(keyed, Rubric("general"))
        monkeypatch.setenv("JUDGE_KEY", "s3cret")
        Asker(keyed, Rubric("general")).ask(TEXTS)
        assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))


def test_a_cache_line_that_was_not_finished_is_asked_again(tmp_path: Path) -> None:
    with serving(by_number) as server:
        Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)
        (file,) = tmp_path.glob("*.jsonl")
        os.truncate(file, file.stat().st_size - 20)
        labels, bill = Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)
        assert len(labels) == 12 and bill.asked == 1
        assert Asker(settings(server.url, tmp_path), Rubric("general")).ask(TEXTS)[1].asked == 0


def test_rubrics_read_the_last_grade_and_no_grade_out_of_range() -> None:
    graded = Rubric("general")
    assert graded.read("Points: 1+1.\n**Grade: 3**") == 3 and graded.read("Grade: 2 … no, grade: 4/5") == 4
    assert graded.read("Grade: 9") is None and graded.read("five") is None and graded.read("") is None
    topic = Rubric("topic")
    assert topic.read(f"Topic: {TOPICS[2].title()}.") == TOPICS[2] and topic.read("Topic: cheese") is None
    assert Rubric("topic", ("a b", "c")).read("topic: A B") == "a b"
    for name in ("general", "code", "reasoning", "topic"):
        assert Rubric(name).prompt("THE {text} ITSELF").count("THE {text} ITSELF") == 1


def test_a_rubric_of_ones_own_needs_a_place_for_the_document(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Judge.")
    with pytest.raises(UserError, match=r"must hold \{text\}"):
        Rubric(tmp_path / "mine.txt")
    (tmp_path / "mine.txt").write_text("Judge {text}.")
    assert Rubric(tmp_path / "mine.txt").prompt("this") == "Judge this."


def test_an_excerpt_has_start_and_end() -> None:
    text = "".join(f"{number:04d}" for number in range(1000))
    shown = excerpt(text, 300)
    assert shown.startswith(text[:200]) and shown.endswith(text[-100:]) and len(shown) < 310
    assert excerpt("short", 300) == "short"


def test_labels_of_a_file_find_documents_by_id_address_and_text(tmp_path: Path) -> None:
    rows = [{"id": f"i{n}", "url": f"https://a.example/{n}", "date": "", "text": f"text {n}"} for n in range(4)]
    held = Documents([documents(tmp_path, rows)])
    given = [{"id": "i1", "label": 1}, {"url": "https://a.example/2", "label": 0}, {"text": "new", "label": 1}]
    given.append({"id": "missing", "label": 0})
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, given)))
    assert from_file(tmp_path / "labels.jsonl", "label", held) == ({"text 1": 1, "text 2": 0, "new": 1}, 4)
    pq.write_table(pa.Table.from_pylist([{"id": "i3", "grade": 4.5}]), tmp_path / "labels.parquet")
    assert from_file(tmp_path / "labels.parquet", "grade", held) == ({"text 3": 4.5}, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ('{"id": "a"}', "row 1: it has no 'label'"),
        ('{"label": 1}', "none of 'id', 'url' and 'text'"),
        ('{"id": "a", "label": 1}\n{"id"', ":2: no JSON"),
        ("[1]", "is an object"),
        ('{"id": "a", "label": [1]}', "no number"),
    ],
)
def test_a_file_of_labels_that_is_wrong_says_where(tmp_path: Path, content: str, said: str) -> None:
    held = Documents([documents(tmp_path, [{"id": "a", "text": "t"}])])
    (tmp_path / "labels.jsonl").write_text(content)
    with pytest.raises(UserError, match=said):
        from_file(tmp_path / "labels.jsonl", "label", held)


def test_grades_truth_values_and_names_become_classes() -> None:
    assert as_classes({"a": 2, "b": 3, "c": 5}, 3, 3.0, "h").truth.tolist() == [0, 1, 1]
    assert as_classes({"a": 0, "b": 1}, 2, 3.0, "h").truth.tolist() == [0, 1]
    assert as_classes({"a": True, "b": False}, 2, 3.0, "h").classes == ["bad", "good"]
    named = as_classes({"a": "x", "b": "y", "c": "x"}, 3, 3.0, "h")
    assert named.classes == ["x", "y"] and named.truth.tolist() == [0, 1, 0]
    wrong = (({}, "belongs to a document"), ({"a": 1, "b": "x"}, "some labels"), ({"a": 4}, "nothing to learn"))
    for labels, said in wrong:
        with pytest.raises(UserError, match=said):
            as_classes(labels, 3, 3.0, "h")


def test_the_world_labels_its_pages(tmp_path: Path) -> None:
    rows = [
        {"url": row["url"], "date": row["date"], "text": f"{i}", "id": f"{i}"} for i, row in enumerate(tiny_truth())
    ]
    labels, found = from_world(tiny_world(), "good", Documents([documents(tmp_path, rows)]))
    assert found == len(rows)
    visits = {}
    for index, row in enumerate(tiny_truth()):
        visits[row["url"], row["date"]] = row["expected"] in ("kept", "deduplicated")
        assert labels[str(index)] in (True, False)
    kept = np.mean(list(visits.values()))
    assert 0.5 < kept < 1 and np.mean(list(labels.values())) == pytest.approx(kept, abs=0.02)


def test_a_model_is_asked_about_a_sample_by_hash(tmp_path: Path) -> None:
    rows = [{"id": f"d{n}", "text": f"Page number {n} about mills."} for n in range(40)]
    held, head = Documents([documents(tmp_path, rows)]), HeadSettings(rubric="general")
    with serving(by_number) as server:
        small, asked, _ = from_model(head, settings(server.url, tmp_path / "c"), held, 5, seed=0)
        large, _, bill = from_model(head, settings(server.url, tmp_path / "c"), held, 15, seed=0)
    assert asked == 5 and set(small) < set(large) and bill.cached == 5
