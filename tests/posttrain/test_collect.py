"""Preferences: which answers make a pair, what the simulated annotator and a judge say of it, what is written down."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.quality.settings import EndpointSettings
from herdbook.inference.sampler import Sampling
from herdbook.posttrain.annotators import JUDGE_PROMPT, STRENGTHS, Judge, Pair, Simulated, read_verdict, well_formed
from herdbook.posttrain.asking import Drawer, read_requests
from herdbook.posttrain.collect import collect, pairs_of
from herdbook.posttrain.round_settings import AskSettings, CollectSettings, TasteSettings
from herdbook.posttrain.writer import EndpointWriter
from herdbook.settings import UserError
from tests.corpus.fake_endpoint import Answer, serving
from tests.support.chains import digits, write_chain, write_requests

ANSWER = {"role": "assistant", "content": "7"}
RIGHT = digits({"7": 0.5, "3": 0.5}, 1.0)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain(tmp_path_factory.mktemp("chain"), RIGHT)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_requests(tmp_path_factory.mktemp("world"), 300)


def settings(**changes: Any) -> CollectSettings:
    return CollectSettings(**{"max_tokens": 3, "kept_back": 0.0, **changes})


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "preferences" / "preferences.jsonl").read_text().splitlines()]


def pairs(count: int, answers: tuple[str, str] = ("7", "3"), reference: str | None = "7") -> list[Pair]:
    check = {"kind": "number", "value": "7"}
    asked = [{"role": "user", "content": "how many?"}]
    return [
        Pair({"id": f"r{i}", "messages": asked, "reference": reference, "check": check}, answers) for i in range(count)
    ]


def test_the_pair_is_of_both_models_and_the_chosen_answer_is_the_right_one(
    tmp_path: Path, chain: Path, requests: Path
) -> None:
    other = write_chain(tmp_path / "other", digits({"5": 1.0}, 1.0))
    exact = {"noise": 0.0, "edits": 0.0, "slips": 0.0}
    figures = collect(settings(taste=exact, round=3), {"a": chain, "b": other}, requests, tmp_path)
    rows = rows_of(tmp_path)
    assert figures["agreement"] == {**figures["agreement"], "value": 1.0}
    assert len(rows) == figures["preferences"] == 300
    asked = {row["id"]: row["messages"] for row in read_requests(requests, settings())}
    for row in rows:
        texts = [row[side][0]["content"] for side in ("chosen", "rejected")]
        assert row["prompt"] == asked[row["id"]] and row["round"] == 3 and row["edited"] is None
        assert texts in (["7", "5"], ["3", "5"], ["5", "3"])  # one of each model
        assert set(row["source"].split(" / ")) == {"a", "b"}
    right = [row for row in rows if row["chosen"][0]["content"] == "7"]
    assert {row["strength"] for row in right} == {"significantly better"}
    assert 0.4 < len(right) / len(rows) < 0.6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "preferences"]


def test_what_is_written_is_what_trl_reads(tmp_path: Path, chain: Path, requests: Path) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    collect(settings(limit=20), {"a": chain}, requests, tmp_path)
    for row in rows_of(tmp_path):
        example = {key: row[key] for key in ("prompt", "chosen", "rejected")}
        assert data_utils.is_conversational(example)
        assert data_utils.maybe_extract_prompt(example) == example


def test_two_models_that_are_the_same_give_different_words_and_sampling_others(
    tmp_path: Path, chain: Path, requests: Path
) -> None:
    figures = collect(settings(draws=2), {"a": chain, "b": chain}, requests, tmp_path)
    assert abs(figures["pairs"] / 300 - 0.5) < 4 * math.sqrt(0.25 / 300)  # two draws of two words
    how = AskSettings(max_tokens=3, kept_back=0.0)
    asked = [(row, row["messages"]) for row in read_requests(requests, how)]
    drawn = [
        [row["answers"][0] for row in Drawer(chain, how, purpose).draw(asked, 1)]
        for purpose in ("collect 0", "collect 1", "sample")
    ]
    for one, other in itertools.combinations(drawn, 2):
        same = sum(a == b for a, b in zip(one, other, strict=True)) / len(asked)
        assert abs(same - 0.5) < 4 * math.sqrt(0.25 / len(asked))


def test_requests_whose_answers_all_agree_make_no_pair(tmp_path: Path, chain: Path, requests: Path) -> None:
    figures = collect(settings(draws=2), {"a": chain}, requests, tmp_path)
    share = figures["dropped"]["no_pair"] / 300  # two draws of two equally likely answers agree half of the time
    assert abs(share - 0.5) < 3 * math.sqrt(0.25 / 300)
    sure = write_chain(tmp_path / "sure", digits({"5": 1.0}, 1.0))
    with pytest.raises(UserError, match="two answers that ended and differ"):
        collect(settings(), {"a": sure}, requests, tmp_path)


DRAWN = st.lists(st.tuples(st.sampled_from(["x", "y", "z", "w", ""]), st.booleans()), min_size=1, max_size=4)


@given(st.lists(DRAWN, min_size=1, max_size=3))
def test_a_pair_is_found_whenever_there_is_one(drawn: list[list[tuple[str, bool]]]) -> None:
    rows = [
        {"model": str(i), "answers": [a for a, _ in own], "ended": [e for _, e in own]} for i, own in enumerate(drawn)
    ]
    count = min(map(len, drawn))
    rows = [{**row, "answers": row["answers"][:count], "ended": row["ended"][:count]} for row in rows]
    able = {(row["model"], a) for row in rows for a, e in zip(row["answers"], row["ended"], strict=True) if e and a}
    many = pairs_of({"id": "r"}, rows, 9)
    assert len({pair.id for pair in many}) == len(many) and pairs_of({"id": "r"}, rows, 1) == many[:1]
    said = [answer for pair in many for answer in pair.answers]
    assert len(set(said)) == len(said) and len(many) == len({answer for _, answer in able}) // 2
    found = many[0] if many else None
    assert (found is None) == (len({answer for _, answer in able}) < 2)
    if found is not None:
        assert found.answers[0] != found.answers[1]
        assert set(zip(found.models, found.answers, strict=True)) <= able
        first = (found.models[0], found.answers[0])
        others = {model for model, answer in able if answer != first[1]}
        assert (found.models[1] != first[0]) == bool(others - {first[0]})  # of another model where that can be


def test_the_simulated_annotator_errs_as_often_as_its_noise_says() -> None:
    noise, many = 0.6, pairs(4000)
    taste = TasteSettings(noise=noise, length=0.0, form=0.0, slips=0.0)
    judged = Simulated(taste, 1).annotate(many)
    wrong = sum(found.chosen == 1 for found in judged if found is not None) / len(many)
    expected = 0.5 * math.erfc(1 / (noise * math.sqrt(2)) / math.sqrt(2))  # two noises against a distance of 1
    assert abs(wrong - expected) < 4 * math.sqrt(expected * (1 - expected) / len(many))
    assert Simulated(taste, 1).annotate(many) == judged != Simulated(taste, 2).annotate(many)


def test_slips_turn_the_truth_round_and_a_second_judgement_agrees_as_often_as_both_slip_or_neither(
    tmp_path: Path, chain: Path, requests: Path
) -> None:
    taste: dict[str, Any] = {"noise": 0.0, "length": 0.0, "form": 0.0, "slips": 0.2}
    judged = Simulated(TasteSettings(**taste), 1).annotate(pairs(4000))
    wrong = sum(found.chosen == 1 for found in judged if found is not None) / 4000
    assert abs(wrong - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 4000)
    figures = collect(settings(draws=8, taste=taste), {"a": chain}, requests, tmp_path)
    repeated = figures["repeated"]["all"]  # each answer is a 7 or a 3, so verifiers tell every pair apart
    assert repeated["n"] == figures["pairs"] > 250 and figures["repeated"]["significantly better"] == repeated
    assert abs(repeated["value"] - (0.8**2 + 0.2**2)) < 4 * math.sqrt(0.68 * 0.32 / repeated["n"])


def test_a_request_makes_as_many_pairs_as_are_asked_for_and_its_answers_suffice_for(
    tmp_path: Path, requests: Path
) -> None:
    many = write_chain(tmp_path / "many", digits({str(digit): 0.125 for digit in range(1, 9)}, 1.0))
    figures = collect(settings(draws=8, pairs=3, limit=100), {"a": many}, requests, tmp_path)
    rows = rows_of(tmp_path)
    assert 220 < len(rows) == figures["preferences"] <= 300 and figures["dropped"]["no_pair"] == 0
    assert len({row["id"] for row in rows}) == len(rows)
    by_prompt: dict[str, list[str]] = {}
    for row in rows:
        said = by_prompt.setdefault(json.dumps(row["prompt"]), [])
        said += [row[side][0]["content"] for side in ("chosen", "rejected")]
    assert len(by_prompt) == 100 and all(len(set(said)) == len(said) for said in by_prompt.values())


def test_strength_taste_and_edits_are_as_set() -> None:
    exact = TasteSettings(noise=0.0, edits=0.5)
    assert [Simulated(exact, 0).strength(d) for d in (0.9, 0.6, 0.4, 0.2, 0.1)] == [
        STRENGTHS[0], STRENGTHS[0], STRENGTHS[1], STRENGTHS[2], STRENGTHS[3],
    ]  # fmt: skip
    longer = TasteSettings(noise=0.0, length=0.1, form=0.0)
    (found,) = Simulated(longer, 0).annotate(pairs(1, ("3", "3 3 3 3 3 3")))
    assert found is not None and found.chosen == 1
    wrong = Simulated(exact, 0).annotate(pairs(1000, ("4", "5")))
    edited = [found.edited for found in wrong if found is not None]
    assert set(edited) == {None, "7"} and 430 < edited.count("7") < 570
    assert all(found is not None and found.edited is None for found in Simulated(exact, 0).annotate(pairs(50)))
    unchecked = [Pair({**pair.request, "check": None}, pair.answers) for pair in pairs(2)]
    assert Simulated(exact, 0).annotate(unchecked) == [None, None]
    assert well_formed("It is 7.") and not well_formed("It is,") and not well_formed("a\na")


def judge_settings(url: str, **more: Any) -> EndpointSettings:
    return EndpointSettings(
        **{"base_url": url, "model": "m", "pause": 0.01, "tries": 2, "parallel": 4, "timeout": 5, **more}
    )


def prefers_seven(body: dict[str, Any], _: int) -> Answer:
    shown = body["messages"][0]["content"]
    found = re.search(r"<answer_a>\n(.*?)\n</answer_a>", shown, re.DOTALL)
    assert found
    return f"The other is wrong.\nVerdict: {'A' if found[1] == '7' else 'B'} slightly better"


def test_a_judge_is_asked_in_either_order_and_understood(tmp_path: Path, chain: Path, requests: Path) -> None:
    with serving(prefers_seven) as server:
        figures = collect(
            settings(annotator="judge", judge=judge_settings(server.url), limit=40), {"a": chain}, requests, tmp_path
        )
        first = [body["messages"][0]["content"].split("<answer_a>\n")[1][0] for body in server.bodies]
    rows = rows_of(tmp_path)
    assert {row["chosen"][0]["content"] for row in rows} == {"7"}
    assert {row["strength"] for row in rows} == {"slightly better"}
    assert 0.2 < first.count("7") / len(first) < 0.8  # it stands first as often as second
    assert figures["judge"]["tokens_in"] == 100 * len(rows)


def test_what_many_threads_were_told_at_once_is_all_on_the_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(body: dict[str, Any], name: str) -> int:
        time.sleep(0.003)  # so that threads meet between reading a sum and writing it
        return 1

    monkeypatch.setattr("herdbook.corpus.quality.client.tokens", slow)
    monkeypatch.setattr("herdbook.posttrain.writer.tokens", slow)
    with serving(prefers_seven) as server:
        judge, writer = Judge(judge_settings(server.url)), EndpointWriter(judge_settings(server.url))
        judge.annotate(pairs(40))
        writer.write([[{"role": "user", "content": JUDGE_PROMPT}]] * 40, Sampling())
        judge.close()
        writer.client.close()
    assert (judge.bill["tokens_in"], judge.bill["tokens_out"], writer.tokens_in, writer.tokens_out) == (40,) * 4


def test_one_model_is_in_memory_at_a_time(
    tmp_path: Path, chain: Path, requests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Drawer] = weakref.WeakSet()

    class Watched(Drawer):
        def __init__(self, folder: Path, settings: AskSettings, purpose: str) -> None:
            assert not alive
            super().__init__(folder, settings, purpose)
            alive.add(self)

    monkeypatch.setattr("herdbook.posttrain.collect.Drawer", Watched)
    collect(settings(limit=20), {"a": chain, "b": chain}, requests, tmp_path)


def test_nonsense_is_asked_again_then_dropped_and_an_address_that_is_down_is_told(tmp_path: Path) -> None:
    def sometimes(body: dict[str, Any], _: int) -> Answer:
        if "r0?" in json.dumps(body) or len(body["messages"]) == 1:
            return "Both have merits."
        return prefers_seven(body, 0)

    asked = pairs(8)
    asked[0] = Pair({**asked[0].request, "messages": [{"role": "user", "content": "r0?"}]}, asked[0].answers)
    with serving(sometimes) as server:
        judge = Judge(judge_settings(server.url))
        judged = judge.annotate(asked)
        assert judged[0] is None and all(found is not None and found.chosen == 0 for found in judged[1:])
        assert judge.bill["nonsense"] == 1 and len(server.bodies) == 16
        judge.close()
    with serving(lambda body, number: 500) as server, pytest.raises(UserError, match="see whether it runs"):
        Judge(judge_settings(server.url)).annotate(asked)
    with serving(lambda body, number: 401) as server, pytest.raises(UserError, match="api_key_env"):
        Judge(judge_settings(server.url)).annotate(asked)


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("Verdict: A significantly better", (0, "significantly better")),
        ("Because.\n**Verdict: B better**", (1, "better")),
        ("verdict: b is marginally better.", (1, "marginally better")),
        ("A better", None),
        ("Verdict: C better", None),
        ("Verdict: A better\nVerdict: B better", None),
        ("Verdict: A much better", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_strictly(answer: str, meant: tuple[int, str] | None) -> None:
    found = read_verdict(answer)
    assert (None if found is None else (found.chosen, found.strength)) == meant


def test_settings_that_cannot_be_are_told() -> None:
    with pytest.raises(ValueError, match="give judge"):
        settings(annotator="judge")
    with pytest.raises(ValueError, match="must fall"):
        TasteSettings(strengths=(0.1, 0.5, 0.6))


def test_requests_that_dialogs_tell_already_are_not_asked(tmp_path: Path, chain: Path, requests: Path) -> None:
    file = requests / "requests" / "train.jsonl"
    asked = [json.loads(line) for line in file.read_text().splitlines()]
    told = [{"id": one["id"], "messages": [{"role": "user", "content": "else"}, ANSWER]} for one in asked[:40]]
    told += [{"messages": [*one["messages"], ANSWER]} for one in asked[40:50]]
    known = tmp_path / "known"
    (known / "dialogs").mkdir(parents=True)
    (known / "dialogs" / "some.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))
    left = [one["id"] for one in asked[50:]]
    plain = AskSettings(kept_back=0.0)
    assert [one["id"] for one in read_requests(requests, plain, known=[known])] == left and left
    out = tmp_path / "out"
    figures = collect(settings(draws=8), {"m": chain}, requests, out, [known])
    assert figures["requests"] == len(left)
    assert {row["id"].split("/")[0] for row in rows_of(out)} <= set(left)
    (known / "dialogs" / "all.jsonl").write_text(
        "".join(json.dumps({"messages": [*one["messages"], ANSWER]}) + "\n" for one in asked)
    )
    with pytest.raises(UserError, match="no requests are left by tasks, kept_back and known"):
        read_requests(requests, plain, known=[known])
